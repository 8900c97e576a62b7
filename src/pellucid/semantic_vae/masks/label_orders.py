"""Label maps that other face parsers write in orders of their own (section 1.2).

A wrong order gives a valid picture of nonsense, so it is never guessed: a file of bare ids needs an order by name.
`guess` only helps the one who is asked for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, Band, ClassSet, present_ids

IGNORE = 255
_LOOKED_AT = 192  # pixels a side are enough to tell areas and centroids, and take a tenth of the time
OWN = "own"  # the order that says: the ids are those of the class set

Beard = Literal["skin", "ignore"]


@dataclass(frozen=True)
class LabelOrder:
    """What the ids of a foreign label map mean.

    Attributes:
        name: what ``--label-order`` calls it.
        targets: for each foreign id the name of our class.
        homeless: foreign ids of things that have no class with us (beard, mask before the face); ``targets`` names
            what they cover, and a caller may choose to ignore them instead.
        source: who writes it, and what to know about it.
    """

    name: str
    targets: tuple[str, ...]
    homeless: tuple[int, ...] = ()
    source: str = ""

    def table(self, classes: ClassSet = CELEBAMASK_HQ, beard: Beard = "skin") -> Tensor:
        """Foreign id -> our id: ``(256,)`` int64; 255 stays 255, "ignore"; what has no meaning is -1.

        Raises:
            ConfigError: the class set lacks one of the classes.
        """
        lacking = sorted({one for one in self.targets if one not in classes.names})
        if lacking:
            raise ConfigError(
                f"label order {self.name!r} speaks of {', '.join(lacking)}, which {classes.name!r} does not have",
                f"use {OWN!r} when the ids are those of the class set",
            )
        found = torch.full((256,), -1, dtype=torch.long)
        found[: len(self.targets)] = torch.tensor([classes.id_of(one) for one in self.targets])
        if beard == "ignore":
            found[list(self.homeless)] = IGNORE
        found[IGNORE] = IGNORE
        return found


def _order(name: str, ids: tuple[int, ...], source: str, homeless: tuple[int, ...] = ()) -> LabelOrder:
    return LabelOrder(name, tuple(CELEBAMASK_HQ.names[one] for one in ids), homeless, source)


ORDERS: Mapping[str, LabelOrder] = {
    order.name: order
    for order in (
        _order("celebamask-hq", tuple(range(19)), "the data set's own order, as MaskGAN, SEAN and this room have it"),
        _order(
            "face-parsing",
            (0, 1, 6, 7, 4, 5, 3, 8, 9, 15, 2, 10, 11, 12, 17, 16, 18, 13, 14),
            "face-parsing.PyTorch (BiSeNet) and its ONNX children; they paint hair and hat last, so that masks differ "
            "from ours where parts overlap",
        ),
        _order(
            "facer-celebm",
            (0, 17, 1, 18, 9, 8, 7, 6, 5, 4, 2, 10, 12, 11, 13, 3, 14, 15, 16),
            "facer's celebm models; which side is left has not been checked on a picture, look at the eyes",
        ),
        _order(
            "face-synthetics",
            (0, 1, 2, 5, 4, 7, 6, 9, 8, 10, 11, 12, 17, 13, 1, 18, 3, 14, 1),
            "FaceSynthetics; beard and facewear have no class here and become skin, or are ignored",
            homeless=(14, 18),
        ),
    )
}


def find_order(name: str) -> LabelOrder | None:
    """The order of that name; None for ``"own"``, whose ids are those of the class set.

    Raises:
        ConfigError: there is none; the hint names the nearest or all.
    """
    key = name.casefold().strip()
    if key == OWN:
        return None
    if key not in ORDERS:
        near = get_close_matches(key, [*ORDERS, OWN], 2, 0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join((*ORDERS, OWN))}"
        raise ConfigError(f"label order {name!r} is not known", hint)
    return ORDERS[key]


def remap(labels: Tensor, order: str | LabelOrder, beard: Beard = "skin", classes: ClassSet = CELEBAMASK_HQ) -> Tensor:
    """Take label maps of a foreign order to the ids of our set.

    Args:
        labels: ``(..., H, W)`` integers; 255 is "ignore" and stays 255.
        order: name in `ORDERS`, ``"own"``, or an order.
        beard: what becomes of foreign classes without a class here: ``"skin"``, or ``"ignore"`` (255).
        classes: the set to arrive at.

    Returns:
        uint8 of the same shape.

    Raises:
        ConfigError: the order is unknown or does not fit the class set.
        InputError: an id is beyond the order.
    """
    if beard not in ("skin", "ignore"):
        raise ConfigError(f"beard: expected skin or ignore, found {beard!r}")
    found = find_order(order) if isinstance(order, str) else order
    if found is None:
        table = torch.full((256,), -1, dtype=torch.long)
        table[: len(classes)] = torch.arange(len(classes))
        table[IGNORE] = IGNORE
        name, last = f"class set {classes.name!r}", len(classes) - 1
    else:
        table = found.table(classes, beard)
        name, last = f"label order {found.name!r}", len(found.targets) - 1
    known = set((table >= 0).nonzero().flatten().tolist())
    ids = labels.unique().tolist() if int(labels.min()) < 0 else present_ids(labels)
    if beyond := [one for one in ids if one not in known]:
        raise InputError(
            f"ids beyond the {name} (0 to {last}): {tell_ids(labels, beyond)}",
            f"name another order ({', '.join(ORDERS)}), or another class set",
        )
    return table.to(torch.uint8).to(labels.device)[labels.long()]


def tell_ids(labels: Tensor, ids: list[int]) -> str:
    """Put into words which ids there are, the first six, and on how many pixels."""
    share = 100 * float(torch.isin(labels.long(), torch.tensor(ids, device=labels.device)).float().mean())
    more = f" and {len(ids) - 6} more" if len(ids) > 6 else ""
    return f"{', '.join(map(str, ids[:6]))}{more}, on {share:.3g} % of the pixels"


def rank(labels: Tensor) -> list[tuple[str, float]]:
    """Score every order by whether its classes lie and measure as they do in faces; best first.

    Args:
        labels: ``(H, W)`` foreign ids.

    Returns:
        Names and scores in [0, 1]: the share of the checks (area, x, y of each class that is there, and skin, nose and
        lips being there) that hold; 0 for an order that does not have all the ids.
    """
    places = _places(labels)
    scores = [(name, _score(places, order)) for name, order in ORDERS.items()]
    return sorted(scores, key=lambda one: -one[1])


def guess(labels: Tensor) -> str:
    """Say in a few words which order a label map ``(H, W)`` seems to have. A hint for a person, not for a program."""
    ranked = rank(labels)
    (best, score), (_, next_score) = ranked[0], ranked[1]
    if score < 0.7 or score - next_score < 0.03:
        return "its places and areas fit none of the known orders clearly"
    checks = f"{100 * score:.0f} % of the checks hold, of the next order's {100 * next_score:.0f} %"
    return f"its places and areas look like {best!r} ({checks})"


def sides_look_swapped(labels: Tensor, classes: ClassSet) -> bool:
    """Whether most pairs lie the wrong way round; ``l_*`` is the image right.

    Args:
        labels: ``(H, W)`` of our ids.
        classes: only pairs whose bands say on which side they lie are looked at.
    """
    places = _places(labels)
    votes = 0
    for one, other in classes.mirror:
        if {one, other} <= places.keys() and {one, other} <= classes.bands.keys():
            expected = sum(classes.bands[one].x) - sum(classes.bands[other].x)
            votes += 1 if (places[one][1] - places[other][1]) * expected < 0 else -1
    return votes > 0


def _places(labels: Tensor) -> dict[int, tuple[float, float, float]]:
    """Area and centroid (x, y) in the unit square of every id from 0 to 254 that is there."""
    step = max(1, max(labels.shape) // _LOOKED_AT)
    values = labels[::step, ::step].detach().cpu().to(torch.long).clamp(0, IGNORE).numpy()
    height, width = values.shape
    flat = values.ravel()
    count = np.bincount(flat, minlength=256)
    x = np.bincount(flat, np.tile((np.arange(width) + 0.5) / width, height), minlength=256)
    y = np.bincount(flat, np.repeat((np.arange(height) + 0.5) / height, width), minlength=256)
    return {
        int(one): (count[one] / flat.size, x[one] / count[one], y[one] / count[one])
        for one in np.flatnonzero(count[:IGNORE])
    }


def _score(places: dict[int, tuple[float, float, float]], order: LabelOrder) -> float:
    if max(places, default=0) >= len(order.targets):
        return 0.0
    ours = {
        CELEBAMASK_HQ.id_of(order.targets[one]): place for one, place in places.items() if one not in order.homeless
    }
    checks = [CELEBAMASK_HQ.id_of(name) in ours for name in ("skin", "nose", "u_lip", "l_lip")]
    for one, place in ours.items():
        if one in CELEBAMASK_HQ.bands:
            checks += _inside(place, CELEBAMASK_HQ.bands[one])
    return sum(checks) / len(checks)


def _inside(place: tuple[float, float, float], band: Band) -> list[bool]:
    limits = (band.area, band.x, band.y)
    return [low <= value <= high for value, (low, high) in zip(place, limits, strict=True)]
