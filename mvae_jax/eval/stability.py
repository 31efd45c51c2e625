"""Signs of collapse of adversarial training, in samples, reconstructions and the run's metrics.jsonl."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mvae_jax.eval import _results
from mvae_jax.eval._arguments import measure
from mvae_jax.eval.cross_modal import diversity

# Blur costs samples some of their variance, but a model that shows different images keeps well over half of the
# deviation. At a tenth, all are one image to the eye.
LEAST_SPREAD = 0.1
# A grey picture, or always the same one, is as far from any image as from its own.
MOST_ALIKE = 0.95
# Players of one strength leave a discriminator errors on both sides. Without any it has nothing to learn, and its
# gradient, all that a generator learns from, no longer tells better images from worse ones.
SATURATED_ACCURACY = 0.99
# A gate is meant to hold a player back for a while. One that moves in fewer than one of twenty steps stands still.
LEAST_UPDATED = 0.05
# A step is refused now and then, and training goes on as if it had not been. One of a hundred is no accident.
MOST_REFUSED = 0.01


@dataclasses.dataclass(frozen=True)
class GradientNorm:
    """Norm of a group's gradient over a run.

    Attributes:
        median: of the recorded values.
        last: of them.
    """

    median: float
    last: float


@dataclasses.dataclass(frozen=True)
class Stability(_results.Result):
    """Signs of collapse. What a run has not recorded is None or missing.

    Shares and means over steps are of those during which the metric was recorded; "late" are the last tenth of them.

    Attributes:
        spread: how much samples differ, relative to real images, see `cross_modal.diversity`: 1 is right, 0 is one
            image over and over. None if samples are not finite, or there are none.
        reconstruction_error: squared error of reconstructions from their images, relative to that from all other
            images: 0 is right, 1 tells nothing of them. None if they are not finite, or there are none.
        label_share: share of the samples that have their most frequent label, in [0, 1]; None without labels.
        refused: share of the steps that were not taken because something was not finite, in [0, 1].
        updated: objective -> share of the steps in which its gate was open, in [0, 1]; without a gate it is missing.
        updated_late: the same, late.
        real_accuracy: share of real images that the discriminator called real, late, in [0, 1].
        fake_accuracy: share of generated images that it called generated, late, in [0, 1].
        gradient_norms: group -> its gradient's norm.
        problems: what is wrong, a sentence each; empty if nothing was found.
    """

    spread: float | None
    reconstruction_error: float | None
    label_share: float | None
    refused: float | None
    updated: Mapping[str, float]
    updated_late: Mapping[str, float]
    real_accuracy: float | None
    fake_accuracy: float | None
    gradient_norms: Mapping[str, GradientNorm]
    problems: tuple[str, ...]


@measure(unchecked=("samples", "reconstructions", "records"))  # values that are not finite are among the signs
def assess_stability(
    samples: npt.ArrayLike | None,
    real: npt.ArrayLike,
    records: Sequence[Mapping[str, Any]],
    *,
    reconstructions: npt.ArrayLike | None = None,
    labels: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
) -> Stability:
    """Looks for collapse: samples of one image or label, reconstructions that tell nothing of their images.

    And for a discriminator that always wins, a player at rest, values not finite.

    It names what is certain to be wrong. A run without a problem may still be a bad one.

    Args:
        samples: images from the prior, [N, H, W, C], N at least 2; None of a model without a prior.
        real: real images on the same scale, [M, H, W, C], M at least 2.
        records: lines of metrics.jsonl, as `train.logging.read_metrics` returns them.
        reconstructions: of the real images, [M, H, W, C]; None of a model that does not encode.
        labels: of the samples, as a classifier calls them, [N], and of the real images, [M]; integers from 0.

    Returns:
        The signs, and what follows from them.

    Raises:
        ValueError: `samples` or `real` are not [N, H, W, C] with N at least 2, `real` is not finite, all real images
            are equal, or `reconstructions` have another shape than `real`.
    """
    broken = {"samples": _not_finite_of(samples), "reconstructions": _not_finite_of(reconstructions)}
    spread = None if samples is None or broken["samples"] else diversity(np.asarray(samples)[None], real).ratio
    series = _series(records)
    means, late = ({name: metric.mean(share) for name, metric in series.items()} for share in (1.0, 0.1))
    signs = Stability(
        spread=spread,
        reconstruction_error=(
            None if reconstructions is None or broken["reconstructions"] else _relative_error(reconstructions, real)
        ),
        label_share=None if labels is None else _most_frequent(labels[0])[1],
        refused=1.0 - means["step/finite"] if "step/finite" in means else None,
        updated=_ending(means, "/updated"),
        updated_late=_ending(late, "/updated"),
        real_accuracy=late.get("discriminator/real_accuracy"),
        fake_accuracy=late.get("discriminator/fake_accuracy"),
        gradient_norms={
            name: GradientNorm(float(np.median(metric.values)), float(metric.values[-1]))
            for name, metric in _ending(series, "/gradient_norm").items()
        },
        problems=(),
    )
    problems = [f"{share} {name} hold values that are not finite." for name, share in broken.items() if share]
    problems += [] if labels is None else _one_label(*labels)
    return dataclasses.replace(signs, problems=(*problems, *_problems(signs), *_not_finite(records)))


def _not_finite_of(pictures: npt.ArrayLike | None) -> str:
    """How many pictures hold values that are not finite, as "2 of 50"; "" if none does."""
    pictures = np.zeros(0) if pictures is None else np.asarray(pictures)
    count = sum(not np.isfinite(picture).all() for picture in pictures)
    return f"{count} of {len(pictures)}" if count else ""


def _relative_error(reconstructions: npt.ArrayLike, real: npt.ArrayLike) -> float:
    """Mean squared error of reconstructions from their images, by that from all other images."""
    a, b = (np.asarray(pictures, np.float64) for pictures in (reconstructions, real))
    if a.shape != b.shape:
        raise ValueError(
            f"reconstructions have shape {a.shape} and real {b.shape}, expected the same: give one of each."
        )
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    of_pairs, count = np.square(a - b).sum(), len(a)
    of_all = count * (np.square(a).sum() + np.square(b).sum()) - 2 * a.sum(axis=0) @ b.sum(axis=0)
    return float(of_pairs * (count - 1) / (of_all - of_pairs))


def _most_frequent(labels: npt.ArrayLike) -> tuple[int, float]:
    """The most frequent label, and its share."""
    counts = np.bincount(np.asarray(labels))
    return int(counts.argmax()), float(counts.max() / counts.sum())


def _one_label(samples: npt.ArrayLike, real: npt.ArrayLike) -> list[str]:
    """A sentence where a label's share of the samples is more than halfway from that of real images to all of them."""
    label, share = _most_frequent(samples)
    expected = float((np.asarray(real) == label).mean())
    if share <= (1 + expected) / 2:
        return []
    return [
        f"The samples are nearly all of one kind: {share:.1%} are called {label}, which {expected:.1%} of the real "
        f"images are, expected at most {(1 + expected) / 2:.0%}."
    ]


