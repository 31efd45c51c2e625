"""Curves of losses and other metrics: one run over its phases, or several runs beside one another."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from mvae_jax.viz import _figure
from mvae_jax.viz._text import fitting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]  # {"step": int, "phase": str, "split": str, metric: number, ...}
Curves = dict[str, dict[str, dict[str, dict[int, float]]]]  # name of the curve -> split -> phase -> step -> value

_LOGARITHMIC_FROM = 30.0  # ratio of a panel's largest to its smallest value
_MOST_CURVES = len(_figure.COLOURS)
_BORDER = "0.45"
_STYLES: dict[str, dict[str, Any]] = {
    "train": {"linewidth": 1.0, "alpha": 0.45},
    "validation": {"linewidth": 1.6, "marker": "o", "markersize": 3.5},
}


def losses(records: Sequence[Record], panels: Mapping[str, Sequence[str]], *, title: str = "") -> Image.Image:
    """Training and validation curves, a panel per family of metrics, broken at the borders of the phases.

    What is minimised changes from phase to phase, so that no line leads from one to the next. A panel whose values
    are all positive and span more than a factor of 30 has a logarithmic axis, which says so. Values that are not
    finite are left out; of two values for one step, as a resumed run may leave, the later counts.

    Args:
        records: the lines of a metrics.jsonl. "split" is "train" (also where it is missing) or "validation"; other
            records are passed over.
        panels: title -> names of metrics, with the wildcards of `fnmatch`, such as "image_from_*". A panel takes
            at most ten metrics, and is left out where it has none.
        title: heading of the figure.

    Returns:
        The figure, 990 pixels wide.

    Raises:
        ValueError: no panel has a metric, or one has more than ten.
    """
    curves = _curves(records)
    chosen = {
        name: {m: c for m, c in curves.items() if any(fnmatch.fnmatchcase(m, pattern) for pattern in patterns)}
        for name, patterns in panels.items()
    }
    for name, curves_of_panel in chosen.items():
        if len(curves_of_panel) > _MOST_CURVES:
            raise ValueError(
                f"panel {name!r} has {len(curves_of_panel)} metrics, expected at most {_MOST_CURVES}: split it."
            )
    chosen = {name: curves_of_panel for name, curves_of_panel in chosen.items() if curves_of_panel}
    if not chosen:
        raise ValueError(
            f"none of the panels {dict(panels)} names a metric of the {len(records)} records; with finite values "
            f"they hold {sorted(curves)}."
        )
    with _figure.figure(_figure.PANEL_HEIGHT * len(chosen), title) as figure:
        axes = figure.subplots(len(chosen), sharex=True, squeeze=False)[:, 0]
        ends = _phase_ends(records)
        for axis, (name, curves_of_panel) in zip(axes, chosen.items(), strict=True):
            named = {_words(metric): curve for metric, curve in curves_of_panel.items()}
            _draw_curves(axis, named, with_splits=axis is axes[0])
            axis.set_title(fitting(name, 50), parse_math=False, loc="left", pad=20 if axis is axes[0] else None)
            axis.set_ylabel(f"value{_scale_of(axis)}")
            _draw_borders(axis, ends, _BORDER)
        _name_phases(axes[0], ends, _BORDER)
        axes[-1].set_xlabel("step")
        return _figure.render(figure)


def runs(records: Mapping[str, Sequence[Record]], metric: str, *, title: str = "", ylabel: str = "") -> Image.Image:
    """One metric of several runs, such as models that differ in one setting, with the borders of their phases.

    Borders that all runs share are grey and named once; otherwise each run's borders and names have its colour.
    The axis and the values follow the rules of `losses`.

    Args:
        records: name of the run -> the lines of its metrics.jsonl; at most ten runs.
        metric: name of the metric, without wildcards.
        title: heading of the figure.
        ylabel: what the metric is; by default its name.

    Returns:
        The figure, 990 pixels wide.

    Raises:
        ValueError: there are no runs or more than ten, or one of them has no finite value of the metric.

    Reference:
        Kim, 2024, figure 8: losses at three latent sizes.
    """
    if not 0 < len(records) <= _MOST_CURVES:
        raise ValueError(f"got {len(records)} runs, expected 1 to {_MOST_CURVES}: draw them in several figures.")
    curves: Curves = {}
    for run, lines in records.items():
        curves_of_run = _curves(lines)
        if metric not in curves_of_run:
            raise ValueError(
                f"run {run!r} has no finite value of {metric!r}; with finite values its {len(lines)} records hold "
                f"{sorted(curves_of_run)}."
            )
        curves[run] = curves_of_run[metric]
    borders = [(_phase_ends(lines), colour) for lines, colour in zip(records.values(), _figure.COLOURS, strict=False)]
    if all(ends == borders[0][0] for ends, _ in borders):
        borders = [(borders[0][0], _BORDER)]
    with _figure.figure(1.6 * _figure.PANEL_HEIGHT + 0.15 * len(borders), title) as figure:
        axis = figure.subplots()
        _draw_curves(axis, curves, with_splits=True)
        for row, (ends, colour) in enumerate(reversed(borders)):
            _draw_borders(axis, ends, colour)
            _name_phases(axis, ends, colour, row)
        axis.set_xlabel("step")
        axis.set_ylabel(fitting(ylabel or _words(metric), 30) + _scale_of(axis), parse_math=False)
        return _figure.render(figure)


def _curves(records: Sequence[Record]) -> Curves:
    curves: Curves = {}
    for record in records:
        split = record.get("split", "train")
        if "step" not in record or split not in _STYLES:
            continue
        for metric, value in record.items():
            if metric not in ("step", "phase", "split") and isinstance(value, int | float) and math.isfinite(value):
                phases = curves.setdefault(metric, {}).setdefault(split, {})
                phases.setdefault(record.get("phase", ""), {})[record["step"]] = value
    return curves


def _words(metric: str) -> str:
    """The name of a metric for people."""
    return re.sub(r"\b(kl|r1)\b", lambda found: found[0].upper(), metric.replace("_", " ").replace("/", ": "))


def _scale_of(axis: Axes) -> str:
    return ", log scale" if axis.get_yscale() == "log" else ""


def _phase_ends(records: Sequence[Record]) -> dict[str, int]:
    ends: dict[str, int] = {}
    for record in records:
        if "step" in record and "phase" in record:
            ends[record["phase"]] = max(record["step"], ends.get(record["phase"], 0))
    return ends


def _draw_curves(axis: Axes, curves: Curves, *, with_splits: bool) -> None:
    from matplotlib import ticker

    entries, values = [], list[float]()
    for (name, splits), colour, marker in zip(curves.items(), _figure.COLOURS, _figure.MARKERS, strict=False):
        line_styles = {split: {**style, "color": colour} for split, style in _STYLES.items()}
        line_styles["validation"]["marker"] = marker
        entries.append((name, _figure.stroke(**line_styles["validation"])))
        for split, phases in splits.items():
            for points in phases.values():
                steps = sorted(points)
                axis.plot(steps, [points[step] for step in steps], **line_styles[split])
                values += points.values()
    if min(values) > 0 and max(values) > _LOGARITHMIC_FROM * min(values):
        axis.set_yscale("log")
    axis.grid(color="0.9", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axis.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    if with_splits:
        entries += [(split, _figure.stroke(color="0.4", **style)) for split, style in _STYLES.items()]
    _figure.legend(axis, entries)


def _draw_borders(axis: Axes, ends: Mapping[str, int], colour: str) -> None:
    for end in list(ends.values())[:-1]:
        axis.axvline(end, color=colour, linestyle="--", linewidth=1.0)


def _name_phases(axis: Axes, ends: Mapping[str, int], colour: str, row: int = 0) -> None:
    from matplotlib.colors import to_rgb

    if len(ends) == 1:  # then there is nothing to tell apart
        return
    low, high = axis.get_xlim()
    start = low
    for name, end in ends.items():
        # About 50 ems fit along the axis: a short phase gets a shortened name.
        room = 50 * (end - start) / (high - low)
        axis.annotate(
            fitting(_words(name), room),
            (start, 1.0),
            (2, 4 + 11 * row),
            ("data", "axes fraction"),
            textcoords="offset points",
            fontsize="small",
            color=[0.65 * part for part in to_rgb(colour)],  # letters are thin: darker than the line
            parse_math=False,
        )
        start = end
