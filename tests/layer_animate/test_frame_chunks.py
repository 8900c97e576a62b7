"""Spatial layers on chunks of frames: the same answer, with less of the clip in memory at once."""

import pytest
import torch
from torch import Tensor

from pellucid.layer_animate.model import LayerAnimate, build, preset
from pellucid.layer_animate.sampling.frame_chunks import frame_chunks


@pytest.fixture(scope="module")
def model() -> LayerAnimate:
    """Inter-Frame Attention with an output that is not zero."""
    made = build(preset("tiny"), generator_seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in made.unet.named_parameters():
            if "to_out_ifa" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return made


def _run(model: LayerAnimate, frames: int, base: int) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    latents = torch.randn(2, 4, frames, 4, 4, generator=generator)
    text = torch.randn(2, 3, 16, generator=generator).repeat_interleave(frames, dim=0)
    with torch.no_grad(), model.context.changed(num_frames=frames, base_index=base):
        return model.unet(latents, 500, text, return_dict=False)[0]


@pytest.mark.parametrize("chunk", [1, 2, 4, 16])
@pytest.mark.parametrize(("frames", "base"), [(1, 0), (5, 2), (8, 0), (8, 7)])
def test_chunked_is_unchunked(model: LayerAnimate, frames: int, base: int, chunk: int) -> None:
    plain = _run(model, frames, base)
    with frame_chunks(model.unet, model.context, chunk):
        chunked = _run(model, frames, base)
    assert torch.allclose(chunked, plain, atol=2e-5)
    assert model.context.source == "live"
    assert not model.context.kept
    with model.context.changed(enabled=False):
        assert frames == 1 or not torch.allclose(_run(model, frames, base), plain, atol=1e-3)


def test_layers_see_a_chunk_and_the_base_frame(model: LayerAnimate) -> None:
    rows: list[int] = []
    layer = model.unet.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn1")
    handle = layer.register_forward_pre_hook(lambda _, arguments: rows.append(arguments[0].shape[0]))
    try:
        with frame_chunks(model.unet, model.context, 3):
            _run(model, 8, 2)
    finally:
        handle.remove()
    assert rows == [2, 6, 6, 2]  # the base frames of two clips, then the seven others by threes
