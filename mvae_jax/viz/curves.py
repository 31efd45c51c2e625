"""Curves of losses and other metrics: one run over its phases, or several runs beside one another."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from mvae_jax.viz import _figure, _narrow
from mvae_jax.viz._text import fitting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]  # {"step": int, "phase": str, "split": str, metric: number, ...}
Curves = dict[str, dict[str, dict[str, dict[int, float]]]]  # name of the curve -> split -> phase -> step -> value

_LOGARITHMIC_FROM = 6.0  # ratio of a panel's largest to its smallest value
_SHARES = re.compile("accuracy|exact_match|probability|share|updated")  # metrics from 0 to 1
_MOST_CURVES = len(_figure.COLOURS)
_BORDER = "0.45"
_STYLES: dict[str, dict[str, Any]] = {
    "train": {"linewidth": 1.0, "alpha": 0.45},
    "validation": {"linewidth": 1.6, "marker": "o", "markersize": 3.5},
}
_ALONE = {"linewidth": 1.3, "alpha": 0.9}  # of training where nothing is validated
_SPLITS = {"train": "training", "validation": "validation"}  # in the legend


@_narrow.versions
def losses(records: Sequence[Record], panels: Mapping[str, Sequence[str]], *, title: str = "") -> Image.Image:
    """Training and validation curves, a panel per family of metrics, broken at the borders of the phases.

    What is minimised changes from phase to phase, so that no line leads from one to the next. A panel whose values
    are all positive and span more than a factor of 6 has a logarithmic axis, which says so, but for shares such as
    accuracies. Values that are not finite are left out; of two values for one step, as a resumed run may leave, the
    later counts.

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
    heights = [_figure.PANEL_HEIGHT + _figure.height_of_legend(len(curves) + 2) for curves in chosen.values()]
    with _figure.figure(sum(heights), title) as figure:
        axes = figure.subplots(len(chosen), sharex=True, squeeze=False)[:, 0]
        ends = _phase_ends(records)
        for axis, (name, curves_of_panel) in zip(axes, chosen.items(), strict=True):
            named = {_words(metric): curve for metric, curve in curves_of_panel.items()}
            logarithmic, first = all(map(_may_be_logarithmic, curves_of_panel)), axis is axes[0]
            # The name of the only curve is that of the axis.
            _draw_curves(axis, named, logarithmic, with_splits=first, with_names=not first or len(named) > 1)
            room = 50 * _figure.share_of_width()
            axis.set_title(fitting(name, room), parse_math=False, loc="left", pad=20 if axis is axes[0] else None)
            of = fitting(next(iter(named)), 16) if len(named) == 1 else "value"
            axis.set_ylabel(of + _scale_of(axis), parse_math=False)
            _draw_borders(axis, ends, _BORDER)
        _name_phases(axes[0], ends, _BORDER)
        axes[-1].set_xlabel("step")
        return _figure.render(figure)


@_narrow.versions
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
    height = 1.6 * _figure.PANEL_HEIGHT + 0.15 * len(borders) + _figure.height_of_legend(len(curves) + 2)
    with _figure.figure(height, title) as figure:
        axis = figure.subplots()
        _draw_curves(axis, curves, _may_be_logarithmic(metric), with_splits=True)
        for row, (ends, colour) in enumerate(reversed(borders)):
            _draw_borders(axis, ends, colour)
            _name_phases(axis, ends, colour, row)
        axis.set_xlabel("step")
        axis.set_ylabel(fitting(ylabel or _words(metric), _figure.room(30)) + _scale_of(axis), parse_math=False)
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


def _may_be_logarithmic(metric: str) -> bool:
    return not _SHARES.search(metric)


def _draw_curves(
    axis: Axes, curves: Curves, may_be_logarithmic: bool, *, with_splits: bool, with_names: bool = True
) -> None:
    from matplotlib import ticker

    entries, values = [], list[float]()
    for (name, splits), colour, marker in zip(curves.items(), _figure.COLOURS, _figure.MARKERS, strict=False):
        line_styles = {split: {**style, "color": colour} for split, style in _STYLES.items()}
        line_styles["validation"]["marker"] = marker
        if "validation" not in splits:
            line_styles["train"] |= _ALONE
        if with_names:
            entries.append((name, _figure.stroke(**line_styles["validation" if "validation" in splits else "train"])))
        for split, phases in splits.items():
            for points in phases.values():
                steps = sorted(points)
                dot = {"marker": "o", "markersize": 3.0} if len(steps) == 1 else {}  # which no line would show
                axis.plot(steps, [points[step] for step in steps], **{**dot, **line_styles[split]})
                values += points.values()
    if may_be_logarithmic and min(values) > 0 and max(values) > _LOGARITHMIC_FROM * min(values):
        axis.set_yscale("log")
        # 0.2 rather than 2 x 10^-1; over more than two decades these alone are named.
        steps_of_decade = (1, 2, 5) if max(values) < 100 * min(values) else (1,)
        axis.yaxis.set_major_locator(ticker.LogLocator(subs=steps_of_decade))
        axis.yaxis.set_major_formatter(
            ticker.FuncFormatter(lambda value, _: f"{value:{',.0f' if value >= 1 else 'g'}}")
        )
        axis.yaxis.set_minor_formatter(ticker.NullFormatter())
    elif max(map(abs, values)) >= 1000:
        axis.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    axis.grid(color="0.9", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_locator(ticker.MaxNLocator(5 if _narrow.asked() else 9, integer=True))
    axis.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    if with_splits:
        drawn = {split for splits in curves.values() for split in splits}
        colour = "0.4" if with_names else _figure.COLOURS[0]
        strokes = {split: _figure.stroke(color=colour, **style) for split, style in _STYLES.items() if split in drawn}
        entries += [(_SPLITS[split], stroke) for split, stroke in strokes.items()]
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
        room = 50 * _figure.share_of_width() * (end - start) / (high - low)
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
