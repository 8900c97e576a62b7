"""The two ONNX files answer as torch does."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid.semantic_vae.graphs import DECODER, ENCODER, export_onnx
from pellucid.semantic_vae.model import SemanticVAEConfig, planes_of

from .test_model import SMALL, masks, network

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.mark.slow
@pytest.mark.parametrize("config", [SMALL, replace(SMALL, lstm_layers=0, bg_mode="official")], ids=["lstm", "none"])
def test_files_answer_as_torch_does(config: SemanticVAEConfig, tmp_path: Path) -> None:
    model = network(config)
    files = export_onnx(model, tmp_path / "graphs")
    assert files == (tmp_path / "graphs" / ENCODER, tmp_path / "graphs" / DECODER)
    encoder, decoder = (onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]) for file in files)
    labels = masks(config)
    with torch.no_grad():
        posterior = model.encode(labels)
        generator = torch.Generator().manual_seed(3)
        state = tuple(torch.randn(4, 3, 7, generator=generator) for _ in range(2))
        logits = model.decode(posterior.mu, state if config.lstm_layers else None)
    mu, logvar = encoder.run(None, {"planes": planes_of(labels, config).numpy()})
    assert np.abs(mu - posterior.mu.numpy()).max() < 1e-4
    assert np.abs(logvar - posterior.logvar.numpy()).max() < 1e-4
    given = {"z": posterior.mu.numpy()}
    if config.lstm_layers:
        given |= {name: value.transpose(0, 1).numpy() for name, value in zip(("h0", "c0"), state, strict=True)}
    (found,) = decoder.run(None, given)
    parts = list(config.parts)  # the public background steps from 0 to 1, and rounding may decide which
    assert np.abs(found[:, parts] - logits[:, parts].numpy()).max() < 1e-4
    assert (found.argmax(1) == logits.argmax(1).numpy()).mean() > 0.999
