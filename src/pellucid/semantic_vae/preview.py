"""The preview renderer: a face drawn from its mask, without weights (spec of the room, section 6.2).

It is a drawing and not a photograph. It shows what an edit of the mask does, in the colours of a style, and it is quick
enough to follow a slider.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.preview_roles import Role, roles_of
from pellucid.semantic_vae.preview_scene import FACE, Scene, make_scene
from pellucid.semantic_vae.preview_features import draw_ears, draw_features
from pellucid.semantic_vae.preview_hair import hair_color
from pellucid.semantic_vae.preview_skin import backdrop, ear_skin, face_skin, marks_of, neck_skin, plain_shape
from pellucid.semantic_vae.preview_style import PreviewStyle, style_from
from pellucid.semantic_vae.preview_things import cloth_color, glasses_color, hat_color, metal_color


class PreviewRenderer:
    """Draws label maps; a `Generator` like the networks.

    Args:
        classes: what the labels mean. Classes are drawn by their names; a name that is not known is a plain shape.
        supersampling: pixels of the canvas for one of the label map, along each axis.

    Raises:
        ConfigError: ``supersampling`` is not 1 to 4.
    """

    def __init__(self, classes: ClassSet = CELEBAMASK_HQ, supersampling: int = 2) -> None:
        if supersampling not in (1, 2, 3, 4):
            raise ConfigError(f"supersampling must be 1 to 4, found {supersampling}")
        self.classes = classes
        self.supersampling = supersampling
        self._roles = roles_of(classes)

    def style(self, image: Tensor, labels: Tensor) -> PreviewStyle:
        """Take the style of a picture: the mean colours of its parts, see `style_from`."""
        return style_from(image, labels, self.classes)

    def mean_style(self) -> PreviewStyle:
        """The plain style, which was taken from nobody."""
        return PreviewStyle()

    @torch.no_grad()
    def render(self, labels: Tensor, style: PreviewStyle | None = None, seed: int = 0) -> Tensor:
        """Draw a mask.

        Args:
            labels: ``(H, W)`` ids of the class set, any integer type; at least 8 pixels a side.
            style: colours and light; the plain style when None.
            seed: of strands and folds; the colours are the style's.

        Returns:
            ``(3, H, W)`` float32 sRGB in [0, 1], on the CPU.

        Raises:
            InputError: the label map has another form, or ids that the class set does not have.
        """
        scene = self._scene(labels, seed)
        chosen = style or PreviewStyle()
        painted = self._painted(scene, chosen)
        picture = torch.zeros(3, *scene.size)
        for role, cover in scene.covers.items():
            picture += cover * painted[role]
        return _reduced(picture, self.supersampling)

    def _painted(self, scene: Scene, style: PreviewStyle) -> dict[Role, Tensor]:
        """Every group of the picture as if it filled the canvas: ``(3, H, W)`` each."""
        marks = marks_of(scene)
        painted: dict[Role, Tensor] = {}
        if scene.has_any(*FACE, Role.GLASSES):
            face = scene.up(face_skin(scene, style, marks))
            draw_features(face, scene, style, marks)
            painted[Role.SKIN] = face
        for role in scene.covers:
            if role is Role.BACKGROUND:
                painted[role] = scene.up(backdrop(scene, style))
            elif role is Role.NECK:
                painted[role] = scene.up(neck_skin(scene, style, marks))
            elif role is Role.EAR:
                painted[role] = scene.up(ear_skin(scene, style))
                draw_ears(painted[role], scene, style)
            elif role is Role.HAIR:
                painted[role] = hair_color(scene, style)
            elif role is Role.CLOTH:
                painted[role] = cloth_color(scene, style, marks)
            elif role is Role.HAT:
                painted[role] = hat_color(scene, style)
            elif role is Role.JEWEL:
                painted[role] = metal_color(scene, style)
            elif role is Role.GLASSES:
                painted[role] = glasses_color(scene, style, painted[Role.SKIN])
            elif role is Role.OTHER:
                painted[role] = scene.up(plain_shape(scene, scene.coarse[role], style.cloth, style.light))
        return painted

    def _scene(self, labels: Tensor, seed: int) -> Scene:
        if labels.ndim != 2 or labels.is_floating_point() or labels.is_complex() or min(labels.shape) < 8:
            raise InputError(
                f"labels must be (H, W) of whole numbers, at least 8 x 8, found {tuple(labels.shape)} {labels.dtype}"
            )
        found = labels.detach().cpu()
        low, high = int(found.min()), int(found.max())
        if low < 0 or high >= len(self._roles):
            raise InputError(
                f"labels hold id {low if low < 0 else high}, the class set {self.classes.name!r} has 0 to "
                f"{len(self._roles) - 1}"
            )
        return make_scene(found, self._roles, self.supersampling, seed)


def _reduced(picture: Tensor, factor: int) -> Tensor:
    """Mean of blocks of pixels: ``(3, factor * H, factor * W)`` -> ``(3, H, W)`` in [0, 1]."""
    return torch.nn.functional.avg_pool2d(picture[None], factor)[0].clamp(0.0, 1.0)
