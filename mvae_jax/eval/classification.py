"""Scores of two classes, match and mismatch: counts of decisions, their rates, area under the ROC curve, intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mvae_jax.eval._arguments import measure


@dataclasses.dataclass(frozen=True)
class Rates:
    """Shares of right decisions, in [0, 1]; 0 where a denominator is 0.

    Attributes:
        accuracy: right decisions of all.
        precision: true positives of those called positive.
        recall: true positives of the positive.
        f1: harmonic mean of precision and recall.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Counts of pairs by truth and decision, in the order of the published table.

    Attributes:
        mismatches_rejected: mismatched pairs called a mismatch.
        mismatches_accepted: mismatched pairs called a match.
        matches_rejected: matching pairs called a mismatch.
        matches_accepted: matching pairs called a match.
    """

    mismatches_rejected: int
    mismatches_accepted: int
    matches_rejected: int
    matches_accepted: int

    @classmethod
    @measure(infinite=("threshold", "match_scores", "mismatch_scores"))
    def at(cls, threshold: float, match_scores: npt.ArrayLike, mismatch_scores: npt.ArrayLike) -> Confusion:
        """Counts the decisions score > threshold.

        Raises:
            ValueError: a score is not a number.
        """
        match, mismatch = np.asarray(match_scores) > threshold, np.asarray(mismatch_scores) > threshold
        return cls(int((~mismatch).sum()), int(mismatch.sum()), int((~match).sum()), int(match.sum()))

    def rates(self, positive: str = "match") -> Rates:
        """Accuracy, precision, recall and F1.

        Args:
            positive: "match", as the published tables; "mismatch" is the released code's labelling (MM-07).

        Raises:
            ValueError: the class is neither "match" nor "mismatch".
        """
        counts = {
            "match": (self.matches_accepted, self.mismatches_accepted, self.matches_rejected, self.mismatches_rejected),
            "mismatch": (
                self.mismatches_rejected,
                self.matches_rejected,
                self.mismatches_accepted,
                self.matches_accepted,
            ),
        }
        if positive not in counts:
            raise ValueError(f"positive is {positive!r}; choose one of {', '.join(map(repr, counts))}.")
        return Rates(**{name: float(rate) for name, rate in _rates(*counts[positive]).items()})


@measure(infinite=("positive_scores", "negative_scores"))
def auroc(positive_scores: npt.ArrayLike, negative_scores: npt.ArrayLike) -> float:
    """Area under the ROC curve: P(positive > negative) + P(positive = negative) / 2 over all pairs.

    Args:
        positive_scores: scores of the positive class, [P], at least one.
        negative_scores: scores of the negative class, [N], at least one.

    Returns:
        The area, in [0, 1]; 0.5 is chance.

    Raises:
        ValueError: a score is not a number.

    Reference:
        Hanley and McNeil, 1982, The meaning and use of the area under a ROC curve.
    """
    positive, negative = np.asarray(positive_scores), np.asarray(negative_scores)
    return float(_auroc(positive, negative, np.ones(positive.shape), np.ones(negative.shape)))


@dataclasses.dataclass(frozen=True)
class Share:
    """A share of examples; of none it has neither a value nor an interval.

    Attributes:
        value: in [0, 1]; None of no example.
        low: lower end of its 95 % interval; None of no example.
        high: upper end; None of no example.
        count: number of examples.

    Raises:
        ValueError: there are numbers without an example, or examples without numbers.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int

    def __post_init__(self) -> None:
        numbers = (self.value, self.low, self.high)
        if any((number is None) != (self.count == 0) for number in numbers):
            raise ValueError(
                f"a share of {self.count} examples has {numbers}; expected numbers, and None of no example."
            )

    def __str__(self) -> str:
        """The value with its interval; a dash of no example."""
        return with_interval(self.value, self.low, self.high) if self.count else "\N{EM DASH}"


def with_interval(value: Any, low: Any, high: Any) -> str:
    """A number with the ends of its interval, as tables have it."""
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


@measure()
def share(decisions: npt.ArrayLike) -> Share:
    """Share of examples of which something is true, with Wilson's 95 % interval.

    With x of n and z = 1.96 its ends are (x + z^2 / 2 -+ z sqrt(x (n - x) / n + z^2 / 4)) / (n + z^2), which lie in
    [0, 1], and are no point where all or none are true.

    Args:
        decisions: [N], of truth values; N may be 0.

    Reference:
        Wilson, 1927, Probable inference, the law of succession, and statistical inference.
    """
    decisions = np.asarray(decisions, bool)
    count, true = decisions.size, int(decisions.sum())
    if not count:
        return Share(None, None, None, 0)
    z = 1.959963984540054
    half = z * np.sqrt(true * (count - true) / count + z**2 / 4)
    low, high = ((true + z**2 / 2 + sign * half) / (count + z**2) for sign in (-1, 1))
    return Share(true / count, float(max(low, 0.0)), float(min(high, 1.0)), count)


@dataclasses.dataclass(frozen=True)
class Spread:
    """Variation of a number over repetitions of the benchmark.

    Attributes:
        mean: over the repetitions.
        standard_deviation: of these repetitions, root mean squared deviation from their mean; 0 for one.
        minimum: the least.
        maximum: the greatest.
    """

    mean: float
    standard_deviation: float
    minimum: float
    maximum: float


