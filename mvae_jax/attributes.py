"""Names of attributes of faces: the ten of the multimodal VAE (Kim, 2024), in the order of their bits, and genders."""

from __future__ import annotations

from collections.abc import Sequence

FACE: tuple[str, ...] = (
    "young",
    "male",
    "female",
    "smiling",
    "eyeglasses",
    "black_hair",
    "blond_hair",
    "bald",
    "mustache",
    "wearing_lipstick",
)

GENDER: tuple[str, ...] = ("male", "female")


def items(names: Sequence[str]) -> list[int]:
    """Number of the thing that each attribute is about, from 0 on: male and female are one, which one word says.

    Args:
        names: of the attributes.
    """
    subjects = ["gender" if name in GENDER else f"attribute {name}" for name in names]
    return [list(dict.fromkeys(subjects)).index(subject) for subject in subjects]
