"""Text of any origin, made fit to be drawn with the font that ships with matplotlib."""

from __future__ import annotations

import functools
import os

import matplotlib
from matplotlib import font_manager

FONT_FAMILY = "DejaVu Sans"
FONT_FILE = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


def drawable(text: str, limit: int = 400) -> str:
    """One line of at most `limit` characters, all of which the font has.

    White space of any kind becomes single spaces, what the font lacks becomes a replacement character, and a
    text that is cut ends in an ellipsis.
    """
    line = " ".join(text[: 4 * limit].split())
    known = "".join(character if ord(character) in _characters() else "\N{REPLACEMENT CHARACTER}" for character in line)
    return known if len(known) <= limit else known[: limit - 1] + "…"


@functools.cache
def _characters() -> frozenset[int]:
    return frozenset(font_manager.get_font(FONT_FILE).get_charmap())
