"""Foreign label orders: permutations and documented merges, hints, refusals."""

import pytest
import torch
from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.masks.label_orders import ORDERS, find_order, guess, rank, remap, sides_look_swapped

from .drawn_face import drawn_face


def written_in(order: str, labels: Tensor) -> Tensor:
    """What a parser of that order would have written."""
    table = ORDERS[order].table().tolist()
    inverse = torch.zeros(256, dtype=torch.uint8)
    for foreign in range(len(ORDERS[order].targets) - 1, -1, -1):
        inverse[table[foreign]] = foreign
    return inverse[labels.long()]


@pytest.mark.parametrize("order", ["celebamask-hq", "face-parsing", "facer-celebm"])
def test_permutations(order: str) -> None:
    assert sorted(ORDERS[order].table()[:19].tolist()) == list(range(19))
    assert torch.equal(remap(written_in(order, drawn_face()), order), drawn_face())


def test_names_of_face_parsing() -> None:
    # BiSeNet: background, skin, l_brow, r_brow, l_eye, r_eye, eye_g, l_ear, r_ear, ear_r, nose, mouth, ...
    foreign = torch.tensor([[2, 3, 6, 9, 10, 14, 15, 16, 17, 18]])
    names = [CELEBAMASK_HQ.names[one] for one in remap(foreign, "face-parsing")[0]]
    assert names == ["l_brow", "r_brow", "eye_g", "ear_r", "nose", "neck", "neck_l", "cloth", "hair", "hat"]


def test_face_synthetics_merges_what_has_no_class() -> None:
    foreign = torch.tensor([[1, 14, 18, 13, 255]])
    assert remap(foreign, "face-synthetics").tolist() == [[1, 1, 1, 13, 255]]
    assert remap(foreign, "face-synthetics", beard="ignore").tolist() == [[1, 255, 255, 13, 255]]
    table = ORDERS["face-synthetics"].table()[:19]
    twice = [one for one in range(19) if int((table == one).sum()) > 1]
    assert twice == [1]
    assert sorted(set(range(19)) - set(table.tolist())) == [15, 16]  # it has no earring and no necklace


def test_ids_beyond_the_order_are_named() -> None:
    with pytest.raises(InputError, match=r"0 to 18\): 19, 77, on 50 %"):
        remap(torch.tensor([[0, 19], [1, 77]]), "face-parsing")
    with pytest.raises(InputError, match="-1"):
        remap(torch.tensor([[0, -1]]), "face-parsing")
    assert remap(torch.tensor([[255, 5]], dtype=torch.uint8), "own").tolist() == [[255, 5]]


def test_unknown_orders_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean face-parsing"):
        find_order("face-parser")
    with pytest.raises(ConfigError, match="skin or ignore"):
        remap(drawn_face(), "own", beard="shave")  # type: ignore[arg-type]


def test_order_of_other_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="which 'two' does not have"):
        remap(torch.zeros(2, 2, dtype=torch.uint8), "face-parsing", classes=ClassSet("two", ("background", "skin")))


@pytest.mark.parametrize("order", list(ORDERS))
def test_guess_names_the_order(order: str) -> None:
    labels = written_in(order, drawn_face())
    assert f"'{order}'" in guess(labels)
    assert rank(labels)[0][0] == order


def test_guess_of_nonsense_says_so() -> None:
    noise = torch.randint(0, 19, (64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert "none of the known orders" in guess(noise)


def test_swapped_sides_are_seen() -> None:
    assert not sides_look_swapped(drawn_face(), CELEBAMASK_HQ)
    assert sides_look_swapped(drawn_face().flip(1), CELEBAMASK_HQ)
    assert not sides_look_swapped(CELEBAMASK_HQ.mirrored(drawn_face()), CELEBAMASK_HQ)
