"""The pipeline of face parts: any mask in, a stack of its size out, and nothing changed that nobody edited."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.semantic_vae.editing import Operation, dilated, history_from_json, keep_unedited
from pellucid.semantic_vae.fitting import Editing
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.masks.mask_files import Mask, from_stack
from pellucid.semantic_vae.model import SemanticVAE, SemanticVAEConfig
from pellucid.semantic_vae.pipeline import FacePartsPipeline
from pellucid.semantic_vae.priors import fit_priors

HQ = CELEBAMASK_HQ
SIDE = 32
TINY: dict[str, Any] = {
    "size": SIDE,
    "encoder_side": 16,
    "encoder_widths": (32,),
    "latent": 16,
    "lstm_layers": 1,
    "lstm_hidden": 8,
    "ff_width": 16,
    "channels": (8, 8, 8, 8),
    "groups": 4,
}


def make(classes: ClassSet = HQ, editing: Editing | None = None, **config: Any) -> FacePartsPipeline:
    """Random weights whose masks hold many classes and depend on the codes."""
    torch.manual_seed(0)
    sizes = {"classes": len(classes), "background": classes.background}
    model = SemanticVAE(SemanticVAEConfig(**(TINY | sizes | config)))
    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.xavier_normal_(module.weight, gain=1.5)
    return FacePartsPipeline(model, classes, "test/random", editing=editing, device="cpu")


def face(height: int = SIDE, width: int | None = None) -> Tensor:
    """Skin with hair above, two eyes, a nose and a mouth; no hat."""
    width = width or height
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    labels = torch.zeros(height, width, dtype=torch.uint8)
    labels[(rows - 0.5) ** 2 + (columns - 0.5) ** 2 < 0.16] = 1
    labels[(labels == 1) & (rows < 0.3)] = 13
    for part, y, x, r in ((4, 0.45, 0.65, 0.06), (5, 0.45, 0.35, 0.06), (2, 0.58, 0.5, 0.05), (12, 0.75, 0.5, 0.06)):
        labels[(rows - y) ** 2 + (columns - x) ** 2 < r * r] = part
    return labels


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pipe() -> FacePartsPipeline:
    return make()


class Plain:
    """A generator that paints every class in one grey of the style."""

    classes = HQ

    def style(self, image: Tensor, labels: Tensor) -> float:
        return float(image.mean())

    def mean_style(self) -> float:
        return 0.5

    def render(self, labels: Tensor, style: float, seed: int = 0) -> Tensor:
        return torch.full((3, *labels.shape), style)


# Any mask


@pytest.mark.parametrize("size", [(SIDE, SIDE), (64, 64), (48, 90), (91, 40), (16, 16)])
def test_the_stack_has_the_masks_size_and_one_layer_a_class(pipe: FacePartsPipeline, size: tuple[int, int]) -> None:
    mask = face(*size)
    stack = pipe(mask, [Operation("generate", ("hair",))])
    assert (stack.height, stack.width) == size
    assert torch.stack([layer.alpha for layer in stack.layers]).sum(dim=0).eq(1).all()  # type: ignore[arg-type]
    labels = from_stack(stack, HQ)
    assert labels.shape == size
    assert torch.equal(labels, pipe.edit(mask, [Operation("generate", ("hair",))]))


def test_random_weights_decode_to_many_classes_that_follow_the_codes(pipe: FacePartsPipeline) -> None:
    codes = pipe.encode(face())
    plain, other = pipe.decode(codes.mu), pipe.decode(codes.mu + 1)
    assert len(plain.unique()) > 4
    assert (plain != other).any()
    assert plain.dtype == torch.uint8
    assert plain.shape == (SIDE, SIDE)


def test_without_edits_the_mask_comes_back(pipe: FacePartsPipeline) -> None:
    mask = face(70, 50)
    assert torch.equal(pipe.edit(mask, ()), mask)
    assert torch.equal(from_stack(pipe(mask), HQ), mask)
    whole = pipe.edit(mask, (), keep_unedited=False, stray_guard=False)
    assert not torch.equal(whole, mask)


def test_pixels_outside_the_radius_are_the_masks_own_at_full_size(pipe: FacePartsPipeline) -> None:
    fine = face(128)
    fine[::2, ::2][fine[::2, ::2] == 13] = 1  # detail that the network's size cannot hold
    edited = pipe.edit(fine, [Operation("generate", ("nose",))], radius=24.0)
    # One pixel of the network's size more, which is four here: the region is found there.
    far = ~dilated((fine == 2) | (edited == 2), 24 / 256 * 128 + 128 / SIDE * 2)
    assert torch.equal(edited[far], fine[far])
    assert not torch.equal(edited, fine)
    assert far.any()


def test_at_the_networks_size_it_is_keep_unedited(pipe: FacePartsPipeline) -> None:
    mask, history = face(), [Operation("generate", ("nose", "eyes"))]
    whole = pipe.edit(mask, history, keep_unedited=False)
    wanted = keep_unedited(mask, whole, (2, 4, 5), radius=16 * SIDE / 256)
    assert torch.equal(pipe.edit(mask, history, radius=16), wanted)


def test_a_batch_is_edited_as_its_masks_are(pipe: FacePartsPipeline) -> None:
    masks = torch.stack([face(), face().flip(1)])
    history = [Operation("perturb", ("hair",)), Operation("generate", ("nose",))]
    both = pipe.edit(masks, history)
    for index in (0, 1):
        assert (both[index] != pipe.edit(masks[index], history)).double().mean() < 0.01
    assert pipe.encode(masks)[1].present.tolist() == pipe.encode(masks[1]).present.tolist()


# Seeds


def test_one_seed_gives_one_result(pipe: FacePartsPipeline) -> None:
    history = [Operation("generate", ("hair",)), Operation("perturb", ("nose",))]
    one, same, other = (from_stack(pipe(face(), history, seed=seed, keep_unedited=False), HQ) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_first_state_matters_only_where_it_is_noise() -> None:
    for mode, differs in (("zeros", False), ("noise", True)):
        pipe = make(init_state=mode)
        z = pipe.encode(face()).mu
        one, same, other = (pipe.decode(z, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert torch.equal(one, other) is not differs
        assert torch.equal(pipe.decode(torch.stack([z, z]), seed=1)[1], one)


def test_the_meta_data_replay_the_edit(pipe: FacePartsPipeline) -> None:
    import json

    stack = pipe(face(), [Operation("generate", ("hair",)), Operation("perturb", ("nose",))], seed=7)
    assert (stack.meta.method, stack.meta.weights, stack.meta.seed) == ("semantic_vae", "test/random", 7)
    parameters = json.loads(json.dumps(stack.meta.parameters))
    history = history_from_json(json.dumps(parameters["history"]))
    assert all(operation.seed is not None for operation in history)
    again = pipe(face(), history, seed=99)
    assert torch.equal(from_stack(again, HQ), from_stack(stack, HQ))
    plain = pipe(face(), parameters["history"], seed=98)
    assert torch.equal(from_stack(plain, HQ), from_stack(stack, HQ))
    with pytest.raises(ConfigError, match="'explode'"):
        pipe(face(), [{"kind": "explode", "parts": ["hair"]}])


def test_variants_differ_and_do_not_depend_on_how_many(pipe: FacePartsPipeline) -> None:
    history = [Operation("generate", ("hair",), seed=3)]
    four = [from_stack(one, HQ) for one in pipe.variants(face(), history, 4, keep_unedited=False)]
    two = [from_stack(one, HQ) for one in pipe.variants(face(), history, 2, keep_unedited=False)]
    assert all(torch.equal(one, other) for one, other in zip(four, two, strict=False))
    assert len({one.numpy().tobytes() for one in four}) == 4
    with pytest.raises(ConfigError, match="draws"):
        list(pipe.variants(face(), [Operation("remove", ("hair",))]))
    with pytest.raises(ConfigError, match="at least 1"):
        list(pipe.variants(face(), history, 0))


# Presence


def test_no_stray_class_in_many_edits(pipe: FacePartsPipeline) -> None:
    mask = face()
    there, strays = set(mask.unique().tolist()), 0
    for seed in range(12):
        for kind in ("generate", "perturb", "add"):
            labels = pipe.edit(mask, [Operation(kind, ("hair", "hat"), seed=seed)])
            allowed = there | ({14} if kind == "add" else set())
            assert set(labels.unique().tolist()) <= allowed
            free = pipe.edit(mask, [Operation(kind, ("hair", "hat"), seed=seed)], stray_guard=False)
            strays += not set(free.unique().tolist()) <= allowed
    assert strays  # these weights do make strays, so the guard had work to do


def test_a_removed_part_is_gone(pipe: FacePartsPipeline) -> None:
    labels = pipe.edit(face(), [Operation("remove", ("hair", "nose"))])
    assert not ((labels == 13) | (labels == 2)).any()


def test_absent_parts_have_the_absent_code(pipe: FacePartsPipeline) -> None:
    codes = pipe.encode(face())
    mu, _ = pipe.model.absent_code()
    assert torch.allclose(codes.mu[~codes.present], mu.expand(int((~codes.present).sum()), -1), atol=1e-6)
    assert not codes.present[HQ.parts.index(14)]


# References


def test_a_reference_is_a_mask_or_a_file_that_the_edit_names(pipe: FacePartsPipeline, tmp_path: Path) -> None:
    other = face().flip(0)
    from PIL import Image

    path = tmp_path / "other.png"
    picture = Image.fromarray((HQ.colored(other).permute(1, 2, 0) * 255).byte().numpy())
    picture.save(path)
    swap = Operation("swap", ("hair",), reference="friend")
    given = from_stack(pipe(face(), [swap], references={"friend": other}), HQ)
    named = from_stack(pipe(face(), [replace(swap, reference=str(path))]), HQ)
    assert torch.equal(given, named)
    assert torch.equal(given, pipe.edit(face(), [swap], references={"friend": pipe.encode(other)}))
    with pytest.raises(ConfigError, match="'friend', there are: none"):
        pipe(face(), [swap])


def test_a_reference_of_another_class_set_is_refused(pipe: FacePartsPipeline) -> None:
    six = ClassSet("six", ("background", "skin", "hair", "eyes", "nose", "mouth"))
    swap = Operation("swap", ("hair",), reference="friend")
    with pytest.raises(InputError, match="six"):
        pipe(face(), [swap], references={"friend": Mask(face().clamp(max=5), six)})


def test_label_maps_that_do_not_fit_are_refused(pipe: FacePartsPipeline) -> None:
    with pytest.raises(InputError, match="found 19"):
        pipe.encode(torch.full((SIDE, SIDE), 19, dtype=torch.uint8))
    with pytest.raises(InputError, match="whole numbers"):
        pipe.encode(torch.zeros(SIDE, SIDE))
    with pytest.raises(InputError, match="whole numbers"):
        pipe.encode(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8))
    with pytest.raises(ConfigError, match="radius"):
        pipe.edit(face(), (), radius=-1)


# Other class sets


@pytest.mark.parametrize("background", [0, None, 2])
def test_any_class_set_is_edited(background: int | None) -> None:
    names = ["a", "b", "c", "d"]
    classes = ClassSet("four", tuple(names), background=background)
    pipe = make(classes)
    mask = torch.randint(0, 4, (SIDE, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    stack = pipe(mask, [Operation("generate", ("d",)), Operation("remove", ("b",))])
    assert set(stack.names) <= set(names)
    assert from_stack(stack, classes).shape == mask.shape


def test_weights_and_class_set_must_agree() -> None:
    model = SemanticVAE(SemanticVAEConfig(**TINY))
    with pytest.raises(WeightsError, match="19 classes"):
        FacePartsPipeline(model, ClassSet("two", ("a", "b")), device="cpu")


# Priors, attributes, sampling


class Along:
    names = ("hair_length",)

    def offsets(self, attribute: str) -> Mapping[int, Tensor]:
        return {13: torch.full((16,), 0.7)}


def test_fitted_priors_and_attributes_are_used(pipe: FacePartsPipeline) -> None:
    generator = torch.Generator().manual_seed(0)
    mu = torch.randn(60, 18, 16, generator=generator) + 2
    present = torch.ones(60, 18, dtype=torch.bool)
    present[:, HQ.parts.index(14)] = False
    fitted = make(editing=Editing(fit_priors(mu, mu * 0 - 9, present), Along()))  # type: ignore[arg-type]
    assert torch.equal(pipe.sample(2, seed=1), fitted.sample(2, seed=1, prior="standard")) is False
    masks = fitted.sample(4, seed=1)
    assert masks.shape == (4, SIDE, SIDE)
    assert torch.equal(masks[:2], fitted.sample(2, seed=1))
    assert not (masks == 14).any()
    drawn = [fitted.edit(face(), [Operation("generate", ("hair",), prior=one)]) for one in ("standard", None)]
    assert not torch.equal(*drawn)
    moved = [fitted.edit(face(), [Operation("move", amount=t, attribute="hair_length")]) for t in (0.0, 3.0)]
    assert not torch.equal(*moved)
    with pytest.raises(ConfigError, match="empirical"):
        pipe.sample(1, prior="empirical")


# Rendering


def test_a_rendering_fills_the_layers_and_keeps_the_photos_style(pipe: FacePartsPipeline) -> None:
    photo = torch.full((3, 80, 80), 0.25)
    stack = pipe(face(64), [Operation("generate", ("hair",))], render=Plain(), photo=photo)
    assert torch.allclose(stack.composite()[:3], torch.full((3, 64, 64), 0.25))
    assert stack.meta.parameters["render"] == "Plain"
    assert torch.allclose(pipe.render(face(), backend=Plain()), torch.full((3, SIDE, SIDE), 0.5))
    assert pipe(face(64), render=Plain(), style=0.75).composite()[:3].mean() == pytest.approx(0.75)
    with pytest.raises(ConfigError, match="no renderer"):
        pipe(face(), photo=photo)


def test_the_preview_renders_what_was_edited(pipe: FacePartsPipeline) -> None:
    stack = pipe(face(64), [Operation("remove", ("hair",))], render="preview", seed=1)
    picture = stack.composite()[:3]
    assert picture.shape == (3, 64, 64)
    assert 0.0 <= picture.min() <= picture.max() <= 1.0
    assert picture.std() > 0.01


# Files


def test_weights_survive_their_folder(tmp_path: Path) -> None:
    classes = ClassSet("four", ("none", "a", "b", "c"))
    pipe = make(classes)
    pipe.save_pretrained(tmp_path / "w", card="A test.")
    again = FacePartsPipeline.from_pretrained(tmp_path / "w", device="cpu")
    assert again.classes.fingerprint() == classes.fingerprint()
    assert again.weights.startswith("semantic_vae/w@")
    mask = torch.randint(0, 4, (SIDE, SIDE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    history = [Operation("generate", ("a",))]
    assert torch.equal(again.edit(mask, history), pipe.edit(mask, history))
