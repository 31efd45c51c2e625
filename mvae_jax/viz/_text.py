"""Text of any origin, made fit to be drawn with the font that ships with matplotlib."""

from __future__ import annotations

import bisect
import functools

from PIL import ImageFont

FONT_FAMILY = "DejaVu Sans"


def drawable(text: str, limit: int = 400) -> str:
    """One line of at most `limit` characters, all of which the font has.

    White space of any kind becomes single spaces; what the font lacks and what is not shown but obeyed (control
    characters, marks that turn the direction of writing) becomes a replacement character; a text that is cut ends
    in an ellipsis.
    """
    line = " ".join(text[: 4 * limit].split())
    shown = "".join(
        character if character.isprintable() and ord(character) in _characters() else "\N{REPLACEMENT CHARACTER}"
        for character in line
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def fitting(text: str, ems: float) -> str:
    """The `drawable` text, cut to a width of at most `ems` times its font size; a text that is cut ends in an ellipsis.

    A letter takes 0.6 on average, the widest one 1.
    """
    line, font = drawable(text), load_font(100)
    if font.getlength(line) <= 100 * ems:
        return line
    ends = range(1, len(line))
    fit = bisect.bisect_right(ends, 100 * ems, key=lambda end: font.getlength(line[:end] + "…"))
    return line[:fit].rstrip() + "…"


@functools.cache
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """The font at a size in pixels."""
    # The basic layout draws alike wherever Pillow was built, with or without a shaping library.
    return ImageFont.truetype(_font_file(), size, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def _characters() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(_font_file()).get_charmap())


def _font_file() -> str:
    from matplotlib import get_data_path

    return f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"
