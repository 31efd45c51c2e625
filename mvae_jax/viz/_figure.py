"""Common parts of all matplotlib figures: size, fonts, colours, legends for any text, and the way to a picture."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mvae_jax.viz import _narrow
from mvae_jax.viz._text import FONT_FAMILY, fitting

if TYPE_CHECKING:  # matplotlib takes half a second to import: only what draws loads it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PANEL_HEIGHT = 2.6  # inches
_WIDTH, _NARROW, _DPI = 9.0, 4.4, 110  # inches, pixels per inch
_LABEL = 22  # ems of a label along an axis of a narrow figure
_TITLE = 52  # ems of the title's size that fit into the width
_BELOW, _BELOW_TICKS = 38.0, 10.0  # points from axes to the legend beneath them, past ticks and label or ticks alone
# Petroff, 2021, arXiv:2107.02270: ten colours that the colour-blind tell apart too. Where points or curves of many
# kinds meet, their shapes differ as well.
COLOURS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
MARKERS = "os^Dv<>Pp*"


@contextlib.contextmanager
def figure(height: float, title: str) -> Iterator[Figure]:
    """A figure of 9 inches times `height` inches, or the narrow version of one, and its title."""
    import matplotlib
    from matplotlib.figure import Figure

    # Figure and canvas without pyplot: no global state, and no backend is chosen for the process.
    with matplotlib.rc_context({"font.family": [FONT_FAMILY], "text.usetex": False}):
        new = Figure((_WIDTH * share_of_width(), height + 0.6), _DPI, layout="constrained")
        if title:
            new.suptitle(fitting(title, _TITLE * share_of_width()), parse_math=False, x=0.01, ha="left")
        yield new


def share_of_width() -> float:
    """Width of the figure that is drawn now, as a share of 9 inches."""
    return _NARROW / _WIDTH if _narrow.asked() else 1.0


def room(ems: float) -> float:
    """Ems of a label along an axis: those asked for, or as many as a narrow figure has."""
    return min(ems, _LABEL) if _narrow.asked() else ems


def height_of_legend(entries: int) -> float:
    """Inches that a legend of so many entries takes beneath the axes of a narrow figure; 0 of another figure."""
    return 0.2 + 0.17 * entries if _narrow.asked() else 0.0


def stroke(**style: Any) -> Line2D:
    """A line or marker of a style, to stand in a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **style)


def legend(axis: Axes, entries: Sequence[tuple[str, Any]], **place: Any) -> None:
    """A legend of names and artists: to the right of the axes, or in rows where `place` says.

    A narrow figure has no room at the right: there it stands beneath the axes, which become as much higher.
    """
    from matplotlib.transforms import IdentityTransform, ScaledTranslation

    def names(columns: int) -> list[str]:
        # About 52 ems fit into a row, of which each artist takes 5.
        return [fitting(name, min(20.0, 52.0 * share_of_width() / columns - 5.0)) for name, _ in entries]

    if _narrow.asked() and not place:
        place_in_figure = axis.get_subplotspec()
        below = _BELOW if place_in_figure is None or place_in_figure.is_last_row() else _BELOW_TICKS
        beneath = axis.transAxes + ScaledTranslation(0.0, -below * _DPI / 72, IdentityTransform())
        place = {"loc": "upper left", "bbox_to_anchor": (0.0, 0.0), "bbox_transform": beneath}
    columns = min(3, len(entries)) if place else 1
    while columns > 1 and names(columns) != names(columns - 1):  # fewer in a row rather than some that are cut
        columns -= 1
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
