"""Numbers of several methods over a setting that is varied: means over repeated runs, and how far these spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mvae_jax.viz import _figure, _narrow
from mvae_jax.viz._text import fitting

_MOST_METHODS = len(_figure.COLOURS)
_APART = 0.12  # between the first and the last method at one setting, as a share of the steps between settings
Panel = Mapping[str, Mapping[float, Sequence[float]]]


@_narrow.versions
def panels(
    values: Mapping[str, Panel], *, xlabel: str = "", baselines: Mapping[str, float] | None = None, title: str = ""
) -> Image.Image:
    """One panel for each number, and in it a line for each method over the setting.

    A point is the mean of the runs at a setting, its bar one standard deviation to either side (n - 1 in the divisor);
    of a single run there is no bar. Settings stand at equal distances, in the order of their values, and methods a
    little beside one another, so that bars do not hide each other.

    Args:
        values: name of the number -> method -> setting, such as the share of hidden data -> value of each run, finite.
            At most ten methods in all, which have one colour and one shape in all panels.
        xlabel: what the setting is.
        baselines: name of the number -> what it is to be compared with, a dashed line.
        title: heading of the figure.

    Returns:
        The figure, 990 pixels wide; two panels stand side by side.

    Raises:
        ValueError: there are no panels, no methods in one or more than ten in all, or the values of a setting are none
            or not finite.
    """
    methods = list(dict.fromkeys(method for panel in values.values() for method in panel))
    if not values or not 0 < len(methods) <= _MOST_METHODS or not all(values.values()):
        raise ValueError(
            f"got {len(values)} panels with {len(methods)} methods in all; expected at least one panel, and in each at "
            f"least one of at most {_MOST_METHODS} methods."
        )
    columns = min(1 if _narrow.asked() else 2, len(values))
    rows = -(-len(values) // columns)
    legend = _figure.height_of_legend(len(methods) + bool(baselines))
    with _figure.figure(_figure.PANEL_HEIGHT * rows + 0.4 + legend, title) as figure:
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, (name, panel) in zip(axes, values.items(), strict=False):
            places = {x: place for place, x in enumerate(sorted({x for line in panel.values() for x in line}))}
            for method, line in panel.items():
                number = methods.index(method)
                runs = {x: _checked(name, method, x, line[x]) for x in places if x in line}
                shift = _APART * (number / max(1, len(methods) - 1) - 0.5)
                axis.errorbar(
                    [places[x] + shift for x in runs],
                    [values_of_x.mean() for values_of_x in runs.values()],
                    yerr=[values_of_x.std(ddof=1) if len(values_of_x) > 1 else 0.0 for values_of_x in runs.values()],
                    capsize=2.0,
                    elinewidth=1.0,
                    **_style(number),
                )
            if baselines and name in baselines:
                axis.axhline(baselines[name], color="0.35", linestyle="--", linewidth=1.0)
            axis.set_xticks(list(places.values()), [f"{x:g}" for x in places])
            axis.set_xlim(-0.3, len(places) - 0.7)
            axis.set_title(fitting(name, 26), parse_math=False, loc="left", fontsize="medium")
            axis.grid(color="0.9", linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_xlabel(fitting(xlabel, 26), parse_math=False)
        for axis in axes[len(values) :]:
            axis.set_axis_off()
        entries = [(method, _figure.stroke(**_style(number))) for number, method in enumerate(methods)]
        if baselines:
            entries.append(("baseline", _figure.stroke(color="0.35", linestyle="--", linewidth=1.0)))
        _figure.legend(axes[len(values) - 1 if _narrow.asked() else columns - 1], entries)
        return _figure.render(figure)


def _style(number: int) -> dict[str, Any]:
    style = {"color": _figure.COLOURS[number], "marker": _figure.MARKERS[number]}
    return {**style, "markersize": 5.0, "linewidth": 1.0}


def _checked(name: str, method: str, setting: float, values: Sequence[float]) -> np.ndarray:
    runs = np.asarray(values, float)
    if runs.ndim != 1 or not len(runs) or not np.isfinite(runs).all():
        raise ValueError(
            f"{name!r} of {method!r} at {setting:g} is {list(values)}; expected a finite number of each of its runs."
        )
    return runs
