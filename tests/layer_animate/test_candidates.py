"""The candidates of Table I: what each lets the network see, whose weights it wears, and that no trace of it stays."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.hub.pretrained import save_pretrained
from pellucid.layer_animate.attention.attach import ifa_state, save_ifa
from pellucid.layer_animate.baselines.adapters import adapter_state, make_adapters
from pellucid.layer_animate.baselines.candidates import (
    CANDIDATES,
    find_candidate,
    make_clip,
    part_state,
    read_learned,
    worn,
)
from pellucid.layer_animate.clips.drawn import draw_rgba
from pellucid.layer_animate.model import LayerAnimate, build, preset
from pellucid.layer_animate.sampling.sampler import Sampling
from pellucid.layer_animate.text import Vocabulary, WordConditioner

FRAMES, M = 5, 2
QUICK = Sampling(steps=2, guidance=1.0)
PROMPT = "a red ball turning"


@pytest.fixture(scope="module")
def model() -> LayerAnimate:
    """As if trained: Inter-Frame Attention says something."""
    made = build(preset("tiny"), generator_seed=1)
    torch.manual_seed(2)
    for value in ifa_state(made.unet).values():
        torch.nn.init.normal_(value, std=0.3)
    return made


@pytest.fixture(scope="module")
def words(model: LayerAnimate) -> WordConditioner:
    return WordConditioner(Vocabulary.basic(), model.text)


@pytest.fixture(scope="module")
def base() -> torch.Tensor:
    return draw_rgba(1, 32, 4)[0]


@pytest.fixture(autouse=True)
def model_as_it_was(model: LayerAnimate) -> Iterator[None]:
    """Whatever a candidate does to the model, nothing of it stays."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    context = dict(vars(model.context))
    yield
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert vars(model.context) == context
    assert not any(module._forward_hooks for module in model.unet.modules())


def _clip(name: str, model: LayerAnimate, words: WordConditioner, base: torch.Tensor, **given: object) -> torch.Tensor:
    options = {"model": model, "words": words, "frames": FRAMES, "sampling": QUICK, "seed": 3} | given
    return make_clip(name, base, PROMPT, **options)  # pyright: ignore[reportArgumentType]


