"""Consistency of an image and a text: the score, and the benchmark of matching and mismatched pairs.

A pair is scored by the divergence of its two posteriors, so the benchmark needs no classifier: the encoders are
passed in. Its result is a frozen `Result` that carries its own provenance (protocol, counts, seed, threshold).
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

from mvae_jax import attributes as face_attributes
from mvae_jax import gaussian
from mvae_jax.eval import _results
from mvae_jax.eval._arguments import device_measure, measure
from mvae_jax.eval.classification import Confusion, Rates, Spread, auroc, bootstrap_intervals, spreads

Posterior = tuple[npt.ArrayLike, npt.ArrayLike]  # (mean, logvar), each [N, D]

PROTOCOL = "Kim 2024, section 7.1: curated mismatches, threshold from calibration images, match positive"
RELEASED_PROTOCOL = (
    "Kim 2024, released code: mismatches are other captions with random bits flipped until three differ (MM-04), "
    "threshold from the very pairs that are judged (MM-06), mismatch positive too (MM-07)"
)
GENDER = face_attributes.GENDER
HAIR = ("black_hair", "blond_hair", "bald")
GROUPS = (GENDER, ("smiling", "eyeglasses", "wearing_lipstick"), HAIR, ("mustache",))
UNTOUCHED = ("young",)
DIRECTIONS = ("img||txt", "txt||img")
REDUCTIONS = ("mean", "sum")


@device_measure()
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
        ValueError: `direction` or `reduction` is unknown, or a posterior is not finite.

    Reference:
        Kim, 2024, section 5.2.4: the text names the second direction, the printed expression is the first.
    """
    image, text = (tuple(map(jnp.asarray, posterior)) for posterior in (image_posterior, text_posterior))
    chex.assert_rank([*image, *text], 2)
    chex.assert_equal_shape([*image, *text])
    pairs = dict(zip(DIRECTIONS, ((*image, *text), (*text, *image)), strict=True))
    reductions = dict(zip(REDUCTIONS, (jnp.mean, jnp.sum), strict=True))
    divergence = gaussian.kl_divergence(*_choose("direction", direction, pairs))
    return 1.0 / (1.0 + _choose("reduction", reduction, reductions)(divergence, axis=-1))


def most_changes(names: Sequence[str]) -> int:
    """Attributes that a mismatch can change whatever the image shows; of the hair colours only one counts."""
    present = {name.lower() for name in names}
    return len(present - set(UNTOUCHED) - set(HAIR)) + bool(present & set(HAIR))


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
    nearly every mismatch has one, and a rule that never sees the image can tell: see `Outcome.blind_accuracy`.

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
    true = checked_bits(attributes, names)
    if minimum_changes < 1:
        raise ValueError(f"minimum_changes is {minimum_changes}, expected at least 1: a mismatch must differ.")
    if most_changes(names) < minimum_changes:
        raise ValueError(
            f"of the attributes {list(names)} only {most_changes(names)} can differ at once, expected at least "
            f"minimum_changes={minimum_changes}; use more attributes or lower minimum_changes."
        )
    gender, features, hair, other = (_columns(group, names) for group in GROUPS)
    untouched = _columns(UNTOUCHED, names)
    unclear = np.flatnonzero(true[:, gender].sum(axis=1) != 1)
    if len(gender) == 2 and len(unclear):
        raise ValueError(
            f"example {unclear[0]} is both or neither male and female, so that it has no opposite gender; "
            "derive female as 1 - male."
        )

    rng = np.random.default_rng(seed)
    hairstyles = np.concatenate([np.zeros((1, len(hair))), np.eye(len(hair))]).astype(true.dtype)
    free = np.setdiff1d(np.arange(len(names)), untouched + gender + hair)
    mismatches = np.roll(true, -1, axis=0)
    for image, text in zip(true, mismatches, strict=True):
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


