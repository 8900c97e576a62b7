"""Clips without a network: the picture standing still, and the picture moved as the text says."""

import pytest
import torch

from pellucid.errors import ConfigError, InputError
from pellucid.layer_animate.baselines.procedural import named_motion, static_clip, warped_clip
from pellucid.layer_animate.clips.drawn import draw_rgba


@pytest.fixture(scope="module")
def base() -> torch.Tensor:
    picture = torch.zeros(4, 32, 48)
    picture[:, 12:20, 20:28] = torch.tensor([0.9, 0.2, 0.1, 1.0])[:, None, None]
    return picture


def _middle(clip: torch.Tensor) -> torch.Tensor:
    """Where what is drawn stands, a row ``(y, x)`` a frame, in pixels."""
    alpha = clip[:, 3]
    total = alpha.sum(dim=(1, 2))
    y = (alpha.sum(dim=2) * torch.arange(alpha.shape[1])).sum(dim=1) / total
    x = (alpha.sum(dim=1) * torch.arange(alpha.shape[2])).sum(dim=1) / total
    return torch.stack([y, x], dim=1)


def test_static_shows_the_picture_in_every_frame(base: torch.Tensor) -> None:
    clip = static_clip(base, 5)
    assert clip.shape == (5, 4, 32, 48)
    assert all(torch.equal(frame, base) for frame in clip)
    clip[0].zero_()
    assert bool(base.any())  # not a view of what was given


@pytest.mark.parametrize("m", [0, 3, 7])
def test_warp_gives_the_base_picture_itself_at_its_index_and_moves_the_others(base: torch.Tensor, m: int) -> None:
    clip = warped_clip(base, "a red square, moving side to side", 8, base_index=m)
    assert torch.equal(clip[m], base)
    assert float(_middle(clip)[:, 1].std()) > 1.0
    assert float(_middle(clip)[:, 0].std()) < 0.1
    assert clip.min() >= 0
    assert clip.max() <= 1


def test_the_text_chooses_the_motion(base: torch.Tensor) -> None:
    def spread(text: str) -> torch.Tensor:
        return _middle(warped_clip(base, text, 16)).std(dim=0)

    up, side = spread("a ball moving up and down"), spread("a ball moving side to side")
    assert up[0] > 10 * up[1]
    assert side[1] > 10 * side[0]
    assert spread("a ball moving up and down gently")[0] < 0.7 * up[0]
    assert 0 < spread("a ball")[0] < 0.3 * up[0]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A frog, Jumping", "jumping"),
        ("a coin spinning and bouncing", "turning"),
        ("a card turning around", "flipping"),  # not "turning", which begins there too
        ("a turningpoint", None),
        ("", None),
    ],
)
def test_the_first_and_longest_phrase_names_the_motion(text: str, name: str | None) -> None:
    assert named_motion(text) == name


def test_one_seed_one_clip() -> None:
    picture = draw_rgba(1, 24, 3)[0]
    clips = [warped_clip(picture, "a thing changing shape", 6, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(clips[0], clips[1])
    assert not torch.equal(clips[0], clips[2])


def test_nothing_drawn_stands_still_and_is_said(caplog: pytest.LogCaptureFixture) -> None:
    empty = torch.zeros(4, 16, 16)
    assert torch.equal(warped_clip(empty, "spinning", 3), empty.expand(3, -1, -1, -1))
    assert "nothing is drawn" in caplog.text


def test_wrong_shapes_and_indices_are_refused(base: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"\(4, H, W\)"):
        static_clip(base[:3], 4)
    with pytest.raises(ConfigError, match="at least 1"):
        warped_clip(base, "spinning", 0)
    with pytest.raises(ConfigError, match="base index 4"):
        warped_clip(base, "spinning", 4, base_index=4)
