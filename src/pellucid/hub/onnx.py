"""Networks as ONNX files, for those who run them elsewhere; checked against torch before the file is kept."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pellucid.errors import DependencyError, WeightsError
from pellucid.io.files import atomic_path

TOLERANCE = 1e-3  # of the largest output; runtimes order their sums differently


def export(
    module: nn.Module,
    arguments: Sequence[Tensor],
    path: str | Path,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    stride: int | None = 1,
    overwrite: bool = False,
) -> Path:
    """Write a network whose batch and, for pictures, size stay free, and compare it with torch at a second size.

    Args:
        module: the network, in eval mode, on the CPU.
        arguments: example inputs ``(B, C, H, W)``, B of at least 2; without ``stride`` of any shape ``(B, ...)``.
        path: where to write, ``.onnx``.
        inputs: names of the inputs.
        outputs: names of the outputs.
        stride: H and W must be multiples of this; the file says so. None leaves only the batch free.
        overwrite: replace an existing file.

    Raises:
        DependencyError: the extra ``export`` is not installed.
        WeightsError: the file's outputs differ from torch's.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise DependencyError(f"ONNX export needs {error.name}", "pip install 'pellucid[export]'") from error
    batch = torch.export.Dim("batch", min=1)
    rows, columns = torch.export.Dim("rows", min=1), torch.export.Dim("columns", min=1)
    free = {0: batch} if stride is None else {0: batch, 2: stride * rows, 3: stride * columns}
    with atomic_path(path, overwrite) as part:
        program = torch.onnx.export(
            module,
            tuple(arguments),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple(free for _ in arguments),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.save(str(part))
        session = onnxruntime.InferenceSession(str(part), providers=["CPUExecutionProvider"])
        other = [_of_other_size(argument, stride) for argument in arguments]
        for given in (list(arguments), other):
            found = session.run(None, {name: value.numpy() for name, value in zip(inputs, given, strict=True)})
            with torch.no_grad():
                wanted = module(*given)
            wanted = wanted if isinstance(wanted, tuple) else (wanted,)
            for name, ours, theirs in zip(outputs, wanted, found, strict=True):
                gap = float((ours - torch.from_numpy(theirs)).abs().max() / ours.abs().max().clamp(min=1e-6))
                if gap > TOLERANCE:
                    raise WeightsError(f"{path}: ONNX output {name!r} differs from torch by {gap:.1e} of its range")
    return Path(path)


def _of_other_size(argument: Tensor, stride: int | None) -> Tensor:
    if stride is None:
        return torch.rand(1, *argument.shape[1:], generator=torch.Generator().manual_seed(0))
    height, width = argument.shape[-2] + stride, argument.shape[-1] - stride
    return torch.rand(1, argument.shape[1], height, width, generator=torch.Generator().manual_seed(0))