def _moved(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(7)
    return {key: value + 0.3 * torch.randn(value.shape, generator=random) for key, value in state.items()}


def _learned(name: str, model: LayerAnimate) -> dict[str, torch.Tensor] | None:
    learns = find_candidate(name).learns
    if learns == "adapters":
        return _moved(adapter_state({where: make_adapters(model.unet, where, 2) for where in ("motion", "spatial")}))
    return _moved(part_state(model.unet, learns)) if learns else None


@pytest.mark.parametrize("name", CANDIDATES)
def test_every_candidate_makes_a_clip_the_same_for_the_same_seed(
    name: str, model: LayerAnimate, words: WordConditioner, base: torch.Tensor
) -> None:
    learned = _learned(name, model)
    clips = [_clip(name, model, words, base, learned=learned, seed=seed) for seed in (3, 3, 4)]
    assert clips[0].shape == (FRAMES, 4, 32, 32)
    assert clips[0].min() >= 0
    assert clips[0].max() <= 1
    assert torch.equal(clips[0], clips[1])
    if find_candidate(name).network:
        assert not torch.equal(clips[0], clips[2])


@pytest.mark.parametrize("name", CANDIDATES)
def test_who_sees_the_base_picture_and_where(
    name: str, model: LayerAnimate, words: WordConditioner, base: torch.Tensor
) -> None:
    learned = _learned(name, model)
    other = draw_rgba(1, 32, 9)[0]
    mine, theirs = (_clip(name, model, words, picture, learned=learned) for picture in (base, other))
    if name in ("naive", "motion_module", "still_moving", "still_moving_still"):
        assert torch.equal(mine, theirs)
        assert not any(torch.equal(frame, base) for frame in mine)
        return
    place = 0 if name == "first_frame" else M
    assert torch.equal(mine[place], base)
    assert not torch.equal(mine[1], theirs[1])
    assert find_candidate(name).frame_of_base(FRAMES) == place


def test_without_ifa_is_ours_at_no_strength(model: LayerAnimate, words: WordConditioner, base: torch.Tensor) -> None:
    ours, without = (_clip(name, model, words, base) for name in ("ours", "without_ifa"))
    weak = _clip("ours", model, words, base, sampling=Sampling(steps=2, guidance=1.0, reference_strength=0.0))
    assert not torch.equal(ours, without)
    assert torch.equal(without, weak)


def test_masactrl_replaces_keys_after_the_first_steps_alone(
    model: LayerAnimate, words: WordConditioner, base: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[frozenset[str]] = []
    run = model.unet.forward

    def watched(*args: object, **kwargs: object) -> object:
        seen.append(model.context.replace)
        return run(*args, **kwargs)

    monkeypatch.setattr(model.unet, "forward", watched)
    sampling = Sampling(steps=7, guidance=1.0)
    clip = _clip("masactrl", model, words, base, sampling=sampling)
    ups = {name for name in seen[-1]}
    assert seen[0] == frozenset()
    assert all(replaced == ups for replaced in seen[1:])
    assert ups
    assert all(name.startswith("up_blocks.") and name.endswith("attn1") for name in ups)
    assert not torch.equal(clip, _clip("without_ifa", model, words, base, sampling=sampling))


def test_motion_adapters_are_out_at_the_making_and_in_for_the_still_one(
    model: LayerAnimate, words: WordConditioner, base: torch.Tensor
) -> None:
    learned = _learned("still_moving", model)
    assert learned is not None
    moving, still = (
        _clip(name, model, words, base, learned=learned) for name in ("still_moving", "still_moving_still")
    )
    assert not torch.equal(moving, still)
    # At 0 the Motion Adapters' values do not matter, the Spatial Adapters' do.
    no_motion = {key: torch.zeros_like(v) if key.startswith("motion.") else v for key, v in learned.items()}
    no_spatial = {key: torch.zeros_like(v) if key.startswith("spatial.") else v for key, v in learned.items()}
    assert torch.equal(moving, _clip("still_moving", model, words, base, learned=no_motion))
    assert torch.equal(
        _clip("naive", model, words, base), _clip("still_moving", model, words, base, learned=no_spatial)
    )


def test_weights_are_read_from_all_that_trainings_write(model: LayerAnimate, tmp_path: Path) -> None:
    trained = build(preset("tiny"), generator_seed=5)
    ours, motion = find_candidate("ours"), find_candidate("motion_module")
    whole = save_pretrained(tmp_path / "whole", method="layer_animate", config={}, state=trained, card="A card.")
    for candidate in (ours, motion):
        found = read_learned(whole, candidate, model)
        with worn(model, candidate, found):
            worn_ones = part_state(model.unet, candidate.learns)
            theirs = part_state(trained.unet, candidate.learns)
            assert all(torch.equal(worn_ones[key], theirs[key]) for key in theirs)
            assert len(worn_ones) == len(theirs) > 0
    alone = save_ifa(tmp_path / "ifa", trained.unet, {}, dtype="float32").parent
    assert read_learned(alone, ours, model).keys() == part_state(model.unet, "ifa").keys()
    # A motion adapter of diffusers names its modules as the network does, with tables of positions.
    adapter = {key: value for key, value in trained.unet.state_dict().items() if "motion_modules" in key}
    (tmp_path / "adapter").mkdir()
    save_file(adapter, tmp_path / "adapter" / "diffusion_pytorch_model.safetensors")
    assert read_learned(tmp_path / "adapter", motion, model).keys() == part_state(model.unet, "motion").keys()


def test_wrong_weights_and_missing_ones_are_said(
    model: LayerAnimate, words: WordConditioner, base: torch.Tensor, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="'motion_module' needs weights of its own") as caught:
        _clip("motion_module", model, words, base)
    assert "stage = 'motion'" in caught.value.hint
    with pytest.raises(ConfigError, match="still_moving_still") as caught:
        _clip("still_moving_still", model, words, base)
    assert "still_moving" in caught.value.hint
    with pytest.raises(ConfigError, match="no weights of its own"):
        read_learned(tmp_path, find_candidate("naive"), model)
    with pytest.raises(WeightsError, match="holds no weights"):
        read_learned(tmp_path, find_candidate("ours"), model)
    save_file({"something.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"missing: .*to_q_ifa"):
        read_learned(tmp_path, find_candidate("ours"), model)
    motion_alone = {key: value for key, value in (_learned("still_moving", model) or {}).items() if key[0] == "m"}
    with pytest.raises(WeightsError, match="motion and spatial adapters, found motion"):
        _clip("still_moving", model, words, base, learned=motion_alone)
    with pytest.raises(ConfigError, match="candidate 'best' is not known"):
        make_clip("best", base, PROMPT)
    with pytest.raises(ConfigError, match="needs a model"):
        make_clip("ours", base, PROMPT)
    with pytest.raises(InputError, match=r"\(4, H, W\)"):
        _clip("ours", model, words, base[:3])


def test_an_error_on_the_way_leaves_the_model_as_it_was(
    model: LayerAnimate, words: WordConditioner, base: torch.Tensor
) -> None:
    for name in ("ours", "still_moving", "masactrl"):
        with pytest.raises(ConfigError, match="windows"):  # more frames than the motion modules know
            _clip(
                name,
                model,
                words,
                base,
                learned=_learned(name, model),
                frames=40,
                sampling=Sampling(steps=1, guidance=1.0, context_length=40),
            )


def test_pictures_of_odd_sizes_keep_their_size(model: LayerAnimate, words: WordConditioner) -> None:
    base = draw_rgba(1, 40, 2)[0][:, 3:38]
    clip = _clip("ours", model, words, base)
    assert clip.shape == (FRAMES, 4, 35, 40)
    assert torch.equal(clip[M], base)
