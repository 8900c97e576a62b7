"""FASSEG's frontal faces: six classes in colour pictures, and the way between them and the nineteen (section 1.4).

The repository does not say what its colours mean; place and area do. Its skin holds brows, ears and neck, so a network
of nineteen classes sees masks of a kind it was never shown: the figures say how it does then.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pellucid.errors import ConfigError
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.masks.part_files import load_picture

FASSEG = ClassSet(
    name="fasseg",
    names=("background", "skin", "hair", "nose", "mouth", "eyes"),
    colors=((255, 0, 0), (255, 255, 0), (127, 0, 0), (0, 255, 255), (0, 255, 0), (0, 0, 255)),
    optional=(2,),
)

_MERGED = {  # class of CelebAMask-HQ -> class of FASSEG; all others are skin
    "background": "background",
    "cloth": "background",
    "hat": "background",
    "hair": "hair",
    "nose": "nose",
    **dict.fromkeys(("mouth", "u_lip", "l_lip"), "mouth"),
    **dict.fromkeys(("l_eye", "r_eye"), "eyes"),
}


def read_fasseg(path: str | Path) -> Tensor:
    """Read a colour picture, every pixel as the nearest of the six colours: ``(H, W)`` uint8, ids of `FASSEG`.

    Anti-aliasing left some 33,000 colours in the files, and a border between yellow and red passes no third class, so
    the nearest colour is the right one.

    Raises:
        InputError: the file is no picture.
    """
    picture = torch.from_numpy(np.asarray(load_picture(Path(path)).convert("RGB"), dtype=np.int64))  # (H, W, 3)
    palette = torch.tensor(FASSEG.colors)
    return (picture[:, :, None] - palette).square().sum(dim=-1).argmin(dim=-1).to(torch.uint8)


def to_fasseg(labels: Tensor, classes: ClassSet = CELEBAMASK_HQ) -> Tensor:
    """Merge label maps ``(..., H, W)`` of nineteen classes into FASSEG's six; those of FASSEG itself stay.

    Raises:
        ConfigError: another class set.
    """
    if classes.fingerprint() == FASSEG.fingerprint():
        return labels
    _expect_nineteen(classes)
    table = torch.tensor([FASSEG.id_of(_MERGED.get(name, "skin")) for name in classes.names], dtype=torch.uint8)
    return table.to(labels.device)[labels.long()]


def from_fasseg(labels: Tensor, classes: ClassSet = CELEBAMASK_HQ) -> Tensor:
    """Take a label map ``(H, W)`` of FASSEG to nineteen classes, for a network that knows only these.

    Eyes left and right of the face's middle become the two eyes, the upper and the lower half of every column of the
    mouth the two lips. Brows, ears and neck stay skin.

    Raises:
        ConfigError: another class set.
    """
    if classes.fingerprint() == FASSEG.fingerprint():
        return labels
    _expect_nineteen(classes)
    rows, columns = (torch.arange(side, device=labels.device) for side in labels.shape)
    ids = {name: labels == FASSEG.id_of(name) for name in FASSEG.names}
    face = (ids["skin"] | ids["nose"]).sum(dim=0).double()
    middle = float((face * columns).sum() / face.sum().clamp(min=1))
    mouth = ids["mouth"]
    centre = (mouth * rows[:, None]).sum(dim=0) / mouth.sum(dim=0).clamp(min=1)  # (W,)
    found = torch.full_like(labels, classes.id_of("background"))
    for name in ("skin", "hair", "nose"):
        found[ids[name]] = classes.id_of(name)
    found[ids["eyes"] & (columns >= middle)] = classes.id_of("l_eye")  # l_* lies on the image's right
    found[ids["eyes"] & (columns < middle)] = classes.id_of("r_eye")
    found[mouth & (rows[:, None] <= centre)] = classes.id_of("u_lip")
    found[mouth & (rows[:, None] > centre)] = classes.id_of("l_lip")
    return found


def _expect_nineteen(classes: ClassSet) -> None:
    if classes.fingerprint() != CELEBAMASK_HQ.fingerprint():
        raise ConfigError(
            f"FASSEG's classes are known for {CELEBAMASK_HQ.name!r}, found class set {classes.name!r}",
            "measure these weights on masks of their own classes",
        )