def _problems(signs: Stability) -> list[str]:
    problems = []
    if signs.spread is not None and signs.spread < LEAST_SPREAD:
        problems.append(
            f"The samples are nearly one image: they differ {signs.spread:.1%} as much as real images, expected at "
            f"least {LEAST_SPREAD:.0%}."
        )
    if signs.reconstruction_error is not None and signs.reconstruction_error > MOST_ALIKE:
        problems.append(
            "The reconstructions tell nothing of their images: their squared error is "
            f"{signs.reconstruction_error:.1%} of that from other images, expected at most {MOST_ALIKE:.0%}."
        )
    if min(signs.real_accuracy or 0.0, signs.fake_accuracy or 0.0) > SATURATED_ACCURACY:
        problems.append(
            f"The discriminator is saturated: over the last tenth of the steps it knew {signs.real_accuracy:.1%} of "
            f"the real and {signs.fake_accuracy:.1%} of the generated images, expected at most "
            f"{SATURATED_ACCURACY:.0%} of one kind."
        )
    for name, share in signs.updated_late.items():
        if share < LEAST_UPDATED:
            problems.append(
                f"{name!r} is hardly updated: in {share:.1%} of the last tenth of the steps and "
                f"{signs.updated[name]:.1%} of all, expected at least {LEAST_UPDATED:.0%}."
            )
    if signs.refused is not None and signs.refused > MOST_REFUSED:
        problems.append(
            f"{signs.refused:.1%} of the steps were refused because something was not finite, expected at most "
            f"{MOST_REFUSED:.0%}."
        )
    return problems


def _not_finite(records: Sequence[Mapping[str, Any]]) -> list[str]:
    first_steps = {
        name: record["step"]
        for record in reversed(records)
        for name, value in record.items()
        if isinstance(value, float) and not math.isfinite(value)
    }
    return [f"{name!r} is not finite, first at step {step}." for name, step in sorted(first_steps.items())]


@dataclasses.dataclass(frozen=True)
class _Metric:
    """Record of a metric over a run: each value is a mean over the steps since the record before.

    Attributes:
        ends: step of each record, [T], ascending.
        steps: how many steps each is a mean of, [T].
        values: the means, [T].
    """

    ends: np.ndarray
    steps: np.ndarray
    values: np.ndarray

    def mean(self, share: float) -> float:
        """Mean over the last `share` of the steps, as far as records tell: those count that end within."""
        first, last = self.ends[0] - self.steps[0], self.ends[-1]
        within = self.ends > last - share * (last - first)
        return float(np.average(self.values[within], weights=self.steps[within]))


def _series(records: Sequence[Mapping[str, Any]]) -> dict[str, _Metric]:
    """All metrics of training by name; values that are not finite are left out."""
    rows: dict[str, list[tuple[int, int, float]]] = {}
    before = 0
    for record in records:
        if record.get("split") != "train":
            continue
        steps = max(record["step"] - before, 1)
        before = record["step"]
        for name, value in record.items():
            if isinstance(value, float) and math.isfinite(value):
                rows.setdefault(name, []).append((record["step"], steps, value))
    return {name: _Metric(*map(np.array, zip(*points, strict=True))) for name, points in rows.items()}


def _ending(metrics: Mapping[str, Any], ending: str) -> dict[str, Any]:
    """The metrics whose names end so, named by what comes before."""
    return {name.removesuffix(ending): value for name, value in metrics.items() if name.endswith(ending)}
