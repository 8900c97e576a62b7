"""From a face mask to a face: what every generator can do, and how one is opened.

Three kinds: the drawn preview, which needs no weights, and networks of the SPADE and SEAN layouts, whose weights the
user brings. All take a label map and a style, and none changes the mask: the same style on an edited mask is the edit.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from pellucid.errors import WeightsError

if TYPE_CHECKING:
    from pellucid.semantic_vae.masks.classes import ClassSet

log = logging.getLogger(__name__)

PREVIEW = "preview"


@runtime_checkable
class Generator(Protocol):
    """A renderer of face masks. A style is the generator's own kind of value: only pass it to the one that made it."""

    @property
    def classes(self) -> ClassSet:
        """The class set whose ids the label maps hold."""
        ...

    def style(self, image: Tensor, labels: Tensor) -> Any:
        """Take the style of a picture.

        Args:
            image: ``(3, H, W)`` sRGB in [0, 1].
            labels: ``(H, W)`` uint8, the classes of the picture's pixels.
        """
        ...

    def render(self, labels: Tensor, style: Any, seed: int = 0) -> Tensor:
        """Render a mask: ``(H, W)`` uint8 -> ``(3, H, W)`` float32 sRGB in [0, 1]; one seed, one picture."""
        ...

    def mean_style(self) -> Any:
        """Return a style that stands for no person: for masks that come without a picture.

        Raises:
            WeightsError: the generator cannot know one.
        """
        ...


@runtime_checkable
class CompletesStyles(Protocol):
    """A generator whose styles may lack classes: those that are not in the picture they were taken from."""

    def complete(self, style: Any, labels: Tensor, reference: Any | None = None) -> Any:
        """Give every class of ``labels`` a style; see `complete_style`."""
        ...


def complete_style(generator: Generator, style: Any, labels: Tensor, reference: Any | None = None) -> Any:
    """Give a style to classes that an edit has added and the picture did not have (Sec. 5.2 of SEAN).

    In this order: the mirror class where the picture has it (a left ear for a right one), the reference, the mean
    style. A generator whose styles are always whole gets its style back.

    Args:
        generator: the one that made ``style`` and ``reference``.
        style: of the picture that is edited.
        labels: ``(H, W)`` uint8, the edited mask.
        reference: style of another picture.
    """
    return generator.complete(style, labels, reference) if isinstance(generator, CompletesStyles) else style


def open_generator(
    source: str | Path = PREVIEW,
    *,
    classes: ClassSet | None = None,
    mean_style: str | Path | None = None,
    noise: float = 1.0,
    device: str = "auto",
) -> Generator:
    """Open a generator.

    Args:
        source: ``"preview"``; or the path of a generator's weights in the SPADE or SEAN layout (``latest_net_G.pth`` or
            safetensors, or a folder that a recipe of this room wrote). The kind is found by the keys.
        classes: the class set of the masks; CelebAMask-HQ's 19 when None.
        mean_style: file of the mean style codes for a SEAN generator, see `style_codes.load_codes`.
        noise: strength of SEAN's noise; 0 leaves it out.
        device: of the networks; the preview is drawn on the CPU.

    Raises:
        WeightsError: nothing is there, or it is no generator of a known layout; a wrong key is named.
        ConfigError: the weights are for another number of classes.
    """
    from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ

    wanted = CELEBAMASK_HQ if classes is None else classes
    if str(source) == PREVIEW:
        from pellucid.semantic_vae.preview.renderer import PreviewRenderer

        return PreviewRenderer(wanted)
    path = Path(source).expanduser()
    if not path.exists():
        raise WeightsError(
            f"generator {str(source)!r} is not there",
            f"use {PREVIEW!r}, or the path of SPADE or SEAN generator weights (latest_net_G.pth)",
        )
    from pellucid.semantic_vae.faces.network_generators import open_network

    return open_network(path, wanted, mean_style=mean_style, noise=noise, device=device)
