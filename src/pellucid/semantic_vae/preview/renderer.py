"""The preview renderer: a face drawn from its mask, without weights (spec of the room, section 6.2).

It is a drawing and not a photograph. It shows what an edit of the mask does, in the colours of a style, and it is quick
enough to follow a slider.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.preview.features import draw_features, ear_color
from pellucid.semantic_vae.preview.hair import hair_color
from pellucid.semantic_vae.preview.roles import Role, roles_of
from pellucid.semantic_vae.preview.scene import FACE, Box, Scene, block_means, make_scene
from pellucid.semantic_vae.preview.skin import Marks, backdrop, face_skin, marks_of, neck_skin
from pellucid.semantic_vae.preview.style import Color, PreviewStyle, mixed, random_style, style_from
from pellucid.semantic_vae.preview.things import cloth_color, glasses_color, hat_color, metal_color, other_color


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

    def random_style(self, seed: int) -> PreviewStyle:
        """A style that a seed draws, see `preview_style.random_style`."""
        return random_style(seed)

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
        picture = torch.zeros(3, *scene.size)
        marks = marks_of(scene)
        canvas = self._face(scene, chosen, marks)
        for role, cover in scene.covers.items():
            for box in scene.boxes_of(role):
                painted = self._painted(scene, chosen, role, marks, box, canvas)
                picture[:, box.rows, box.columns].addcmul_(painted, cover[box.rows, box.columns])
        return _reduced(picture, self.supersampling)

    def _face(self, scene: Scene, style: PreviewStyle, marks: Marks) -> Tensor:
        """The face as if nothing covered it: ``(3, H, W)`` of the canvas, empty where it is not."""
        canvas = torch.zeros(3, *scene.size)
        if not scene.has_any(*FACE, Role.GLASSES):
            return canvas
        box = scene.box_of(*FACE, Role.GLASSES)
        canvas[:, box.rows, box.columns] = scene.up(face_skin(scene, style, marks), box)
        draw_features(canvas, scene, style, marks)
        return canvas

    def _painted(self, scene: Scene, style: PreviewStyle, role: Role, marks: Marks, box: Box, face: Tensor) -> Tensor:
        """A group of the picture as if it filled its piece of the canvas: ``(3, H, W)``."""
        match role:
            case Role.SKIN:
                return face[:, box.rows, box.columns]
            case Role.GLASSES:
                return glasses_color(scene, style, face[:, box.rows, box.columns], box)
            case Role.BACKGROUND:
                return scene.up(backdrop(scene, style), box)
            case Role.NECK:
                return scene.up(neck_skin(scene, style, marks), box)
            case Role.EAR:
                return ear_color(scene, style, box)
            case Role.HAIR:
                return hair_color(scene, style, box)
            case Role.CLOTH:
                return cloth_color(scene, style, box)
            case Role.HAT:
                return hat_color(scene, style, box)
            case Role.JEWEL:
                return metal_color(scene, style, box)
            case _:
                return other_color(scene, self._other_colors(scene, style), style.light, box)

    def _other_colors(self, scene: Scene, style: PreviewStyle) -> dict[int, Color]:
        """Colours of the classes without a drawing of their own: the style's, else the set's, muted."""
        given = dict(style.others)
        found: dict[int, Color] = {}
        for one in scene.ids.get(Role.OTHER, ()):
            red, green, blue = self.classes.colors[one]
            plain = mixed((red / 255, green / 255, blue / 255), (0.6, 0.58, 0.56), 0.45)
            found[one] = given.get(self.classes.names[one], plain)
        return found

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
    return block_means(picture, factor, factor).clamp_(0.0, 1.0)