def released_mismatches(
    attributes: npt.ArrayLike,
    names: Sequence[str],
    *,
    seed: int | Sequence[int] | np.random.Generator,
    minimum_changes: int = 3,
) -> np.ndarray:
    """Mismatches as the released code makes them for its confusion matrix: nothing keeps them well-formed.

    Each starts as the attributes of the previous example of a random permutation; then random bits, whichever they
    are, are flipped until enough differ.

    Args:
        attributes: [N, A] in {0, 1}.
        names: A names.
        seed: whatever `numpy.random.default_rng` takes.
        minimum_changes: least number of attributes that differ, at most A.

    Returns:
        Mismatching attributes, [N, A], of the dtype of `attributes`.

    Raises:
        ValueError: attributes are not [N, A] of zeros and ones, or `minimum_changes` is greater than A.

    Reference:
        Kim, 2024, released code, evaluate.py (MM-04).
    """
    true = checked_bits(attributes, names)
    if minimum_changes > len(names):
        raise ValueError(
            f"minimum_changes is {minimum_changes}, expected at most the {len(names)} attributes there are."
        )
    rng = np.random.default_rng(seed)
    order, mismatches = rng.permutation(len(true)), np.empty_like(true)
    mismatches[order] = true[np.roll(order, 1)]
    while len(similar := np.flatnonzero((mismatches != true).sum(axis=1) < minimum_changes)):
        flipped = similar, rng.integers(len(names), size=len(similar))
        mismatches[flipped] = 1 - mismatches[flipped]
    return mismatches


