"""Figures of an evaluation: scores of pairs, decisions against the truth, attributes one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from mvae_jax.viz import _figure, _narrow
from mvae_jax.viz._text import fitting

_INK = "0.15"
_MOST_SERIES = 4
_LONGEST, _LONGEST_NARROW = 20, 12  # ems of a name beside the axes


@_narrow.versions
def score_distributions(
    match_scores: npt.ArrayLike, mismatch_scores: npt.ArrayLike, threshold: float, *, title: str = ""
) -> Image.Image:
    """Histograms of the scores of matching and mismatched pairs, and the border between the two decisions.

    Args:
        match_scores: scores of matching pairs, [N], finite, N > 0.
        mismatch_scores: scores of mismatched pairs, [M], finite, M > 0.
        threshold: pairs with a greater score are called a match.
        title: heading of the figure.

    Returns:
        The figure, 990 pixels wide.

    Raises:
        ValueError: scores are not [N] with N > 0, or they or the threshold are not finite.
    """
    scores = {"matching pairs": np.asarray(match_scores), "mismatched pairs": np.asarray(mismatch_scores)}
    for label, values in scores.items():
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
            raise ValueError(f"scores of {label} have shape {values.shape}, expected [N] with N > 0, all finite.")
    if not np.isfinite(threshold):
        raise ValueError(f"threshold is {threshold}, expected a finite number.")
    together = np.concatenate([*scores.values(), [threshold]])
    bins = np.linspace(together.min(), together.max(), 41).tolist()
    with _figure.figure(1.3 * _figure.PANEL_HEIGHT, title) as figure:
        axis = figure.subplots()
        for (label, values), colour in zip(scores.items(), _figure.COLOURS, strict=False):
            axis.hist(values, bins, label=label, color=colour, alpha=0.6)
        axis.axvline(threshold, color="0.2", linestyle="--", label=f"threshold {threshold:.3f}")
        axis.set_xlabel("consistency score")
        axis.set_ylabel("pairs")
        axis.spines[["top", "right"]].set_visible(False)
        handles, labels = axis.get_legend_handles_labels()
        entries = list(zip(labels, handles, strict=True))
        _figure.legend(axis, entries, loc="lower left", bbox_to_anchor=(0.0, 1.0))
        return _figure.render(figure)


@_narrow.versions
def confusion_matrix(
    counts: npt.ArrayLike,
    rows: Sequence[str] = ("actual mismatch", "actual match"),
    columns: Sequence[str] = ("predicted mismatch", "predicted match"),
    *,
    title: str = "",
) -> Image.Image:
    """Counts of decisions by truth, each with its share of the row, which is also its shade.

    Args:
        counts: [R, C], whole numbers from 0; row: the truth, column: the decision.
        rows: R labels.
        columns: C labels.
        title: heading of the figure.

    Returns:
        The figure, 990 pixels wide.

    Raises:
        ValueError: counts are not [R, C], or not whole numbers from 0.

    Reference:
        Kim, 2024, table 1.
    """
    table = np.asarray(counts)
    if table.shape != (len(rows), len(columns)) or not table.size:
        raise ValueError(
            f"counts have shape {table.shape}, expected [{len(rows)}, {len(columns)}]: a row and a column per label."
        )
    if not np.issubdtype(table.dtype, np.number) or not (np.isfinite(table) & (table >= 0) & (table % 1 == 0)).all():
        raise ValueError(f"counts are {table.tolist()}, expected whole numbers from 0, not shares.")
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    with _figure.figure(0.9 * len(rows) + 0.5, title) as figure:
        axis = figure.subplots()
        axis.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
        for (row, column), share in np.ndenumerate(shares):
            axis.text(
                column,
                row,
                f"{int(table[row, column]):,}\n{share:.1%} of row" if table[row].any() else "0\n–",
                ha="center",
                va="center",
                fontsize="large",
                color="white" if share > 0.55 else _INK,
            )
        axis.set_xticks(range(len(columns)), [fitting(name, _longest()) for name in columns], parse_math=False)
        axis.set_yticks(range(len(rows)), [fitting(name, _longest()) for name in rows], parse_math=False)
        axis.xaxis.tick_top()
        axis.tick_params(length=0)
        # White gaps between the fields.
        axis.set_xticks(np.arange(1, len(columns)) - 0.5, minor=True)
        axis.set_yticks(np.arange(1, len(rows)) - 0.5, minor=True)
        axis.grid(which="minor", color="white", linewidth=4)
        axis.tick_params(which="minor", length=0)
        axis.spines[:].set_visible(False)
        return _figure.render(figure)


@_narrow.versions
def attribute_bars(
    values: Mapping[str, Mapping[str, float | None]],
    *,
    baseline: float | Mapping[str, float | None] | None = None,
    baseline_label: str = "baseline",
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
    xlabel: str = "",
    title: str = "",
) -> Image.Image:
    """A share per attribute, such as an accuracy, for one or several series: bars, and their numbers at the right.

    It shows what one mean over all attributes hides.

    Args:
        values: series -> attribute -> value in [0, 1]; at most four series. Attributes are those of all series, from
            top to bottom in order of appearance; one that is missing or None has no bar.
        baseline: attribute -> value in [0, 1], or one value for all: a black mark across the bars of the attribute,
            what they are to be compared with, such as the accuracy of the majority class.
        baseline_label: what the mark is.
        intervals: series -> attribute -> (low, high), a line along the bar.
        xlabel: what the values are.
        title: heading of the figure.

    Returns:
        The figure, 990 pixels wide, as high as its bars need.

    Raises:
        ValueError: no or too many series, no value at all, a value outside [0, 1], or a baseline or an interval
            without a bar.
    """
    from matplotlib.artist import Artist
    from matplotlib.patches import Patch

    if not 0 < len(values) <= _MOST_SERIES:
        raise ValueError(f"got {len(values)} series, expected 1 to {_MOST_SERIES}.")
    shares = {series: _shares(series, bars) for series, bars in values.items()}
    attributes = list(dict.fromkeys(name for bars in shares.values() for name in bars))
    if not attributes:
        raise ValueError(f"none of the series {list(values)} has a value.")
    marks = _shares(baseline_label, baseline if isinstance(baseline, Mapping) else dict.fromkeys(attributes, baseline))
    if strangers := [name for name in marks if name not in attributes]:
        raise ValueError(f"the baseline has {strangers}, of which no series has a value; it has {attributes}.")
    if strangers := [name for name in intervals or {} if name not in shares]:
        raise ValueError(f"there are intervals of {strangers}, expected only of the series {list(shares)}.")

    row = {name: index for index, name in enumerate(attributes)}
    thickness = 0.84 / len(shares)
    entries: list[tuple[str, Artist]] = []
    with _figure.figure((0.17 * len(shares) + 0.1) * len(attributes) + 0.5, title) as figure:
        axis = figure.subplots()
        for index, ((series, bars), colour) in enumerate(zip(shares.items(), _figure.COLOURS, strict=False)):
            entries.append((series, Patch(color=colour)))
            place = {name: row[name] + (index - (len(shares) - 1) / 2) * thickness for name in bars}
            axis.barh(list(place.values()), list(bars.values()), 0.92 * thickness, color=colour)
            for name, (low, high) in _intervals(series, bars, intervals or {}).items():
                axis.plot([low, high], [place[name]] * 2, color=_INK, linewidth=1.0, marker="|")
            for name, value in bars.items():
                beside = axis.get_yaxis_transform()  # right of the axes, level with the bar
                number = axis.text(1.01, place[name], f"{value:.3f}", transform=beside, va="center_baseline")
                number.set(fontsize="small" if _narrow.asked() else "x-small", color=_INK)
        for name, mark in marks.items():
            axis.vlines(mark, row[name] - 0.46, row[name] + 0.46, color="black", linewidth=1.8)
        if marks:
            entries.append((baseline_label, _figure.stroke(color="black", linewidth=1.8)))
        axis.set_xlim(0.0, 1.0)
        axis.set_ylim(len(attributes) - 0.45, -0.55)
        axis.set_yticks(range(len(attributes)), [fitting(name, _longest()) for name in attributes], parse_math=False)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", color="0.9", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel(fitting(xlabel, _figure.room(40)), parse_math=False)
        _figure.legend(axis, entries, loc="lower left", bbox_to_anchor=(0.0, 1.0))
        return _figure.render(figure)


def _longest() -> int:
    return _LONGEST_NARROW if _narrow.asked() else _LONGEST


def _shares(label: str, bars: Mapping[str, float | None]) -> dict[str, float]:
    present = {name: value for name, value in bars.items() if value is not None}
    for name, value in present.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{label!r} of {name!r} is {value}, expected a share from 0 to 1, or None.")
    return present


def _intervals(
    series: str, bars: Mapping[str, float], intervals: Mapping[str, Mapping[str, tuple[float, float]]]
) -> Mapping[str, tuple[float, float]]:
    chosen = intervals.get(series, {})
    for name, (low, high) in chosen.items():
        if name not in bars or not 0.0 <= low <= high <= 1.0:
            raise ValueError(
                f"interval of {series!r} for {name!r} is {(low, high)}, expected 0 <= low <= high <= 1 for an "
                "attribute with a value."
            )
    return chosen
