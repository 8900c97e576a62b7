"""Inter-Frame Attention: Eq. 3, what it may see, and what it leaves alone."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from tests.layer_animate.filled import fill
from torch import Tensor

from pellucid.errors import ConfigError
from pellucid.layer_animate.attention.attach import (
    attach_ifa,
    attach_spatial,
    detach,
    ifa_parameters,
    ifa_state,
    train_only_ifa,
)
from pellucid.layer_animate.attention.processor import FrameContext, SpatialAttentionProcessor, projections
from pellucid.layer_animate.attention.spatial import decoder_layers
from pellucid.layer_animate.model import build_unet, motion_off, preset

GOLDEN = Path(__file__).parent / "golden" / "inter_frame_attention.npz"
FRAMES, BASE = 5, 2


@pytest.fixture(scope="module")
def made() -> UNetMotionModel:
    torch.manual_seed(0)
    return build_unet(preset("tiny")).eval()


@pytest.fixture
def unet(made: UNetMotionModel) -> Iterator[UNetMotionModel]:
    made.requires_grad_(True)
    yield made
    detach(made)
    made.zero_grad()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(unet: UNetMotionModel, latents: Tensor) -> Tensor:
    batch, frames = latents.shape[0], latents.shape[2]
    return unet(latents, 500, encoder_hidden_states=noise(batch, 6, 16, seed=9).repeat_interleave(frames, 0)).sample


def awake(unet: UNetMotionModel) -> None:
    """Give the reference a voice, as training would."""
    with torch.no_grad():
        for i, parameter in enumerate(ifa_parameters(unet)):
            parameter.add_(0.3 * noise(*parameter.shape, seed=i))


def golden_attention() -> tuple[Attention, SpatialAttentionProcessor, np.lib.npyio.NpzFile]:
    golden = np.load(GOLDEN)
    attn = Attention(32, heads=int(golden["heads"]), dim_head=8)
    context = FrameContext(num_frames=FRAMES, base_index=int(golden["base_index"]))
    processor = SpatialAttentionProcessor("attn", context)
    processor.add_ifa(attn.to_q.weight, 32)
    attn.set_processor(processor)  # pyright: ignore[reportArgumentType]
    fill(attn, "attn.")
    return attn, processor, golden


def test_equation_3_in_double_precision() -> None:
    attn, processor, golden = golden_attention()
    states = torch.from_numpy(golden["X"])
    torch.testing.assert_close(attn.double()(states), torch.from_numpy(golden["out"]), rtol=0, atol=1e-9)
    processor.context.scale = 0.5
    half = torch.from_numpy(golden["self_out"] + 0.5 * golden["ifa_out"])
    torch.testing.assert_close(attn(states), half, rtol=0, atol=1e-9)
    processor.context.enabled = False
    torch.testing.assert_close(attn(states), torch.from_numpy(golden["self_out"]), rtol=0, atol=1e-9)


def test_equation_3_in_single_precision() -> None:
    attn, _, golden = golden_attention()
    out = attn(torch.from_numpy(golden["X"]).float())
    torch.testing.assert_close(out, torch.from_numpy(golden["out"]).float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near_and_its_weights_may_be_single(dtype: torch.dtype) -> None:
    attn, processor, golden = golden_attention()
    attn.to(dtype)
    assert processor.to_q_ifa is not None
    assert processor.to_out_ifa is not None
    processor.to_q_ifa.float()
    processor.to_out_ifa.float()
    out = attn(torch.from_numpy(golden["X"]).to(dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), torch.from_numpy(golden["out"]), rtol=0, atol=0.03)


def test_keys_and_values_are_computed_once_and_not_copied_for_each_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    attn, _, golden = golden_attention()
    shapes: list[tuple[int, ...]] = []
    projected: list[int] = []
    plain = F.scaled_dot_product_attention

    def recorded(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        shapes.append(tuple(key.shape))
        return plain(query, key, value, attn_mask=attn_mask)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    projections(attn)["to_k"].register_forward_hook(lambda *_: projected.append(1))
    attn(torch.from_numpy(golden["X"]).float().repeat(2, 1, 1))
    assert shapes == [(2 * FRAMES, 4, 12, 8), (2, 4, 12, 8)]
    assert len(projected) == 1


def test_attaching_changes_no_bit_and_touches_no_motion_module(unet: UNetMotionModel) -> None:
    latents = noise(2, 4, FRAMES, 8, 8)
    before = run(unet, latents)
    motion = {name: held for name, held in unet.attn_processors.items() if "motion_modules" in name}
    names = attach_ifa(unet, FrameContext(FRAMES, BASE))
    assert torch.equal(run(unet, latents), before)
    assert len(unet.attn_processors) == len(motion) + 2 * len(names)
    assert all(unet.attn_processors[name] is held for name, held in motion.items())
    awake(unet)
    assert not torch.allclose(run(unet, latents), before)


def test_only_the_new_matrices_are_trained_the_output_first(unet: UNetMotionModel) -> None:
    attach_ifa(unet, FrameContext(FRAMES, BASE))
    parameters = train_only_ifa(unet)
    optimiser = torch.optim.SGD(parameters, 0.1)

    def moved() -> set[str]:
        unet.zero_grad()
        run(unet, noise(1, 4, FRAMES, 8, 8)).square().mean().backward()
        return {name for name, p in unet.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}

    first = moved()
    assert first == {key for key in ifa_state(unet) if "to_out_ifa" in key}
    optimiser.step()
    assert moved() == set(ifa_state(unet))
    assert {name for name, p in unet.named_parameters() if p.requires_grad} == set(ifa_state(unet))


def test_a_frame_sees_itself_and_the_base_and_no_other(unet: UNetMotionModel) -> None:
    attach_ifa(unet, FrameContext(FRAMES, BASE))
    awake(unet)
    latents = noise(1, 4, FRAMES, 8, 8)
    other, base = latents.clone(), latents.clone()
    other[:, :, 4] += 1
    base[:, :, BASE] += 1
    with motion_off(unet), torch.no_grad():
        before, after, based = run(unet, latents), run(unet, other), run(unet, base)
    assert torch.equal(after[:, :, :4], before[:, :, :4])
    assert not torch.allclose(after[:, :, 4], before[:, :, 4])
    assert all(not torch.allclose(based[:, :, i], before[:, :, i]) for i in range(FRAMES))


def test_reordered_frames_give_reordered_answers(unet: UNetMotionModel) -> None:
    context = FrameContext(FRAMES, BASE)
    attach_ifa(unet, context)
    awake(unet)
    latents, order = noise(1, 4, FRAMES, 8, 8), [3, 0, 4, 2, 1]
    with motion_off(unet), torch.no_grad():
        before = run(unet, latents)
        with context.changed(base_index=order.index(BASE)):
            after = run(unet, latents[:, :, order])
    torch.testing.assert_close(after, before[:, :, order], rtol=1e-4, atol=1e-5)


def test_queries_in_chunks_give_the_same_answer(unet: UNetMotionModel) -> None:
    context = FrameContext(FRAMES, BASE)
    attach_ifa(unet, context)
    awake(unet)
    latents = noise(2, 4, FRAMES, 8, 8)
    with torch.no_grad():
        whole = run(unet, latents)
        with context.changed(query_chunk=2):
            torch.testing.assert_close(run(unet, latents), whole, rtol=1e-4, atol=1e-5)


def test_a_clip_in_pieces_after_its_base_frame_gives_the_same_answer(unet: UNetMotionModel) -> None:
    context = FrameContext(FRAMES, BASE)
    attach_ifa(unet, context)
    awake(unet)
    latents = noise(2, 4, FRAMES, 8, 8)
    with motion_off(unet), torch.no_grad():
        whole = run(unet, latents)
        with context.changed(num_frames=1, base_index=0, source="capture"):
            base = run(unet, latents[:, :, BASE : BASE + 1])
        with context.changed(source="kept"):
            context.num_frames = 2
            first = run(unet, latents[:, :, :2])
            context.num_frames = 3
            last = run(unet, latents[:, :, 2:])
    torch.testing.assert_close(torch.cat([first, last], 2), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(base[:, :, 0], whole[:, :, BASE], rtol=1e-4, atol=1e-5)
    assert len(context.kept) == len(ifa_state(unet)) // 3


def test_one_captured_base_serves_both_branches_of_guidance(unet: UNetMotionModel) -> None:
    context = FrameContext(1, 0, source="capture")
    attach_ifa(unet, context)
    awake(unet)
    latents = noise(1, 4, 3, 8, 8)
    with torch.no_grad():
        run(unet, noise(1, 4, 1, 8, 8, seed=4))
        context.source, context.num_frames = "kept", 3
        one, both = run(unet, latents), run(unet, latents.repeat(2, 1, 1, 1, 1))
        torch.testing.assert_close(both[:1], one, rtol=1e-4, atol=1e-5)
        context.kept = {name: (k.repeat(3, 1, 1, 1), v.repeat(3, 1, 1, 1)) for name, (k, v) in context.kept.items()}
        with pytest.raises(ConfigError, match="3 base frames"):
            run(unet, latents.repeat(2, 1, 1, 1, 1))


def test_replaced_keys_let_every_frame_draw_from_the_base(unet: UNetMotionModel) -> None:
    context = FrameContext(FRAMES, BASE, replace=frozenset(decoder_layers(unet)))
    attach_spatial(unet, context)
    attn = dict(unet.named_modules())[decoder_layers(unet)[0]]
    states = noise(FRAMES, 16, attn.to_q.in_features)
    out = attn(states)
    mixed = attn(states[:1], encoder_hidden_states=states[BASE : BASE + 1])  # as if the base were the text
    torch.testing.assert_close(out[:1], mixed, rtol=1e-4, atol=1e-5)
    context.replace = frozenset()
    assert not torch.allclose(attn(states)[:1], mixed, atol=1e-3)


def test_gradient_checkpointing_gives_the_same_gradients(unet: UNetMotionModel) -> None:
    attach_ifa(unet, FrameContext(FRAMES, BASE))
    awake(unet)
    parameters = train_only_ifa(unet)
    found = []
    for checkpointing in (False, True):
        unet.enable_gradient_checkpointing() if checkpointing else unet.disable_gradient_checkpointing()
        unet.train()  # diffusers checkpoints in training mode only
        loss = run(unet, noise(1, 4, FRAMES, 8, 8).requires_grad_()).square().mean()
        found.append(torch.autograd.grad(loss, parameters))
    unet.eval()
    unet.disable_gradient_checkpointing()
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-6)


def test_frames_that_do_not_fit_are_named(unet: UNetMotionModel) -> None:
    context = FrameContext(FRAMES, FRAMES)
    attach_ifa(unet, context)
    with pytest.raises(ConfigError, match="base index 5 is not one of the 5 frames"):
        run(unet, noise(1, 4, FRAMES, 8, 8))
    context.num_frames, context.base_index = 4, 0
    with pytest.raises(ConfigError, match="5 pictures does not hold whole clips of 4"):
        run(unet, noise(1, 4, FRAMES, 8, 8))
    context.source = "kept"
    context.num_frames = 5
    with pytest.raises(ConfigError, match="no keys of a base frame"):
        run(unet, noise(1, 4, FRAMES, 8, 8))
    with pytest.raises(ConfigError, match="has no bass_index"), context.changed(bass_index=1):
        pass
