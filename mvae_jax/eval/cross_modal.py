"""Attributes predicted from images, against the truth and against guessing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mvae_jax.eval.consistency import auroc


@dataclasses.dataclass(frozen=True)
class AttributeScore:
    """How well one attribute is predicted, in [0, 1]; None where all examples are of one class.

    Attributes:
        name: the attribute.
        prevalence: share of the examples that have it.
        accuracy: share of right predictions.
        majority_accuracy: accuracy of always answering the more frequent class of these examples.
        balanced_accuracy: mean of the accuracies among those with it and those without; guessing gives 0.5.
        auroc: area under the ROC curve of the logits.
    """

    name: str
    prevalence: float
    accuracy: float
    majority_accuracy: float
    balanced_accuracy: float | None
    auroc: float | None


@dataclasses.dataclass(frozen=True)
class AttributeScores:
    """How well all attributes are predicted, in [0, 1].

    Attributes:
        count: number of examples.
        accuracy: share of right bits.
        majority_accuracy: share of right bits when each attribute is answered by its more frequent class.
        exact_match: share of examples with all bits right.
        majority_exact_match: share of the examples that have the most frequent vector.
        attributes: one score per attribute, in order.
    """

    count: int
    accuracy: float
    majority_accuracy: float
    exact_match: float
    majority_exact_match: float
    attributes: tuple[AttributeScore, ...]

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts and lists of plain numbers and strings, ready for JSON."""
        return dataclasses.asdict(self)


def score_attributes(logits: npt.ArrayLike, attributes: npt.ArrayLike, names: Sequence[str]) -> AttributeScores:
    """Compares predicted attributes (logit > 0) with the true ones.

    For image to text the logits are the text decoder's at the mean of the image's posterior. Most attributes are
    rare, so a high accuracy says little alone: the majority's stands beside it. That baseline is taken from the
    examples themselves, which favours it.

    Args:
        logits: [N, A].
        attributes: [N, A] in {0, 1}.
        names: A names.

    Returns:
        The scores.

    Raises:
        ValueError: shapes disagree, there is no example, or a logit is not a number.
    """
    logits, truth = np.asarray(logits), np.asarray(attributes) > 0.5
    if logits.shape != truth.shape or truth.ndim != 2 or truth.shape[1] != len(names) or not len(truth):
        raise ValueError(
            f"logits have shape {logits.shape} and attributes {truth.shape}, expected both [N, {len(names)}] with "
            "one column per name and at least one row."
        )
    if np.isnan(logits).any():
        raise ValueError(f"{int(np.isnan(logits).sum())} of {logits.size} logits are not a number.")
    right = (logits > 0) == truth
    scores = tuple(
        _score_attribute(name, logits[:, index], truth[:, index], right[:, index]) for index, name in enumerate(names)
    )
    _, frequencies = np.unique(truth, axis=0, return_counts=True)
    return AttributeScores(
        count=len(truth),
        accuracy=float(right.mean()),
        majority_accuracy=float(np.mean([score.majority_accuracy for score in scores])),
        exact_match=float(right.all(axis=1).mean()),
        majority_exact_match=float(frequencies.max() / len(truth)),
        attributes=scores,
    )


def _score_attribute(name: str, logits: np.ndarray, truth: np.ndarray, right: np.ndarray) -> AttributeScore:
    prevalence = float(truth.mean())
    both_classes = 0.0 < prevalence < 1.0
    return AttributeScore(
        name=name,
        prevalence=prevalence,
        accuracy=float(right.mean()),
        majority_accuracy=max(prevalence, 1.0 - prevalence),
        balanced_accuracy=float(right[truth].mean() + right[~truth].mean()) / 2 if both_classes else None,
        auroc=auroc(logits[truth], logits[~truth]) if both_classes else None,
    )
