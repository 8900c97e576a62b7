"""What the drawing does with a class: found by the class's name, so that any class set can be drawn."""

from __future__ import annotations

from enum import Enum

from pellucid.semantic_vae.masks.classes import ClassSet


class Role(Enum):
    """A kind of part that the drawing knows. Left and right are told apart by place, not by name."""

    BACKGROUND = "background"
    SKIN = "skin"
    NOSE = "nose"
    GLASSES = "glasses"
    EYE = "eye"
    BROW = "brow"
    EAR = "ear"
    MOUTH = "mouth"
    UPPER_LIP = "upper lip"
    LOWER_LIP = "lower lip"
    LIPS = "lips"
    HAIR = "hair"
    BEARD = "beard"
    HAT = "hat"
    JEWEL = "jewel"
    NECK = "neck"
    CLOTH = "cloth"
    OTHER = "other"


# Words of a name, the sides taken off, as CelebAMask-HQ, BiSeNet, LaPa, FaceSynthetics and people write them.
_WORDS: dict[Role, str] = {
    Role.SKIN: "skin face facial_skin head",
    Role.NOSE: "nose",
    Role.GLASSES: "eye_g glasses eyeglasses eye_glasses sunglasses spectacles",
    Role.EYE: "eye eyes",
    Role.BROW: "brow brows eyebrow eyebrows",
    Role.EAR: "ear ears",
    Role.MOUTH: "mouth inner_mouth imouth mouth_interior teeth inside_mouth",
    Role.UPPER_LIP: "u_lip upper_lip top_lip ulip lip_top",
    Role.LOWER_LIP: "l_lip lower_lip bottom_lip llip lip_bottom",
    Role.LIPS: "lip lips",
    Role.HAIR: "hair",
    Role.BEARD: "beard mustache moustache facial_hair",
    Role.HAT: "hat cap headwear beanie",
    Role.JEWEL: "ear_r earring earrings neck_l necklace necklaces jewelry jewellery jewel",
    Role.NECK: "neck body_skin",
    Role.CLOTH: "cloth clothes clothing shirt top garment torso",
}
_KNOWN = {word: role for role, words in _WORDS.items() for word in words.split()}
_SIDES = ("left_", "right_", "l_", "r_")


def roles_of(classes: ClassSet) -> tuple[Role, ...]:
    """Role of each class, in the order of the ids.

    A set whose only part of the mouth is called mouth means the lips by it.
    """
    found = [
        Role.BACKGROUND if index == classes.background else _role(name) for index, name in enumerate(classes.names)
    ]
    if not {Role.UPPER_LIP, Role.LOWER_LIP, Role.LIPS} & set(found):
        found = [Role.LIPS if role is Role.MOUTH else role for role in found]
    return tuple(found)


def _role(name: str) -> Role:
    word = name.strip().casefold().replace(" ", "_").replace("-", "_")
    if word in _KNOWN:  # first of all: "l_lip" is the lower lip, not the left one
        return _KNOWN[word]
    for side in _SIDES:
        if word.startswith(side) and word.removeprefix(side) in _KNOWN:
            return _KNOWN[word.removeprefix(side)]
        end = "_" + side.rstrip("_")
        if word.endswith(end) and word.removesuffix(end) in _KNOWN:
            return _KNOWN[word.removesuffix(end)]
    return Role.OTHER
