"""Does this text describe this image? The consistency score and the benchmark of matching and mismatched pairs.

A pair is judged by the divergence of its two posteriors, so the benchmark needs no classifier: the encoders are
passed in. What it found is a frozen `Result` that carries its own provenance (protocol, counts, seed, threshold).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from mvae_jax import gaussian

Posterior = tuple[npt.ArrayLike, npt.ArrayLike]  # (mean, logvar), each [N, D]

PROTOCOL = "Kim 2024, section 7.1: curated mismatches, threshold from calibration images, match positive"
GENDER = ("male", "female")
HAIR = ("black_hair", "blond_hair", "bald")
GROUPS = (GENDER, ("smiling", "eyeglasses", "wearing_lipstick"), HAIR, ("mustache",))
UNTOUCHED = ("young",)


def consistency_score(
    image_posterior: Posterior,
    text_posterior: Posterior,
    *,
    direction: str = "img||txt",
    reduction: str = "mean",
) -> jax.Array:
    """Agreement of the two posteriors of each pair, s = 1 / (1 + KL).

    Args:
        image_posterior: mean and log variance of q(z | image), each [N, D].
        text_posterior: mean and log variance of q(z | text), each [N, D].
        direction: "img||txt" for KL(image || text), "txt||img" for KL(text || image) (MM-01).
        reduction: "mean" or "sum" of the divergence over the latent dimensions (MM-01).

    Returns:
        Scores, [N], in (0, 1]: 1 where the posteriors are equal.

    Raises:
        ValueError: unknown direction or reduction.

    Reference:
        Kim, 2024, section 5.2.4: the text names the second direction, the printed expression is the first.
    """
    image, text = (tuple(map(jnp.asarray, posterior)) for posterior in (image_posterior, text_posterior))
    chex.assert_rank([*image, *text], 2)
    chex.assert_equal_shape([*image, *text])
    pairs = {"img||txt": (*image, *text), "txt||img": (*text, *image)}
    reductions = {"mean": jnp.mean, "sum": jnp.sum}
    divergence = gaussian.kl_divergence(*_choose("direction", direction, pairs))
    return 1.0 / (1.0 + _choose("reduction", reduction, reductions)(divergence, axis=-1))


def most_changes(names: Sequence[str]) -> int:
    """Attributes that a mismatch can change whatever the image shows; of the hair colours only one counts."""
    known = {name.lower() for name in names}
    return len(known - set(UNTOUCHED) - set(HAIR)) + bool(known & set(HAIR))


def curate_mismatches(
    attributes: npt.ArrayLike,
    names: Sequence[str],
    *,
    seed: int | Sequence[int] | np.random.Generator,
    minimum_changes: int = 4,
) -> np.ndarray:
    """Attributes that do not describe the image, one vector per example.

    Each starts as the attributes of the next example (the last one's next is the first) and is then repaired: the
    opposite gender, at most one hair colour, a difference in each of `GROUPS` that `names` has, `young` as in the
    image, and at least `minimum_changes` differences. What is repaired is drawn at random. With the ten attributes
    of the paper the groups alone make five differences. The group of one, mustache, is always inverted, so that
    nearly every mismatch has one and a judge who never sees the image can tell: see `Result.blind_accuracy`.

    Args:
        attributes: [N, A] in {0, 1}.
        names: A names; case does not matter.
        seed: whatever `numpy.random.default_rng` takes.
        minimum_changes: least number of attributes that differ.

    Returns:
        Mismatching attributes, [N, A], of the dtype of `attributes`.

    Raises:
        ValueError: attributes are not [N, A] of zeros and ones, someone is both or neither male and female, or
            `names` has too few attributes for the minimum.

    Reference:
        Kim, 2024, section 7.1.2 (MM-04, MM-05).
    """
    own = np.asarray(attributes)
    if own.ndim != 2 or own.shape[1] != len(names):
        raise ValueError(f"attributes have shape {own.shape}, expected [N, {len(names)}]: one column per name.")
    if not np.isin(own, (0, 1)).all():
        raise ValueError("attributes hold other values than 0 and 1; pass the bits, not logits or probabilities.")
    if minimum_changes < 1:
        raise ValueError(f"minimum_changes is {minimum_changes}, expected at least 1: a mismatch must differ.")
    if most_changes(names) < minimum_changes:
        raise ValueError(
            f"of the attributes {list(names)} only {most_changes(names)} can differ at once, expected at least "
            f"minimum_changes={minimum_changes}; use more attributes or lower minimum_changes."
        )
    column = {name.lower(): index for index, name in enumerate(names)}
    gender, features, hair, other = ([column[name] for name in group if name in column] for group in GROUPS)
    untouched = [column[name] for name in UNTOUCHED if name in column]
    unclear = np.flatnonzero(own[:, gender].sum(axis=1) != 1)
    if len(gender) == 2 and len(unclear):
        raise ValueError(
            f"example {unclear[0]} is both or neither male and female, so that it has no opposite gender; "
            "derive female as 1 - male."
        )

    rng = np.random.default_rng(seed)
    hairstyles = np.concatenate([np.zeros((1, len(hair))), np.eye(len(hair))]).astype(own.dtype)
    free = np.setdiff1d(np.arange(len(names)), untouched + gender + hair)
    mismatches = np.roll(own, -1, axis=0)
    for image, text in zip(own, mismatches, strict=True):
        text[untouched] = image[untouched]
        text[gender] = 1 - image[gender]
        if hair:
            possible = hairstyles[(hairstyles != image[hair]).any(axis=1)]
            # The next example's own hair if it may stay, one colour of several, else any.
            similar = possible[(possible <= text[hair]).all(axis=1) & (possible.any(axis=1) == text[hair].any())]
            text[hair] = rng.choice(similar if len(similar) else possible)
        for group in (features, other):
            if group and (text[group] == image[group]).all():
                flipped = rng.choice(group)
                text[flipped] = 1 - text[flipped]
        same = free[text[free] == image[free]]
        missing = minimum_changes - (text != image).sum()
        if missing > 0:
            flipped = rng.choice(same, missing, replace=False)
            text[flipped] = 1 - text[flipped]
    return mismatches


def threshold(match_scores: npt.ArrayLike, mismatch_scores: npt.ArrayLike, weight: float = 0.6) -> float:
    """Decision border: weight * mean(match) + (1 - weight) * mean(mismatch).

    Args:
        match_scores: scores of matching pairs of calibration images, [N]: never of the images that are judged.
        mismatch_scores: scores of their mismatched pairs, [N].
        weight: weight of the matching pairs.

    Returns:
        The border; a pair is accepted if its score is greater.

    Reference:
        Kim, 2024, section 5.2.4 (MM-06).
    """
    match, mismatch = np.asarray(match_scores), np.asarray(mismatch_scores)
    return float(weight * match.mean() + (1.0 - weight) * mismatch.mean())


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
    def at(cls, border: float, match_scores: npt.ArrayLike, mismatch_scores: npt.ArrayLike) -> Confusion:
        """Counts the decisions score > border."""
        match, mismatch = np.asarray(match_scores) > border, np.asarray(mismatch_scores) > border
        return cls(int((~mismatch).sum()), int(mismatch.sum()), int((~match).sum()), int(match.sum()))

    def rates(self, positive: str = "match") -> Rates:
        """Accuracy, precision, recall and F1.

        Args:
            positive: "match", as the published tables; "mismatch" is the released code's labelling (MM-07).

        Raises:
            ValueError: unknown class.
        """
        counts = {
            "match": (self.matches_accepted, self.mismatches_accepted, self.matches_rejected),
            "mismatch": (self.mismatches_rejected, self.matches_rejected, self.mismatches_accepted),
        }
        true_positive, false_positive, false_negative = _choose("positive", positive, counts)
        return Rates(
            accuracy=_ratio(self.matches_accepted + self.mismatches_rejected, sum(dataclasses.astuple(self))),
            precision=_ratio(true_positive, true_positive + false_positive),
            recall=_ratio(true_positive, true_positive + false_negative),
            f1=_ratio(2 * true_positive, 2 * true_positive + false_positive + false_negative),
        )


def auroc(positive_scores: npt.ArrayLike, negative_scores: npt.ArrayLike) -> float:
    """Area under the ROC curve: P(positive > negative) + P(positive = negative) / 2 over all pairs.

    Args:
        positive_scores: scores of the positive class, [P], at least one.
        negative_scores: scores of the negative class, [N], at least one.

    Returns:
        The area, in [0, 1]; 0.5 is chance.

    Reference:
        Hanley and McNeil, 1982, The meaning and use of the area under a ROC curve.
    """
    positive, negative = np.asarray(positive_scores), np.sort(np.asarray(negative_scores))
    beaten = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(beaten.mean() / (2 * len(negative)))


def bootstrap_intervals(
    border: float,
    match_scores: npt.ArrayLike,
    mismatch_scores: npt.ArrayLike,
    *,
    seed: int | Sequence[int],
    draws: int = 1000,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of the rates and the AUROC over images drawn with replacement.

    An image brings both its pairs, and the border stays: what varies is the sample of images that are judged.

    Args:
        border: the decision border.
        match_scores: [N].
        mismatch_scores: [N], of the same images.
        seed: of the draws.
        draws: how many.
        level: share of the draws between both ends.

    Returns:
        {"accuracy", "precision", "recall", "f1", "auroc": (low, high)}.
    """
    match, mismatch = np.asarray(match_scores), np.asarray(mismatch_scores)
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(draws):
        drawn = rng.integers(len(match), size=len(match))
        rates = Confusion.at(border, match[drawn], mismatch[drawn]).rates()
        rows.append(dataclasses.asdict(rates) | {"auroc": auroc(match[drawn], mismatch[drawn])})
    ends = (0.5 - level / 2, 0.5 + level / 2)
    low_and_high = {name: np.quantile([row[name] for row in rows], ends) for name in rows[0]}
    return {name: (float(low), float(high)) for name, (low, high) in low_and_high.items()}


@dataclasses.dataclass(frozen=True)
class Result:
    """What the benchmark found, and how.

    Attributes:
        protocol: name of the protocol.
        direction: direction of the divergence.
        reduction: its reduction over latent dimensions.
        seed: seed of the curation and of the intervals.
        minimum_changes: attributes in which each mismatch differs at least; the published protocol has four.
        calibration_images: images that gave the threshold.
        validation_images: N images that were judged, in 2 N pairs.
        threshold: the decision border.
        threshold_weight: weight of the matching pairs in it.
        mean_match_score: mean score of the matching pairs judged.
        mean_mismatch_score: mean score of the mismatched pairs judged.
        confusion: counts of decisions.
        rates: their rates, match positive.
        auroc: area under the ROC curve, which needs no threshold.
        blind_accuracy: accuracy of the best rule that looks at one attribute of the text and never at the image.
        intervals: 95 % bootstrap intervals over the images.
    """

    protocol: str
    direction: str
    reduction: str
    seed: int
    minimum_changes: int
    calibration_images: int
    validation_images: int
    threshold: float
    threshold_weight: float
    mean_match_score: float
    mean_mismatch_score: float
    confusion: Confusion
    rates: Rates
    auroc: float
    blind_accuracy: float
    intervals: Mapping[str, tuple[float, float]]

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts of plain numbers and strings, ready for JSON."""
        return dataclasses.asdict(self)


class Benchmark(NamedTuple):
    """The result and the arrays behind it, for figures.

    Attributes:
        result: the numbers.
        match_scores: scores of the N validation images with their own attributes, [N].
        mismatch_scores: scores of the same images with the mismatching attributes, [N].
        mismatches: those attributes, [N, A].
    """

    result: Result
    match_scores: np.ndarray
    mismatch_scores: np.ndarray
    mismatches: np.ndarray


def benchmark(
    encode_images: Callable[[Any], Posterior],
    encode_attributes: Callable[[Any], Posterior],
    calibration: tuple[npt.ArrayLike, npt.ArrayLike],
    validation: tuple[npt.ArrayLike, npt.ArrayLike],
    names: Sequence[str],
    *,
    seed: int,
    direction: str = "img||txt",
    reduction: str = "mean",
    threshold_weight: float = 0.6,
    minimum_changes: int = 4,
) -> Benchmark:
    """Tells matching from mismatched pairs: N images, each with its own and with a curated mismatching text.

    Args:
        encode_images: images -> (mean, logvar), each [N, D]; called once per split, with all its images.
        encode_attributes: attributes [N, A] -> (mean, logvar), each [N, D].
        calibration: images and attributes [M, A] that give the threshold, disjoint from those judged.
        validation: images and attributes [N, A] that are judged.
        names: names of the A attributes.
        seed: seed of the curation.
        direction: as in `consistency_score`.
        reduction: as in `consistency_score`.
        threshold_weight: as in `threshold`.
        minimum_changes: as in `curate_mismatches`.

    Returns:
        The result, scores and mismatching attributes of the validation images.

    Raises:
        ValueError: a split is empty or its images and attributes differ in number, scores are not finite, or what
            `consistency_score` and `curate_mismatches` raise.

    Reference:
        Kim, 2024, section 7.1 (MM-01, MM-04 to MM-07).
    """

    def scores(name: str, pairs: tuple[npt.ArrayLike, npt.ArrayLike], stream: int) -> tuple[np.ndarray, ...]:
        images, attributes = pairs[0], np.asarray(pairs[1])
        if len(attributes) != np.shape(images)[0] or not len(attributes):
            raise ValueError(
                f"{name} has {np.shape(images)[0]} images and {len(attributes)} rows of attributes, expected "
                "equally many and at least one."
            )
        mismatches = curate_mismatches(attributes, names, seed=(seed, stream), minimum_changes=minimum_changes)
        posterior = encode_images(images)
        match, mismatch = (
            np.asarray(
                consistency_score(posterior, encode_attributes(bits), direction=direction, reduction=reduction),
                np.float64,
            )
            for bits in (attributes, mismatches)
        )
        broken = int((~np.isfinite(match) | ~np.isfinite(mismatch)).sum())
        if broken:
            raise ValueError(
                f"{broken} of the {len(match)} {name} images have a score that is not finite; look at the means "
                "and log variances of the encoders, and at the last finite checkpoint."
            )
        return match, mismatch, mismatches

    calibration_match, calibration_mismatch, _ = scores("calibration", calibration, 0)
    match, mismatch, mismatches = scores("validation", validation, 1)
    border = threshold(calibration_match, calibration_mismatch, threshold_weight)
    confusion = Confusion.at(border, match, mismatch)
    result = Result(
        protocol=PROTOCOL,
        direction=direction,
        reduction=reduction,
        seed=seed,
        minimum_changes=minimum_changes,
        calibration_images=len(calibration_match),
        validation_images=len(match),
        threshold=border,
        threshold_weight=threshold_weight,
        mean_match_score=float(match.mean()),
        mean_mismatch_score=float(mismatch.mean()),
        confusion=confusion,
        rates=confusion.rates(),
        auroc=auroc(match, mismatch),
        blind_accuracy=_blind_accuracy(np.asarray(validation[1]), mismatches),
        intervals=bootstrap_intervals(border, match, mismatch, seed=(seed, 2)),  # 0 and 1 curated the mismatches
    )
    return Benchmark(result, match, mismatch, mismatches)


def _blind_accuracy(attributes: np.ndarray, mismatches: np.ndarray) -> float:
    """Accuracy of the best rule "a match if and only if this bit is b": half plus half the gap of its means."""
    return 0.5 + float(np.abs(attributes.mean(axis=0) - mismatches.mean(axis=0)).max()) / 2


def _choose(argument: str, value: str, choices: Mapping[str, Any]) -> Any:
    if value not in choices:
        raise ValueError(f"{argument} is {value!r}; choose one of {', '.join(map(repr, choices))}.")
    return choices[value]


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
