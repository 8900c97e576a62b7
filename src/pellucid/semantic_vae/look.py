"""How the result of an edit is shown: a generator of faces and one style, kept while the mask changes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from pellucid.io.image import as_stack
from pellucid.semantic_vae.faces.generators import Generator, complete_style

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """A generator with the style of one face: the same style on an edited mask shows the edit and nothing else.

    Attributes:
        generator: what renders.
        style: made by it.
        seed: of its own noise.
        name: for the meta data.
    """

    generator: Generator
    style: Any
    seed: int = 0
    name: str = ""

    @classmethod
    def make(
        cls,
        generator: Generator,
        labels: Tensor,
        photo: Any | None = None,
        style: Any | None = None,
        *,
        seed: int = 0,
        name: str = "",
    ) -> Look:
        """Take the style of a photo, or the one that is given, or the generator's mean style.

        Args:
            generator: what renders.
            labels: ids ``(H, W)``, the mask of the photo.
            photo: as `io.load_image` takes it; of another size it is brought to the mask's.
            style: made by the generator; goes before the photo's.
            seed, name: as above.

        Raises:
            InputError: the photo cannot be read.
            WeightsError: the generator knows no mean style.
        """
        if style is None and photo is not None:
            picture = as_stack(photo).composite()[:3]
            style = generator.style(_sized(picture, labels, "the photo"), labels.cpu())
        elif style is None:
            style = generator.mean_style()
        return cls(generator, style, seed, name)

    def picture(self, labels: Tensor) -> Tensor:
        """Render a mask ``(H, W)``: sRGB ``(3, H, W)`` in [0, 1]; classes that the style lacks are completed."""
        labels = labels.cpu()
        style = complete_style(self.generator, self.style, labels)
        return _sized(self.generator.render(labels, style, self.seed), labels, "the rendering")


def _sized(picture: Tensor, labels: Tensor, what: str) -> Tensor:
    if picture.shape[-2:] == labels.shape:
        return picture
    log.info("%s of %s is brought to the mask's %s", what, tuple(picture.shape[-2:]), tuple(labels.shape))
    size = (int(labels.shape[0]), int(labels.shape[1]))
    return F.interpolate(picture[None], size, mode="bilinear", antialias=True)[0].clamp(0.0, 1.0)
