"""ONNX export: free sizes, a check against torch before the file is kept, and nothing left behind when it fails."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pellucid.errors import DependencyError, InputError, WeightsError
from pellucid.hub import onnx


class Halves(nn.Module):
    """Two inputs, two outputs, sizes that must be even."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        first = self.conv(torch.cat([x, y], dim=1))
        return first, nn.functional.interpolate(nn.functional.max_pool2d(first, 2), scale_factor=2.0)


def arguments() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 8, 12, generator=generator), torch.rand(2, 1, 8, 12, generator=generator)


def export(path: Path, module: nn.Module | None = None, **options: bool) -> Path:
    torch.manual_seed(0)
    module = module or Halves().eval()
    return onnx.export(module, arguments(), path, inputs=("x", "y"), outputs=("a", "b"), stride=2, **options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_batch_and_size_stay_free(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module = Halves().eval()
    path = export(tmp_path / "net.onnx", module)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == ["x", "y"]
    assert [entry.name for entry in session.get_outputs()] == ["a", "b"]
    for batch, height, width in ((1, 2, 2), (3, 20, 6)):
        x, y = torch.rand(batch, 3, height, width), torch.rand(batch, 1, height, width)
        found = session.run(None, {"x": x.numpy(), "y": y.numpy()})
        for ours, theirs in zip(module(x, y), found, strict=True):
            assert torch.allclose(ours, torch.from_numpy(theirs), atol=1e-5)
    with pytest.raises(InputError, match="exists"):
        export(path)
    before = path.read_bytes()
    assert export(path, module, overwrite=True).read_bytes()[:8] == before[:8]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_file_that_computes_something_else_is_not_kept(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Fickle(Halves):
        """Says something else when it is traced."""

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            first, second = super().forward(x, y)
            return (first + 1 if torch.compiler.is_compiling() else first), second

    with pytest.raises(WeightsError, match="'a' differs from torch"):
        export(tmp_path / "net.onnx", Fickle().eval())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["onnxruntime", "onnxscript"])
def test_without_the_extra_the_error_says_what_to_install(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing == "onnxscript":
        pytest.importorskip("onnxruntime")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DependencyError, match=missing) as caught:
        export(tmp_path / "net.onnx")
    assert "pellucid[export]" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