def single_edits(attributes: npt.ArrayLike, names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The attributes with one thing changed at a time, such that they still describe one person.

    Male and female are one item, "male/female": male is inverted, and female becomes what male was. A hair colour
    that is switched on switches the others off. Every other attribute is inverted on its own.

    Args:
        attributes: [N, A] in {0, 1}.
        names: A names; case does not matter.

    Returns:
        Edited attributes, [I, N, A], of the dtype of `attributes`, and the names of the I items.

    Raises:
        ValueError: attributes are not [N, A] of zeros and ones.
    """
    true, items = checked_bits(attributes, names), _items(names)
    gender, hair = _columns(GENDER, names), _columns(HAIR, names)
    edits = np.repeat(true[None], len(items), axis=0)
    for edited, column in zip(edits, items.values(), strict=True):
        edited[:, column] = 1 - true[:, column]
        if column in gender:
            edited[:, gender[1:]] = true[:, gender[:-1]]  # nothing if only one of them is there
        if column in hair:
            others = [other for other in hair if other != column]
            edited[np.ix_(true[:, column] == 0, others)] = 0
    return edits, tuple(items)


@measure()
def threshold(match_scores: npt.ArrayLike, mismatch_scores: npt.ArrayLike, weight: float = 0.6) -> float:
    """Decision threshold: weight * mean(match) + (1 - weight) * mean(mismatch).

    Args:
        match_scores: scores of matching pairs, [N]; not of the pairs to be decided, which would choose their threshold.
        mismatch_scores: scores of mismatched pairs of the same images, [N].
        weight: weight of the matching pairs.

    Returns:
        The threshold; a pair is accepted if its score is greater.

    Raises:
        ValueError: a score is not finite.

    Reference:
        Kim, 2024, section 5.2.4 (MM-06).
    """
    match, mismatch = np.asarray(match_scores), np.asarray(mismatch_scores)
    return float(weight * match.mean() + (1.0 - weight) * mismatch.mean())


@measure()
def most_accurate_threshold(match_scores: npt.ArrayLike, mismatch_scores: npt.ArrayLike) -> float:
    """Decision threshold that is right for most of the given pairs.

    Args:
        match_scores: scores of matching pairs, [N], at least 0; not of the pairs to be decided.
        mismatch_scores: scores of mismatched pairs, [M], likewise.

    Returns:
        The threshold, halfway between two neighbouring scores, below all of them or the highest; of several that are
        right equally often the lowest. A pair is accepted if its score is greater.

    Raises:
        ValueError: there are no matching or no mismatched pairs, or a score is not finite.

    Reference:
        Kim, 2024, section 5.2.4: "selected to optimize classification accuracy" (MM-16).
    """
    match, mismatch = np.sort(np.asarray(match_scores, float)), np.sort(np.asarray(mismatch_scores, float))
    if not len(match) or not len(mismatch):
        raise ValueError(
            f"there are {len(match)} matching and {len(mismatch)} mismatched pairs; expected at least one of each, to "
            "choose a threshold between them."
        )
    scores = np.unique([*match, *mismatch])
    halfway = (scores[:-1] + scores[1:]) / 2
    between = np.where(halfway < scores[1:], halfway, scores[:-1])  # of two adjacent floats rounding may give the upper
    thresholds = np.concatenate([scores[:1] / 2, between, scores[-1:]])
    accepted = len(match) - np.searchsorted(match, thresholds, side="right")
    rejected = np.searchsorted(mismatch, thresholds, side="right")
    return float(thresholds[(accepted + rejected).argmax()])


@dataclasses.dataclass(frozen=True)
class EditScores:
    """Change of some images' scores when one thing in their text is made wrong.

    Attributes:
        images: how many.
        mean_score: mean score of their own texts.
        mean_edited_score: mean score of the edited texts.
        rejected: share of the edited texts that are called a mismatch, in [0, 1].
        auroc: area under the ROC curve of own texts against edited ones; 0.5 is chance.
        paired: share of the images that score higher with their own text than with the edited one; ties count half.
    """

    images: int
    mean_score: float
    mean_edited_score: float
    rejected: float
    auroc: float
    paired: float


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """Sensitivity of the score to one wrong attribute of the text.

    Rare attributes are mostly added and frequent ones removed, which need not be equally easy: hence the split.

    Attributes:
        name: what was edited, as in `single_edits`.
        overall: scores of all images.
        added: of the images without the attribute, whose text was given it; None if there are none. For
            "male/female": women called men.
        removed: of the images with it, whose text lost it; None if there are none.
    """

    name: str
    overall: EditScores
    added: EditScores | None
    removed: EditScores | None


@measure(infinite=("threshold",))
def sensitivity(
    encode_attributes: Callable[[Any], Posterior],
    image_posterior: Posterior,
    attributes: npt.ArrayLike,
    names: Sequence[str],
    *,
    threshold: float,
    direction: str = "img||txt",
    reduction: str = "mean",
) -> tuple[Sensitivity, ...]:
    """Sensitivity of the score to single attributes: a true text against one in which one attribute is wrong.

    Args:
        encode_attributes: attributes [N, A] -> (mean, logvar), each [N, D]; called once per item and once more.
        image_posterior: mean and log variance of q(z | image), each [N, D].
        attributes: true attributes of the images, [N, A] in {0, 1}, at least one row.
        names: names of the A attributes.
        threshold: an edited text is rejected unless its score is greater.
        direction: as in `consistency_score`.
        reduction: as in `consistency_score`.

    Returns:
        One entry per item of `single_edits`, in its order.

    Raises:
        ValueError: what `consistency_score` and `single_edits` raise.
    """
    edits, items = single_edits(attributes, names)
    true_scores, *edited_scores = _scores(
        encode_attributes, image_posterior, [attributes, *edits], direction, reduction
    )

    def measure(name: str, column: int, scores: np.ndarray) -> Sensitivity:
        has = np.asarray(attributes)[:, column] == 1
        return Sensitivity(
            name,
            overall=_edit_scores(true_scores, scores, threshold),
            added=None if has.all() else _edit_scores(true_scores[~has], scores[~has], threshold),
            removed=_edit_scores(true_scores[has], scores[has], threshold) if has.any() else None,
        )

    return tuple(map(measure, items, _items(names).values(), edited_scores))


def _edit_scores(true_scores: np.ndarray, edited_scores: np.ndarray, threshold: float) -> EditScores:
    return EditScores(
        images=len(true_scores),
        mean_score=float(true_scores.mean()),
        mean_edited_score=float(edited_scores.mean()),
        rejected=float((edited_scores <= threshold).mean()),
        auroc=auroc(true_scores, edited_scores),
        paired=float((true_scores > edited_scores).mean() + (true_scores == edited_scores).mean() / 2),
    )


@dataclasses.dataclass(frozen=True)
class Outcome(_results.Result):
    """Outcome of a benchmark of N matching and N mismatched pairs, and how it was measured.

    Attributes:
        protocol: name of the protocol.
        direction: direction of the divergence.
        reduction: its reduction over latent dimensions.
        seed: seed of all draws.
        minimum_changes: attributes in which each mismatch differs at least.
        validation_images: N images of the pairs that were decided, 2 N.
        threshold: a pair is called a match if its score is greater.
        threshold_weight: weight of the matching pairs in it.
        mean_match_score: mean score of the matching pairs.
        mean_mismatch_score: mean score of the mismatched pairs.
        confusion: counts of decisions.
        rates: their rates, match positive.
        auroc: area under the ROC curve, which needs no threshold.
        blind_accuracy: accuracy of the best rule that looks at one attribute of the text and never at the image.
    """

    protocol: str
    direction: str
    reduction: str
    seed: int
    minimum_changes: int
    validation_images: int
    threshold: float
    threshold_weight: float
    mean_match_score: float
    mean_mismatch_score: float
    confusion: Confusion
    rates: Rates
    auroc: float
    blind_accuracy: float


@dataclasses.dataclass(frozen=True)
class Result(Outcome):
    """Result of `benchmark`; the figures of `Outcome` are those of the first curation.

    Attributes:
        calibration_images: images that gave the thresholds.
        curations: how often the mismatches were curated.
        most_accurate_threshold: the one that is right for most calibration pairs (MM-16), beside `threshold`, the
            published weighted mean.
        most_accurate_confusion: counts of the validation pairs' decisions at it.
        most_accurate_rates: their rates, match positive.
        intervals: 95 % bootstrap intervals over images and curations together, as in `bootstrap_intervals`.
        over_curations: spread over the curations alone, of the same images; each has its own threshold.
        sensitivity: how well one wrong attribute is noticed, at the threshold of the first curation.
    """

    calibration_images: int
    curations: int
    most_accurate_threshold: float
    most_accurate_confusion: Confusion
    most_accurate_rates: Rates
    intervals: Mapping[str, tuple[float, float]]
    over_curations: Mapping[str, Spread]
    sensitivity: tuple[Sensitivity, ...]


@dataclasses.dataclass(frozen=True)
class ReleasedResult(Outcome):
    """Result of `released_benchmark`, by the protocol of the released code.

    Attributes:
        threshold_images: images that gave the threshold, all of them among the N.
        rates_mismatch_positive: rates with mismatch as the positive class, as the released code prints them.
    """

    threshold_images: int
    rates_mismatch_positive: Rates


class Benchmark(NamedTuple):
    """The result and the arrays of the first curation, for figures.

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


@measure()
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
    curations: int = 20,
) -> Benchmark:
    """Tells matching from mismatched pairs: N images, each with its own and with a curated mismatching text.

    The mismatches of both splits are curated several times, which says how much the figures owe to the draw of the
    mismatches; each curation has the threshold of its own calibration mismatches. The first gives the figures and
    does not depend on how many follow.

    Args:
        encode_images: images -> (mean, logvar), each [N, D]; called once per split, with all its images.
        encode_attributes: attributes [N, A] -> (mean, logvar), each [N, D].
        calibration: images and attributes [M, A] that give the thresholds, disjoint from those of the validation.
        validation: images and attributes [N, A] of the pairs to be decided.
        names: names of the A attributes.
        seed: seed of the curations and of the intervals.
        direction: as in `consistency_score`.
        reduction: as in `consistency_score`.
        threshold_weight: as in `threshold`.
        minimum_changes: as in `curate_mismatches`; the published protocol has four.
        curations: how often the mismatches are curated.

    Returns:
        The result, scores and mismatching attributes of the validation images.

    Raises:
        ValueError: there is no curation, a split is empty or not finite, or its images and attributes differ in number,
            or what `consistency_score` and `curate_mismatches` raise.

    Reference:
        Kim, 2024, section 7.1 (MM-01, MM-04 to MM-07, MM-16).
    """
    if curations < 1:
        raise ValueError(f"curations is {curations}, expected at least 1: the first gives the figures.")

    def score(name: str, pairs: tuple[npt.ArrayLike, npt.ArrayLike], stream: int) -> tuple[Any, ...]:
        images, attributes = _split(name, pairs)
        mismatches = [
            curate_mismatches(attributes, names, seed=(seed, stream, curation), minimum_changes=minimum_changes)
            for curation in range(curations)
        ]
        posterior = encode_images(images)
        match, *mismatch = _scores(encode_attributes, posterior, [attributes, *mismatches], direction, reduction)
        return match, mismatch, mismatches[0], posterior

    calibration_match, calibration_mismatch, *_ = score("calibration", calibration, 0)
    match, mismatch, mismatches, posterior = score("validation", validation, 1)
    thresholds = [threshold(calibration_match, scores, threshold_weight) for scores in calibration_mismatch]
    most_accurate = most_accurate_threshold(calibration_match, calibration_mismatch[0])
    confusion = Confusion.at(most_accurate, match, mismatch[0])
    result = Result(
        protocol=PROTOCOL,
        direction=direction,
        reduction=reduction,
        seed=seed,
        minimum_changes=minimum_changes,
        threshold_weight=threshold_weight,
        **_outcome_fields(thresholds[0], match, mismatch[0], validation[1], mismatches),
        calibration_images=len(calibration_match),
        curations=curations,
        most_accurate_threshold=most_accurate,
        most_accurate_confusion=confusion,
        most_accurate_rates=confusion.rates(),
        intervals=bootstrap_intervals(thresholds, match, mismatch, seed=(seed, 2)),  # 0 and 1 curated the mismatches
        over_curations=spreads(thresholds, match, mismatch),
        sensitivity=sensitivity(
            encode_attributes,
            posterior,
            validation[1],
            names,
            threshold=thresholds[0],
            direction=direction,
            reduction=reduction,
        ),
    )
    return Benchmark(result, match, mismatch[0], mismatches)


