"""The one table that every command prints."""

from pellucid.metrics.tables import markdown_table, markdown_tables


def test_columns_are_the_union_and_missing_cells_stay_empty():
    table = markdown_table([{"system": "input", "PSNR": 22.1}, {"system": "ours", "PSNR": 23.456, "SSIM": 0.7}])
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert lines[0] == ["system", "PSNR", "SSIM"]
    assert lines[2] == ["input", "22.10", ""]
    assert lines[3] == ["ours", "23.46", "0.700"]


def test_lines_are_aligned_and_figures_stand_on_the_right():
    table = markdown_table([{"a": "x", "n": 3}, {"a": "longer", "n": 12}])
    assert len({len(line) for line in table.splitlines()}) == 1
    assert table.splitlines()[1].endswith("-: |")
    assert table.splitlines()[2].endswith(" 3 |")


def test_other_figures_begin_another_table():
    rows = [{"system": "a", "PSNR": 1.0}, {"system": "b", "SSIM": 0.5, "PSNR": 2.0}, {"system": "b", "accuracy": 0.9}]
    assert markdown_tables(rows) == f"{markdown_table(rows[:2])}\n\n{markdown_table(rows[2:])}"
    assert markdown_tables([]) == ""
