"""Common parts of all matplotlib figures: size, fonts, colours, legends for any text, and the way to a picture."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mvae_jax.viz._text import FONT_FAMILY, fitting

if TYPE_CHECKING:  # matplotlib takes half a second to import: only what draws loads it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PANEL_HEIGHT = 2.6  # inches
_WIDTH, _DPI = 9.0, 110  # inches, pixels per inch
_TITLE = 52  # ems of the title's size that fit into the width
# Petroff, 2021, arXiv:2107.02270: ten colours that the colour-blind tell apart too. Where points or curves of many
# kinds meet, their shapes differ as well.
COLOURS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
MARKERS = "os^Dv<>Pp*"


@contextlib.contextmanager
def figure(height: float, title: str) -> Iterator[Figure]:
    """A figure of 9 inches times `height` inches and its title."""
    import matplotlib
    from matplotlib.figure import Figure

    # Figure and canvas without pyplot: no global state, and no backend is chosen for the process.
    with matplotlib.rc_context({"font.family": [FONT_FAMILY], "text.usetex": False}):
        new = Figure((_WIDTH, height + 0.6), _DPI, layout="constrained")
        if title:
            new.suptitle(fitting(title, _TITLE), parse_math=False, x=0.01, ha="left")
        yield new


def stroke(**style: Any) -> Line2D:
    """A line or marker of a style, to stand in a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **style)


def legend(axis: Axes, entries: Sequence[tuple[str, Any]], **place: Any) -> None:
    """A legend of names and artists: to the right of the axes, or up to three in a row where `place` says."""

    def names(columns: int) -> list[str]:
        # About 52 ems fit into a row, of which each artist takes 5.
        return [fitting(name, min(20.0, 52.0 / columns - 5.0)) for name, _ in entries]

    columns = min(3, len(entries)) if place else 1
    if columns == 3 and names(3) != names(2):  # two in a row rather than three that are cut
        columns = 2
    place = place or {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    artists = [artist for _, artist in entries]
    box = axis.legend(artists, names(columns), ncols=columns, fontsize="small", frameon=False, **place)
    for text in box.get_texts():
        text.set_parse_math(False)


def render(figure: Figure) -> Image.Image:
    """The finished figure as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