@measure()
def released_benchmark(
    encode_images: Callable[[Any], Posterior],
    encode_attributes: Callable[[Any], Posterior],
    validation: tuple[npt.ArrayLike, npt.ArrayLike],
    names: Sequence[str],
    *,
    seed: int,
    direction: str = "img||txt",
    reduction: str = "mean",
    threshold_weight: float = 0.6,
) -> ReleasedResult:
    """The confusion matrix as the released code makes it, to compare with figures that come from that code.

    It differs from `benchmark` in three ways: mismatches are those of `released_mismatches` (at least three changes,
    or all attributes if there are fewer), the threshold comes from up to 1000 of the very images to be decided,
    and the rates are also given with mismatch as the positive class.

    Args:
        encode_images: images -> (mean, logvar), each [N, D]; called once, with all images.
        encode_attributes: attributes [N, A] -> (mean, logvar), each [N, D].
        validation: images and attributes [N, A] of the pairs to be decided.
        names: names of the A attributes.
        seed: seed of the mismatches and of the choice of images for the threshold.
        direction: as in `consistency_score`.
        reduction: as in `consistency_score`.
        threshold_weight: as in `threshold`.

    Returns:
        The result.

    Raises:
        ValueError: there are no images, they are not finite, images and attributes differ in number, or what
            `consistency_score` and `released_mismatches` raise.

    Reference:
        Kim, 2024, released code, evaluate.py (MM-01, MM-04, MM-06, MM-07).
    """
    images, attributes = _split("validation", validation)
    rng = np.random.default_rng((seed, 3))  # 0 to 2 belong to `benchmark`
    minimum_changes = min(3, len(names))
    mismatches = released_mismatches(attributes, names, seed=rng, minimum_changes=minimum_changes)
    posterior = encode_images(images)
    match, mismatch = _scores(encode_attributes, posterior, [attributes, mismatches], direction, reduction)
    chosen = rng.choice(len(match), min(1000, len(match)), replace=False)
    fitted = threshold(match[chosen], mismatch[chosen], threshold_weight)
    fields = _outcome_fields(fitted, match, mismatch, attributes, mismatches)
    return ReleasedResult(
        protocol=RELEASED_PROTOCOL,
        direction=direction,
        reduction=reduction,
        seed=seed,
        minimum_changes=minimum_changes,
        threshold_weight=threshold_weight,
        **fields,
        threshold_images=len(chosen),
        rates_mismatch_positive=fields["confusion"].rates("mismatch"),
    )


