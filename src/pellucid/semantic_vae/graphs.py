"""The network as two ONNX files: encode once, decode at every move of a slider (Sec. 3.2)."""

from pathlib import Path

import torch
from torch import Tensor, nn

from pellucid.hub.onnx import export
from pellucid.semantic_vae.model import SemanticVAE

ENCODER = "encoder.onnx"
DECODER = "decoder.onnx"


class EncoderGraph(nn.Module):
    """Planes of the parts ``(B, P, S, S)``, 1 inside and 0 outside, to mean and log-variance ``(B, P, L)``."""

    def __init__(self, model: SemanticVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = self.model.encode_planes(planes)
        return mu, logvar


class DecoderGraph(nn.Module):
    """Codes ``(B, P, L)`` and the LSTM's first state to logits ``(B, C, S, S)``.

    The state's h and c come batch first, ``(B, layers x directions, hidden)``, so that the batch is every input's first
    axis; zeros are the default of `SemanticVAE.decode`.
    """

    def __init__(self, model: SemanticVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor, h0: Tensor, c0: Tensor) -> Tensor:
        state = (h0.transpose(0, 1).contiguous(), c0.transpose(0, 1).contiguous())
        return self.model.decode(z, state)


class StatelessDecoderGraph(DecoderGraph):
    """The decoder of a network without LSTM: codes ``(B, P, L)`` to logits ``(B, C, S, S)``."""

    def forward(self, z: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.model.decode(z)


def export_onnx(model: SemanticVAE, folder: str | Path, *, overwrite: bool = False) -> tuple[Path, Path]:
    """Write ``encoder.onnx`` and ``decoder.onnx``, each checked against torch; only the batch is free.

    The encoder takes ``planes`` and gives ``mu`` and ``logvar``; the decoder takes ``z``, ``h0`` and ``c0`` and gives
    ``logits``, see `DecoderGraph`. Without an LSTM it takes ``z`` alone.

    Args:
        model: in eval mode, on the CPU.
        folder: made if it is not there.
        overwrite: replace existing files.

    Returns:
        The two files.

    Raises:
        DependencyError: the extra ``export`` is not installed.
        WeightsError: a file's outputs differ from torch's.
    """
    folder, config = Path(folder), model.config
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    planes = torch.rand(2, len(config.parts), config.size, config.size, generator=generator)
    z = torch.randn(2, len(config.parts), config.latent, generator=generator)
    encoder = export(
        EncoderGraph(model).eval(),
        [planes],
        folder / ENCODER,
        inputs=["planes"],
        outputs=["mu", "logvar"],
        stride=None,
        overwrite=overwrite,
    )
    directions = 2 if config.bidirectional else 1
    state = [torch.zeros(2, config.lstm_layers * directions, config.lstm_hidden) for _ in ("h0", "c0")]
    decoder = export(
        (DecoderGraph(model) if config.lstm_layers else StatelessDecoderGraph(model)).eval(),
        [z, *state] if config.lstm_layers else [z],
        folder / DECODER,
        inputs=["z", "h0", "c0"] if config.lstm_layers else ["z"],
        outputs=["logits"],
        stride=None,
        overwrite=overwrite,
    )
    return encoder, decoder
