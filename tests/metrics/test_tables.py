import pytest

from pellucid.errors import ConfigError
from pellucid.metrics import NOTHING, markdown_table


def test_doing_nothing_comes_first_and_gaps_stay_empty():
    rows = {"ours": {"PSNR": 22.716, "SSIM": 0.8004}, NOTHING: {"PSNR": 22.1, "SSIM": 0.7663, "LPIPS": None}}
    assert markdown_table(rows, ["PSNR", "SSIM", "LPIPS"], protocol="disk").splitlines() == [
        "| disk | PSNR | SSIM | LPIPS |",
        "|---|---:|---:|---:|",
        "| input (doing nothing) | 22.10 | 0.766 |  |",
        "| ours | 22.72 | 0.800 |  |",
    ]


def test_a_table_without_doing_nothing_is_refused():
    with pytest.raises(ConfigError, match="doing nothing"):
        markdown_table({"ours": {"PSNR": 1.0}}, ["PSNR"], protocol="disk")


def test_no_figure_is_hidden():
    with pytest.raises(ConfigError, match="'ours' has figures that no column shows: SSIM"):
        markdown_table({NOTHING: {}, "ours": {"SSIM": 1.0}}, ["PSNR"], protocol="disk")