def _split(name: str, pairs: tuple[npt.ArrayLike, npt.ArrayLike]) -> tuple[Any, np.ndarray]:
    images, attributes = pairs[0], np.asarray(pairs[1])
    if len(attributes) != np.shape(images)[0] or not len(attributes):
        raise ValueError(
            f"{name} has {np.shape(images)[0]} images and {len(attributes)} rows of attributes, expected "
            "equally many and at least one."
        )
    return images, attributes


def _scores(
    encode_attributes: Callable[[Any], Posterior],
    image_posterior: Posterior,
    texts: Sequence[npt.ArrayLike],
    direction: str,
    reduction: str,
) -> np.ndarray:
    """Scores of the same N images with each of T texts, [T, N]."""
    posteriors = map(encode_attributes, texts)
    scores = [consistency_score(image_posterior, text, direction=direction, reduction=reduction) for text in posteriors]
    return np.stack(scores).astype(np.float64)


def _outcome_fields(
    threshold: float, match: np.ndarray, mismatch: np.ndarray, attributes: npt.ArrayLike, mismatches: np.ndarray
) -> dict[str, Any]:
    """The fields of `Outcome` that follow from the scores."""
    confusion = Confusion.at(threshold, match, mismatch)
    return {
        "validation_images": len(match),
        "threshold": threshold,
        "mean_match_score": float(match.mean()),
        "mean_mismatch_score": float(mismatch.mean()),
        "confusion": confusion,
        "rates": confusion.rates(),
        "auroc": auroc(match, mismatch),
        "blind_accuracy": _blind_accuracy(np.asarray(attributes), mismatches),
    }


