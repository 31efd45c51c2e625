"""Gain and cost of a setting: medians of two numbers over repeated runs, and how far these lie apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mvae_jax.viz import _figure, _narrow
from mvae_jax.viz._text import fitting

_MOST_METHODS = len(_figure.COLOURS)
_LONGEST = 12  # ems of a setting's name beside its point


@_narrow.versions
def medians(
    values: Mapping[str, Mapping[str, npt.ArrayLike]], *, xlabel: str = "", ylabel: str = "", title: str = ""
) -> Image.Image:
    """One number against another, such as disentanglement against reconstruction, of each setting of each method.

    A setting is a point at the two medians of its runs, with bars from the least to the greatest value; the runs
    themselves are small points. A line joins the settings of a method in their order.

    Args:
        values: method -> setting -> the two numbers of each run, [R, 2], finite, R > 0. At most ten methods; the name
            of a setting, such as its beta, stands beside its point.
        xlabel: what the first number is.
        ylabel: what the second number is.
        title: heading of the figure.

    Returns:
        The figure, 990 pixels wide.

    Raises:
        ValueError: there are no methods or more than ten, a method has no settings, or the numbers of a setting are
            not finite or not [R, 2] with R > 0.
    """
    if not 0 < len(values) <= _MOST_METHODS:
        raise ValueError(f"got {len(values)} methods, expected 1 to {_MOST_METHODS}.")
    entries = []
    with _figure.figure(1.8 * _figure.PANEL_HEIGHT, title) as figure:
        axis = figure.subplots()
        for (method, settings), colour, marker in zip(values.items(), _figure.COLOURS, _figure.MARKERS, strict=False):
            runs = {name: _checked(method, name, numbers) for name, numbers in settings.items()}
            if not runs:
                raise ValueError(f"method {method!r} has no settings, expected at least one.")
            low, middle, high = (
                np.stack([statistic(numbers, axis=0) for numbers in runs.values()]).T  # [2, settings]
                for statistic in (np.min, np.median, np.max)
            )
            style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 6.0, "linewidth": 1.0}
            (x, y), (x_bars, y_bars) = middle, np.stack([middle - low, high - middle], axis=1)
            axis.errorbar(x, y, xerr=x_bars, yerr=y_bars, capsize=3.0, elinewidth=1.0, **style)
            x, y = np.concatenate(list(runs.values())).T
            axis.scatter(x, y, s=14.0, color=colour, alpha=0.6, linewidths=0.0)
            for name, point in zip(runs, middle.T, strict=True):
                text = axis.annotate(fitting(name, _LONGEST), point, (5, 5), textcoords="offset points")
                text.set(fontsize="small", parse_math=False)
            entries.append((method, _figure.stroke(**style)))
        axis.grid(color="0.9", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel(fitting(xlabel, _figure.room(40)), parse_math=False)
        axis.set_ylabel(fitting(ylabel, 24), parse_math=False)
        _figure.legend(axis, entries, loc="lower left", bbox_to_anchor=(0.0, 1.0))
        return _figure.render(figure)


def _checked(method: str, setting: str, numbers: npt.ArrayLike) -> np.ndarray:
    runs = np.asarray(numbers, float)
    if runs.ndim != 2 or runs.shape[1] != 2 or not len(runs) or not np.isfinite(runs).all():
        raise ValueError(
            f"the runs of {setting!r} of {method!r} have shape {runs.shape}, expected [R, 2] with R > 0, all finite."
        )
    return runs
