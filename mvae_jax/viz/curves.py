"""Loss curves over the phases of a run, and distributions of scores."""

from __future__ import annotations

import contextlib
import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from mvae_jax.viz._text import FONT_FAMILY, drawable

Record = Mapping[str, Any]  # {"step": int, "phase": str, "split": str, metric: number, ...}
Curves = dict[str, dict[str, dict[int, float]]]  # metric -> split -> step -> value

_WIDTH, _PANEL_HEIGHT, _DPI = 9.0, 2.6, 110  # inches, inches, pixels per inch
_LOGARITHMIC_FROM = 30.0  # ratio of a panel's largest to its smallest value
_MOST_CURVES = 10  # colours of matplotlib's default cycle
_STYLES: dict[str, dict[str, Any]] = {
    "train": {"linewidth": 1.0, "alpha": 0.45},
    "validation": {"linewidth": 1.6, "marker": "o", "markersize": 2.5},
}


def losses(records: Sequence[Record], panels: Mapping[str, Sequence[str]], *, title: str = "") -> Image.Image:
    """Training and validation curves, a panel per family of metrics, with the borders of the phases.

    A panel whose values are all positive and span more than a factor of 30 has a logarithmic axis. Values that are
    not finite are left out; of two values for one step, as a resumed run may leave, the later counts.

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
    with _figure(_PANEL_HEIGHT * len(chosen), title) as figure:
        axes = figure.subplots(len(chosen), sharex=True, squeeze=False)[:, 0]
        ends = _phase_ends(records)
        splits = {split: {"color": "0.4"} | style for split, style in _STYLES.items()}
        for axis, (name, curves_of_panel) in zip(axes, chosen.items(), strict=True):
            _draw_curves(axis, curves_of_panel)
            colours = {metric: {"color": f"C{index}"} for index, metric in enumerate(curves_of_panel)}
            _draw_legend(axis, colours | (splits if axis is axes[0] else {}))
            axis.set_title(drawable(name), parse_math=False, loc="left", pad=20 if axis is axes[0] else None)
            for end in list(ends.values())[:-1]:
                axis.axvline(end, color="0.45", linestyle="--", linewidth=1.0)
        _name_phases(axes[0], ends)
        axes[-1].set_xlabel("step")
        return _render(figure)


def score_distributions(
    match_scores: npt.ArrayLike, mismatch_scores: npt.ArrayLike, threshold: float, *, title: str = ""
) -> Image.Image:
    """Histograms of the scores of matching and mismatched pairs, and the border between the two decisions.

    Args:
        match_scores: scores of matching pairs, [N], in [0, 1].
        mismatch_scores: scores of mismatched pairs, [M], in [0, 1].
        threshold: pairs with a greater score are called a match.
        title: heading of the figure.

    Returns:
        The figure, 990 pixels wide.
    """
    scores = {"matching pairs": np.asarray(match_scores), "mismatched pairs": np.asarray(mismatch_scores)}
    together = np.concatenate([*scores.values(), [threshold]])
    with _figure(1.3 * _PANEL_HEIGHT, title) as figure:
        axis = figure.subplots()
        for label, values in scores.items():
            axis.hist(values, np.linspace(together.min(), together.max(), 41).tolist(), label=label, alpha=0.6)
        axis.axvline(threshold, color="0.2", linestyle="--", label=f"threshold {threshold:.3f}")
        axis.set_xlabel("consistency score")
        axis.set_ylabel("pairs")
        axis.legend(frameon=False)
        return _render(figure)


def _curves(records: Sequence[Record]) -> Curves:
    curves: Curves = {}
    for record in records:
        split = record.get("split", "train")
        if "step" not in record or split not in _STYLES:
            continue
        for metric, value in record.items():
            if metric not in ("step", "phase", "split") and isinstance(value, int | float) and math.isfinite(value):
                curves.setdefault(metric, {}).setdefault(split, {})[record["step"]] = value
    return curves


def _phase_ends(records: Sequence[Record]) -> dict[str, int]:
    ends: dict[str, int] = {}
    for record in records:
        if "step" in record and "phase" in record:
            ends[record["phase"]] = max(record["step"], ends.get(record["phase"], 0))
    return ends


def _draw_curves(axis: Axes, curves: Curves) -> None:
    for index, splits in enumerate(curves.values()):
        for split, points in splits.items():
            steps = sorted(points)
            axis.plot(steps, [points[step] for step in steps], color=f"C{index}", **_STYLES[split])
    values = [value for splits in curves.values() for points in splits.values() for value in points.values()]
    if min(values) > 0 and max(values) > _LOGARITHMIC_FROM * min(values):
        axis.set_yscale("log")
    axis.grid(color="0.9", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axis.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))


def _draw_legend(axis: Axes, styles: Mapping[str, Mapping[str, Any]]) -> None:
    legend = axis.legend(
        [Line2D([], [], **style) for style in styles.values()],
        [drawable(name, 40) for name in styles],
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        fontsize="small",
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _name_phases(axis: Axes, ends: Mapping[str, int]) -> None:
    low, high = axis.get_xlim()
    start = low
    for name, end in ends.items():
        # About 80 small characters fit along the axis: a short phase gets a shortened name.
        room = max(1, int(80 * (end - start) / (high - low)))
        axis.annotate(
            drawable(name, room),
            (start, 1.0),
            (2, 4),
            ("data", "axes fraction"),
            textcoords="offset points",
            fontsize="small",
            color="0.35",
            parse_math=False,
        )
        start = end


@contextlib.contextmanager
def _figure(height: float, title: str) -> Iterator[Figure]:
    # Figure and canvas without pyplot: no global state, and no backend is chosen for the process.
    with matplotlib.rc_context({"font.family": [FONT_FAMILY], "text.usetex": False}):
        figure = Figure((_WIDTH, height + 0.6), _DPI, layout="constrained")
        if title:
            figure.suptitle(drawable(title), parse_math=False, x=0.01, ha="left")
        yield figure


def _render(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
