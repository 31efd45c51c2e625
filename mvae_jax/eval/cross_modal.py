"""Image and text of each other: are the attributes right, do the images of one caption differ, do the posteriors meet?

Results are frozen dataclasses; their `to_dict()` gives plain numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from mvae_jax import gaussian, numerics
from mvae_jax.eval import _results
from mvae_jax.eval._arguments import device_measure, measure
from mvae_jax.eval.classification import Confusion, auroc
from mvae_jax.eval.consistency import GENDER, HAIR, Posterior, checked_bits


@dataclasses.dataclass(frozen=True)
class AttributeScore:
    """Scores of the prediction of one attribute, in [0, 1].

    Attributes:
        name: the attribute.
        prevalence: share of the examples that have it.
        accuracy: share of right predictions.
        majority_accuracy: accuracy of always answering the more frequent class of these examples.
        balanced_accuracy: mean of the accuracies among those with it and those without, None where all examples are
            of one class; guessing gives 0.5.
        precision: share of those predicted to have it that do, 0 where it is never predicted; None where no example
            has it, as the next two.
        recall: share of those with it that are predicted to have it.
        f1: harmonic mean of precision and recall. Always answering yes gives 2 p / (1 + p) at prevalence p, the best
            that is possible without looking.
        auroc: area under the ROC curve of the logits, None where all examples are of one class.
    """

    name: str
    prevalence: float
    accuracy: float
    majority_accuracy: float
    balanced_accuracy: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    auroc: float | None


@dataclasses.dataclass(frozen=True)
class AttributeScores(_results.Result):
    """Scores of the prediction of all attributes, in [0, 1].

    Attributes:
        count: number of examples.
        accuracy: share of right bits.
        majority_accuracy: share of right bits when each attribute is answered by its more frequent class.
        macro_f1: mean F1 of the attributes that some example has; None if none has any.
        blind_macro_f1: the same when every attribute is always answered with yes.
        exact_match: share of examples with all bits right.
        majority_exact_match: share of the examples that have the most frequent vector.
        attributes: one score per attribute, in order.
    """

    count: int
    accuracy: float
    majority_accuracy: float
    macro_f1: float | None
    blind_macro_f1: float | None
    exact_match: float
    majority_exact_match: float
    attributes: tuple[AttributeScore, ...]


@measure(infinite=("logits",))
def score_attributes(logits: npt.ArrayLike, attributes: npt.ArrayLike, names: Sequence[str]) -> AttributeScores:
    """Compares predicted attributes (logit > 0) with the true ones.

    It serves all directions, by what is passed in:

    * image to text: the text decoder's logits at the mean of the image's posterior, and the image's attributes;
    * text to image: a classifier's logits of the generated images, and the attributes of their captions. How well
      the classifier reads real images bounds what can be seen;
    * joint generation, image and text decoded from one z ~ N(0, I): a classifier's logits of the images, and the
      attributes that the text decoder said, its logits > 0. This is agreement, not truth, and a model that always
      says the same has it; look at the majority's scores, at `well_formed` and at the prevalences.

    Most attributes are rare, so a high accuracy says little alone: the majority's stands beside it. That baseline is
    taken from the examples themselves, which favours it.

    Args:
        logits: [N, A].
        attributes: [N, A] in {0, 1}.
        names: A names.

    Returns:
        The scores.

    Raises:
        ValueError: shapes disagree, there is no example, or a logit or an attribute is not a number.
    """
    logits, truth = np.asarray(logits), np.asarray(attributes) > 0.5
    if logits.shape != truth.shape or truth.ndim != 2 or truth.shape[1] != len(names) or not len(truth):
        raise ValueError(
            f"logits have shape {logits.shape} and attributes {truth.shape}, expected both [N, {len(names)}] with "
            "one column per name and at least one row."
        )
    right = (logits > 0) == truth
    scores = tuple(_score_attribute(name, logits[:, index], truth[:, index]) for index, name in enumerate(names))
    present = [score for score in scores if score.f1 is not None]
    _, frequencies = np.unique(truth, axis=0, return_counts=True)
    return AttributeScores(
        count=len(truth),
        accuracy=float(right.mean()),
        majority_accuracy=float(np.mean([score.majority_accuracy for score in scores])),
        macro_f1=float(np.mean([score.f1 for score in present])) if present else None,
        blind_macro_f1=(
            float(np.mean([2 * score.prevalence / (1 + score.prevalence) for score in present])) if present else None
        ),
        exact_match=float(right.all(axis=1).mean()),
        majority_exact_match=float(frequencies.max() / len(truth)),
        attributes=scores,
    )


def _score_attribute(name: str, logits: np.ndarray, truth: np.ndarray) -> AttributeScore:
    having, lacking = logits[truth], logits[~truth]
    decisions = Confusion.at(0.0, having, lacking)
    rates = decisions.rates()
    prevalence = float(truth.mean())
    any_having, both_classes = len(having) > 0, len(having) > 0 and len(lacking) > 0
    return AttributeScore(
        name=name,
        prevalence=prevalence,
        accuracy=rates.accuracy,
        majority_accuracy=max(prevalence, 1.0 - prevalence),
        balanced_accuracy=(rates.recall + decisions.rates("mismatch").recall) / 2 if both_classes else None,
        precision=rates.precision if any_having else None,
        recall=rates.recall if any_having else None,
        f1=rates.f1 if any_having else None,
        auroc=auroc(having, lacking) if both_classes else None,
    )


def well_formed(attributes: npt.ArrayLike, names: Sequence[str]) -> np.ndarray:
    """Finds the vectors that could describe somebody: male or female, at most one hair colour, bald being one.

    A rule holds as far as `names` has its attributes: without both male and female there is none about gender, and
    only black, blond and bald are known as hair. Annotated data break the rules too, so compare with the share of
    the data.

    Args:
        attributes: [N, A] in {0, 1}, such as the text decoder's logits > 0.
        names: A names; case does not matter.

    Returns:
        Whether a vector is well-formed, [N], bool.

    Raises:
        ValueError: attributes are not [N, A] of zeros and ones.
    """
    bits = checked_bits(attributes, names)
    lower = [name.lower() for name in names]
    gender, hair = (bits[:, [name in group for name in lower]].sum(axis=1) for group in (GENDER, HAIR))
    return (hair <= 1) & ((gender == 1) | (not set(GENDER) <= set(lower)))


@measure()
def distinct_rows(attributes: np.ndarray) -> np.ndarray:
    """The rows of attributes, [N, A], without repetitions, [R, A], in the order of their first appearance."""
    _, first = np.unique(attributes, axis=0, return_index=True)
    return attributes[np.sort(first)]


@dataclasses.dataclass(frozen=True)
class Diversity(_results.Result):
    """Differences among the images of one caption, against those among real images.

    Attributes:
        within: root mean squared difference, per value, of two draws of the same caption.
        reference: the same of two independent real images.
        ratio: within / reference; 0 for one image per caption.
        captions: R, number of captions.
        draws: S, draws of each caption.
        references: M, number of real images.
    """

    within: float
    reference: float
    ratio: float
    captions: int
    draws: int
    references: int


@measure()
def diversity(samples: npt.ArrayLike, reference: npt.ArrayLike) -> Diversity:
    """Distance between images of one caption, relative to that between any two real images.

    The distance is the root mean squared difference over values (pixels, or features if features are passed in),
    over all pairs of draws and over captions. The mean over all pairs of S draws is 2 / (S - 1) sum_s (x_s - mean)^2,
    twice the unbiased variance, so no pair is formed, and its expectation does not depend on S.

    For captions drawn like those of the data, ratio^2 is the share of the variance of the data that a caption leaves
    open: a caption that says something keeps even a perfect model below 1, and real images of equal captions, passed
    as `samples`, show how far. Noise counts as diversity: read it beside the images' scores in `score_attributes`.

    Args:
        samples: S draws of each of R captions, [R, S, ...], S at least 2.
        reference: real images, or their features, on the same scale, [M, ...], M at least 2.

    Returns:
        The distances and their ratio.

    Raises:
        ValueError: shapes disagree or are too small, values are not finite, or all real images are equal.
    """
    samples, reference = np.asarray(samples), np.asarray(reference)
    if samples.ndim < 3 or samples.shape[2:] != reference.shape[1:] or not samples.size:
        raise ValueError(
            f"samples have shape {samples.shape} and reference {reference.shape}, expected [R, S, ...] and [M, ...] "
            "with the same dimensions after the first two and the first."
        )
    if min(samples.shape[1], len(reference)) < 2:
        raise ValueError(
            f"got {samples.shape[1]} draws per caption and {len(reference)} real images, expected at least 2 of each: "
            "a distance needs a pair."
        )
    within = float(np.sqrt(np.mean([_mean_squared_difference(draws) for draws in samples])))
    apart = float(np.sqrt(_mean_squared_difference(reference)))
    if apart == 0.0:
        raise ValueError("all real images are equal; pass different ones as reference.")
    captions, draws = samples.shape[:2]
    return Diversity(within, apart, within / apart, captions, draws, references=len(reference))


def _mean_squared_difference(examples: np.ndarray) -> float:
    """Mean over pairs of different examples, [S, ...], and over values; holds one example at a time in float64."""
    mean = examples.mean(axis=0, dtype=np.float64)
    return 2 * sum(float(np.square(example - mean).mean()) for example in examples) / (len(examples) - 1)


@dataclasses.dataclass(frozen=True)
class PairDistance:
    """Distances of the posteriors q(z | image) and q(z | text), each the mean over pairs of an image and a text.

    Attributes:
        kl_image_text: KL(image || text), summed over dimensions, in nats.
        kl_text_image: KL(text || image), summed over dimensions, in nats.
        jeffreys: the sum of both, which is symmetric.
        kl_image_text_per_dimension: KL(image || text) / D.
        kl_text_image_per_dimension: KL(text || image) / D.
        jeffreys_per_dimension: the sum of both / D.
        wasserstein: 2-Wasserstein distance, in units of z.
        means: Euclidean distance of the means, in units of z.
    """

    kl_image_text: float
    kl_text_image: float
    jeffreys: float
    kl_image_text_per_dimension: float
    kl_text_image_per_dimension: float
    jeffreys_per_dimension: float
    wasserstein: float
    means: float


@dataclasses.dataclass(frozen=True)
class PosteriorDistance(_results.Result):
    """Distances of matching and of mismatched pairs, and the retrieval of texts.

    Attributes:
        count: N, images.
        dimensions: D, of the latent space.
        texts: T, different texts among those of the N images.
        matching: over the N images with their own texts.
        mismatched: over all pairs of an image and another example's text, if that text is a different one.
        recall_at_1: share of the images whose own text is the closest of the T.
        majority_recall_at_1: share of the images that have the most frequent text, the best answer without looking.
        median_rank: median over the images of the rank of their own text, from 1 to T; guessing gives (T + 1) / 2.
    """

    count: int
    dimensions: int
    texts: int
    matching: PairDistance
    mismatched: PairDistance
    recall_at_1: float
    majority_recall_at_1: float
    median_rank: float


@device_measure()
def posterior_distance(
    image_posterior: Posterior, text_posterior: Posterior, attributes: npt.ArrayLike
) -> PosteriorDistance:
    """Compares the posteriors of images with those of their own and of other texts.

    All distances have closed forms for diagonal Gaussians; with standard deviations s the squared 2-Wasserstein
    distance is |m_p - m_q|^2 + |s_p - s_q|^2. A distance of matching pairs means little alone (posteriors that all
    equal the prior have none), so that of mismatched pairs stands beside it: not of some random shuffle, but of all
    pairs whose attributes differ, which is what shuffles give on average.

    Attribute texts repeat, so an image looks for its own among the T different ones. They are ranked by
    KL(image || text), the order of `consistency_score` with its default direction. Ties count against the image: if
    all texts are equally close, each has rank T.

    Args:
        image_posterior: mean and log variance of q(z | image), each [N, D].
        text_posterior: mean and log variance of q(z | text) of the same examples, each [N, D]. A function of the
            attributes: of examples with equal ones the first stands for all.
        attributes: the texts, [N, A] in {0, 1}.

    Returns:
        The distances, and ranks.

    Raises:
        ValueError: attributes are not one row per example, all rows are equal, or a posterior or a distance is not
            finite.

    Reference:
        Jeffreys, 1946, An invariant form for the prior probability in estimation problems; Dowson and Landau, 1982,
        The Fréchet distance between multivariate normal distributions.
    """
    image, text = (tuple(map(jnp.asarray, posterior)) for posterior in (image_posterior, text_posterior))
    chex.assert_rank([*image, *text], 2)
    chex.assert_equal_shape([*image, *text])
    (count, dimensions), attributes = image[0].shape, np.asarray(attributes)
    if attributes.ndim != 2 or len(attributes) != count:
        raise ValueError(f"attributes have shape {attributes.shape}, expected [{count}, A]: one row per posterior.")
    _, first, text_of, frequency = np.unique(
        attributes, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    if len(first) < 2:
        raise ValueError(f"all {count} examples have the same attributes; mismatched pairs need two different texts.")

    texts = tuple(values[first] for values in text)
    # One image at a time against all texts: [N, T, D] need not fit into memory.
    table = np.asarray(jax.lax.map(lambda one: _distances(one, texts), image), np.float64)  # [N, 4, T]
    if not np.isfinite(table).all():
        raise ValueError("a distance is not finite; look at the means and log variances of the encoders.")
    is_own = text_of[:, None] == np.arange(len(first))
    kl = table[:, 0]
    ranks = (kl <= kl[is_own][:, None]).sum(axis=1)
    return PosteriorDistance(
        count=count,
        dimensions=dimensions,
        texts=len(first),
        matching=_summary(table, is_own, dimensions),
        mismatched=_summary(table, ~is_own * frequency, dimensions),
        recall_at_1=float((ranks == 1).mean()),
        majority_recall_at_1=float(frequency.max() / count),
        median_rank=float(np.median(ranks)),
    )


def _distances(image: tuple[jax.Array, ...], texts: tuple[jax.Array, ...]) -> jax.Array:
    """Both KL, Wasserstein distance and distance of means between one posterior, [D], and those of T texts; [4, T]."""
    image = tuple(values[None] for values in image)
    return jnp.stack(
        [
            gaussian.kl_divergence(*image, *texts).sum(axis=-1),
            gaussian.kl_divergence(*texts, *image).sum(axis=-1),
            gaussian.wasserstein_distance(*image, *texts),
            numerics.norm(image[0] - texts[0], -1),
        ]
    )


def _summary(table: np.ndarray, weights: np.ndarray, dimensions: int) -> PairDistance:
    """Mean over pairs of an image and a text, each as often as `weights`, [N, T], says."""
    forward, backward, wasserstein, means = (float(np.average(table[:, i], weights=weights)) for i in range(4))
    return PairDistance(
        kl_image_text=forward,
        kl_text_image=backward,
        jeffreys=forward + backward,
        kl_image_text_per_dimension=forward / dimensions,
        kl_text_image_per_dimension=backward / dimensions,
        jeffreys_per_dimension=(forward + backward) / dimensions,
        wasserstein=wasserstein,
        means=means,
    )