def _blind_accuracy(attributes: np.ndarray, mismatches: np.ndarray) -> float:
    """Accuracy of the best rule "a match if and only if this bit is b": half plus half the gap of its means."""
    return 0.5 + float(np.abs(attributes.mean(axis=0) - mismatches.mean(axis=0)).max()) / 2


@measure()
def checked_bits(attributes: npt.ArrayLike, names: Sequence[str]) -> np.ndarray:
    """Returns attribute vectors as an array.

    Args:
        attributes: [N, A] in {0, 1}.
        names: A names.

    Raises:
        ValueError: `attributes` are not [N, A], or hold other values than 0 and 1.
    """
    bits = np.asarray(attributes)
    if bits.ndim != 2 or bits.shape[1] != len(names):
        raise ValueError(f"attributes have shape {bits.shape}, expected [N, {len(names)}]: one column per name.")
    if not np.isin(bits, (0, 1)).all():
        raise ValueError("attributes hold other values than 0 and 1; pass the bits, not logits or probabilities.")
    return bits


def _columns(group: Sequence[str], names: Sequence[str]) -> list[int]:
    """Columns of those of the group that are there, in the order of the group."""
    lower = [name.lower() for name in names]
    return [lower.index(name) for name in group if name in lower]


def _items(names: Sequence[str]) -> dict[str, int]:
    """Item of `single_edits` -> column that it inverts."""
    gender = _columns(GENDER, names)
    couple = "/".join(names[column] for column in gender)
    return {
        couple if column in gender else name: column for column, name in enumerate(names) if column not in gender[1:]
    }


def _choose(argument: str, value: str, choices: Mapping[str, Any]) -> Any:
    if value not in choices:
        raise ValueError(f"{argument} is {value!r}; choose one of {', '.join(map(repr, choices))}.")
    return choices[value]
