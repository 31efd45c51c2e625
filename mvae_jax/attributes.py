"""The ten attributes of faces that the multimodal VAE reads and writes (Kim, 2024), in the order of their bits."""

from __future__ import annotations

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