def spreads(
    thresholds: npt.ArrayLike, match_scores: npt.ArrayLike, mismatch_scores: npt.ArrayLike
) -> dict[str, Spread]:
    """Rates (match positive) and AUROC over K curations of the mismatches of the same N images.

    Args:
        thresholds: threshold of each curation, [K].
        match_scores: scores of the matching pairs, which no curation changes, [N].
        mismatch_scores: scores of the mismatched pairs of each curation, [K, N].

    Returns:
        A spread for each of "accuracy", "precision", "recall", "f1" and "auroc".

    Raises:
        ValueError: shapes disagree, or a value is not finite.
    """
    once_each = np.ones((1, np.size(match_scores)))
    performances = _performances(thresholds, match_scores, mismatch_scores, [once_each] * np.size(thresholds))
    return {
        name: Spread(float(values.mean()), float(values.std()), float(values.min()), float(values.max()))
        for name, values in performances.items()
    }


def bootstrap_intervals(
    thresholds: npt.ArrayLike,
    match_scores: npt.ArrayLike,
    mismatch_scores: npt.ArrayLike,
    *,
    seed: int | Sequence[int],
    draws: int = 1000,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of the rates (match positive) and the AUROC over images and curations.

    Each draw takes one of the K curations, all equally likely, with the threshold that belongs to it, and N of the
    N images with replacement; an image brings both its pairs. So the interval says where the figures of one
    curation would fall if images and curation were drawn anew. With K = 1 only the images vary; the model and the
    images that gave the thresholds never do. Noise that a curation adds to each image independently enters twice,
    through the images and through the curations: with K > 1 the interval errs on the wide side.

    Args:
        thresholds: threshold of each curation, [K].
        match_scores: scores of the matching pairs, which no curation changes, [N].
        mismatch_scores: scores of the mismatched pairs of the same images in each curation, [K, N].
        seed: of the draws.
        draws: how many.
        level: share of the draws between both ends.

    Returns:
        (low, high) for each of "accuracy", "precision", "recall", "f1" and "auroc".

    Raises:
        ValueError: shapes disagree, or a value is not finite.

    Reference:
        Efron and Tibshirani, 1993, An Introduction to the Bootstrap, chapter 13.
    """
    curations, images = np.size(thresholds), np.size(match_scores)
    rng = np.random.default_rng(seed)
    curation = rng.integers(curations, size=draws)
    weights = rng.multinomial(images, np.full(images, 1 / images), size=draws)  # how often a draw has each image
    performances = _performances(
        thresholds, match_scores, mismatch_scores, [weights[curation == k] for k in range(curations)]
    )
    ends = (0.5 - level / 2, 0.5 + level / 2)
    low_and_high = {name: np.quantile(values, ends) for name, values in performances.items()}
    return {name: (float(low), float(high)) for name, (low, high) in low_and_high.items()}


@measure()
def _performances(
    thresholds: npt.ArrayLike,
    match_scores: npt.ArrayLike,
    mismatch_scores: npt.ArrayLike,
    weights: Sequence[np.ndarray],
) -> dict[str, np.ndarray]:
    """Rates and AUROC of weighted images: each of the K curations has as many as it has rows of weights, [rows, N]."""
    match, mismatches, parts = np.asarray(match_scores), np.asarray(mismatch_scores), []
    if mismatches.shape != (np.size(thresholds), len(match)):
        raise ValueError(
            f"mismatch_scores have shape {mismatches.shape}, expected [{np.size(thresholds)}, {len(match)}]: a row "
            "per threshold and a column per match score."
        )
    for threshold, mismatch, weight in zip(np.asarray(thresholds), mismatches, weights, strict=True):
        accepted, wrongly_accepted = (weight[:, scores > threshold].sum(axis=1) for scores in (match, mismatch))
        count = weight.sum(axis=1)
        rates = _rates(accepted, wrongly_accepted, count - accepted, count - wrongly_accepted)
        parts.append(rates | {"auroc": _auroc(match, mismatch, weight, weight)})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rates(
    true_positive: npt.ArrayLike,
    false_positive: npt.ArrayLike,
    false_negative: npt.ArrayLike,
    true_negative: npt.ArrayLike,
) -> dict[str, np.ndarray]:
    """Rates of counts, elementwise."""
    tp, fp, fn, tn = (
        np.asarray(count, float) for count in (true_positive, false_positive, false_negative, true_negative)
    )
    parts = {
        "accuracy": (tp + tn, tp + fp + fn + tn),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
        "f1": (2 * tp, 2 * tp + fp + fn),
    }
    return {name: part / np.where(whole, whole, 1.0) for name, (part, whole) in parts.items()}


def _auroc(
    positive: np.ndarray, negative: np.ndarray, positive_weights: np.ndarray, negative_weights: np.ndarray
) -> np.ndarray:
    """AUROC of scores [P] and [N] that count as often as their weights [..., P] and [..., N] say; [...]."""
    order = np.argsort(negative)
    counts = np.cumsum(negative_weights[..., order], axis=-1)
    counts = np.concatenate([np.zeros_like(counts[..., :1]), counts], axis=-1)
    # Negatives below each positive and those not above it: a tie is in one of the two.
    below, not_above = (np.searchsorted(negative, positive, side, sorter=order) for side in ("left", "right"))
    beaten = (positive_weights * (counts[..., below] + counts[..., not_above])).sum(axis=-1)
    return beaten / (2 * positive_weights.sum(axis=-1) * counts[..., -1])
