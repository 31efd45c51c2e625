"""Verdicts on captions that leave things open: by their words, and by the paper's score.

A caption is a vector of attributes and `said`, which of them it says. The verdict by words looks at what the text
decoder reads from the image, only where the caption says something: a caption is as likely as the least likely of its
words. Leaving a word out can only raise that, so that one threshold serves captions of every length: whoever accepts a
caption accepts every part of it. The paper's score compares two posteriors, and knows of no silence.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mvae_jax import attributes as face_attributes
from mvae_jax.eval import _results, consistency
from mvae_jax.eval._arguments import measure
from mvae_jax.eval.classification import Confusion, Rates, Share, bootstrap_intervals, share
from mvae_jax.eval.consistency import Posterior, checked_bits

# Verdict -> words for it.
VERDICTS = {
    "words": "by words",
    "score": "by the paper's score",
    "score_at_acceptance": "by the score, its threshold as that of the words",
}
_MOST_LEFT_OUT = 5


@measure(infinite=("logits",))
def word_probabilities(logits: npt.ArrayLike, attributes: npt.ArrayLike) -> np.ndarray:
    """Probability that each attribute is as a caption has it.

    Args:
        logits: log odds of the attributes in the image, [N, A].
        attributes: the caption's values, [N, A] in {0, 1}.

    Returns:
        sigmoid(logit) where the value is 1, and sigmoid(-logit) where it is 0: float64 [N, A].

    Raises:
        ValueError: shapes disagree, or a logit is not a number.
    """
    logits, values = np.asarray(logits, np.float64), np.asarray(attributes)
    if logits.shape != values.shape or logits.ndim != 2:
        raise ValueError(f"logits have shape {logits.shape} and attributes {values.shape}; expected both [N, A].")
    return np.exp(-np.logaddexp(0.0, np.where(values > 0, -logits, logits)))


@measure(infinite=("logits",))
def caption_probability(logits: npt.ArrayLike, attributes: npt.ArrayLike, said: npt.ArrayLike) -> np.ndarray:
    """Probability of the least likely of the words that a caption says.

    Args:
        logits: as for `word_probabilities`.
        attributes: likewise.
        said: which attributes the caption says, [N, A] in {0, 1}.

    Returns:
        [N], in [0, 1]; 1 of a caption that says nothing, which fits every image.

    Raises:
        ValueError: shapes disagree, or a logit is not a number.
    """
    probabilities, said = word_probabilities(logits, attributes), np.asarray(said)
    if said.shape != probabilities.shape:
        raise ValueError(f"said has shape {said.shape}; expected {probabilities.shape}, that of the attributes.")
    return np.where(said > 0, probabilities, 1.0).min(axis=1)


@measure()
def acceptance_threshold(scores: npt.ArrayLike, acceptance: float = 0.95) -> float:
    """Decision threshold that further pairs of the same kind exceed with a probability of at least `acceptance`.

    It is the k-th lowest of the M scores, with the largest k such that 1 - k / (M + 1) is at least `acceptance`: that
    is the probability with which one more score of the same distribution is above it, over the draws of all, if no two
    are equal. Of fewer scores than 1 / (1 - acceptance) - 1 none is low enough, and the threshold is 0.

    Args:
        scores: of true pairs, [M], at least 0; not of the pairs to be decided.
        acceptance: the probability, above 0 and below 1.

    Returns:
        The threshold; a pair is accepted if its score is greater.

    Raises:
        ValueError: `acceptance` is not between 0 and 1, there is no score, or one is not finite.

    Reference:
        Vovk, Gammerman and Shafer, 2005, Algorithmic Learning in a Random World (conformal prediction).
    """
    scores = np.sort(np.asarray(scores, float))
    if not 0 < acceptance < 1:
        raise ValueError(f"acceptance is {acceptance}; expected a share above 0 and below 1.")
    if not len(scores):
        raise ValueError("there is no score; expected those of at least one true pair.")
    rank = math.floor((1.0 - acceptance) * (len(scores) + 1) + 1e-9)  # 0.05 * 20 is 1, whatever is rounded
    return float(scores[rank - 1]) if rank else 0.0


@measure()
def leave_out(
    said: npt.ArrayLike, names: Sequence[str], count: int, *, seed: int | Sequence[int] | np.random.Generator
) -> np.ndarray:
    """Which attributes captions still say when random words are left out; male and female are one word.

    Args:
        said: which attributes the captions say, [N, A] in {0, 1}.
        names: A names.
        count: words that are left out of each; all, where a caption has no more.
        seed: whatever `numpy.random.default_rng` takes.

    Returns:
        bool [N, A].
    """
    spoken, items = _said_items(said, names)
    draws = np.random.default_rng(seed).random(spoken.shape)
    rank = np.where(spoken, draws, np.inf).argsort(axis=1).argsort(axis=1)
    return (np.asarray(said) > 0) & (rank >= count)[:, items]


def _said_items(said: npt.ArrayLike, names: Sequence[str]) -> tuple[np.ndarray, list[int]]:
    """Whether captions say each item of `attributes.items`, bool [N, I], and the item of each attribute."""
    said = checked_bits(said, names) > 0
    items = face_attributes.items(names)
    return np.stack([said[:, np.equal(items, item)].any(axis=1) for item in range(max(items) + 1)], axis=1), items


@measure()
def wrong_words(
    attributes: npt.ArrayLike, said: npt.ArrayLike, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Captions that say one thing wrong: the one that is not there, or that one is not there which is.

    Args:
        attributes: true values, [N, A] in {0, 1}.
        said: which of them the true captions say, [N, A] in {0, 1}.
        names: A names.

    Returns:
        Values and what is said of it, both [I, N, A], and the names of the I items, as `consistency.single_edits` has
        them. The wrong word is said whether the true caption said it or not; a hair colour takes the place of another.
    """
    edits, items = consistency.single_edits(attributes, names)
    genders = [column for column, name in enumerate(names) if name in face_attributes.GENDER]
    spoken = (edits == np.asarray(attributes)) & (np.asarray(said) > 0)
    for item, name in enumerate(items):
        spoken[item][:, [list(names).index(name)] if name in names else genders] = True
    return edits, spoken, items


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Thresholds of the verdicts, and the score; a pair is a match if what is compared is greater.

    Attributes:
        words: of `caption_probability`, from the calibration images' own captions.
        score: of the paper's score: the published weighted mean.
        score_at_acceptance: of the paper's score, chosen as `words` is, to compare both at equal acceptance.
        acceptance: share of the true captions that `words` and `score_at_acceptance` are to accept, at least.
        calibration_images: how many there were.
        direction: divergence of the score, as in `consistency.consistency_score`.
        reduction: likewise.
    """

    words: float
    score: float
    score_at_acceptance: float
    acceptance: float
    calibration_images: int
    direction: str
    reduction: str


@dataclasses.dataclass(frozen=True)
class Judge:
    """A model that judges captions.

    Attributes:
        decode_attributes: latents [N, D] -> log odds of attributes, [N, A].
        encode_attributes: attributes [N, A], said [N, A] -> (mean, logvar), each [N, D].
        thresholds: of the verdicts.
    """

    decode_attributes: Callable[[Any], Any]
    encode_attributes: Callable[[Any, Any], Posterior]
    thresholds: Thresholds

    @classmethod
    @measure()
    def calibrated(
        cls,
        decode_attributes: Callable[[Any], Any],
        encode_attributes: Callable[[Any, Any], Posterior],
        posterior: Posterior,
        attributes: npt.ArrayLike,
        said: npt.ArrayLike,
        *,
        score_threshold: float,
        acceptance: float = 0.95,
        direction: str = "img||txt",
        reduction: str = "mean",
    ) -> Judge:
        """A judge with the thresholds that calibration images give.

        Args:
            decode_attributes: as of the class.
            encode_attributes: likewise.
            posterior: mean and log variance of q(z | image) of the calibration images, each [M, D].
            attributes: of these images, [M, A] in {0, 1}.
            said: what their captions say, [M, A] in {0, 1}.
            score_threshold: the published one of the score, see `consistency.threshold`.
            acceptance: as in `acceptance_threshold`.
            direction: as in `consistency.consistency_score`.
            reduction: likewise.
        """
        chosen = Thresholds(0.0, score_threshold, 0.0, acceptance, len(np.asarray(attributes)), direction, reduction)
        words, score = cls(decode_attributes, encode_attributes, chosen).scores(posterior, attributes, said)
        fitted = dataclasses.replace(
            chosen,
            words=acceptance_threshold(words, acceptance),
            score_at_acceptance=acceptance_threshold(score, acceptance),
        )
        return cls(decode_attributes, encode_attributes, fitted)

    @measure()
    def scores(
        self, posterior: Posterior, attributes: npt.ArrayLike, said: npt.ArrayLike
    ) -> tuple[np.ndarray, np.ndarray]:
        """`caption_probability` and the paper's score of images with captions, each [N].

        Args:
            posterior: mean and log variance of q(z | image), each [N, D].
            attributes: the captions' values, [N, A] in {0, 1}.
            said: which of them the captions say, [N, A] in {0, 1}.
        """
        values, stated = np.asarray(attributes, np.float32), np.asarray(said, np.float32)
        words = caption_probability(self.decode_attributes(posterior[0]), values, stated)
        options = {"direction": self.thresholds.direction, "reduction": self.thresholds.reduction}
        score = consistency.consistency_score(posterior, self.encode_attributes(values, stated), **options)
        return words, np.asarray(score, np.float64)

    @measure()
    def accepts(self, posterior: Posterior, attributes: npt.ArrayLike, said: npt.ArrayLike) -> dict[str, np.ndarray]:
        """Whether each verdict of `VERDICTS` calls the pairs of `scores` a match, bool [N]."""
        words, score = self.scores(posterior, attributes, said)
        compared = {"words": words, "score": score, "score_at_acceptance": score}
        return {name: values > getattr(self.thresholds, name) for name, values in compared.items()}


@dataclasses.dataclass(frozen=True)
class Decisions:
    """Right decisions of both verdicts about captions of one kind.

    Attributes:
        captions: which, in words.
        words: share that the verdict by words gets right: accepted of true captions, rejected of wrong ones.
        score: that of the paper's score at its published threshold.
        score_at_acceptance: that of the paper's score at the threshold that is chosen as that of the words.
    """

    captions: str
    words: Share
    score: Share
    score_at_acceptance: Share


@dataclasses.dataclass(frozen=True)
class Curated:
    """Decisions about own captions and curated mismatches, match positive.

    Attributes:
        rates: of the right decisions.
        intervals: 95 % bootstrap intervals over images, as in `classification.bootstrap_intervals`.
    """

    rates: Rates
    intervals: Mapping[str, tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Result(_results.Result):
    """Result of `benchmark`.

    Attributes:
        thresholds: of the verdicts.
        true: decisions about true captions, whole and in part; right is to accept.
        wrong: decisions about captions with a single wrong word; right is to reject.
        wrong_mean: verdict of `VERDICTS` -> mean over the words of the share that is rejected, with a 95 % bootstrap
            interval over images.
        curated: verdict -> decisions about own captions and curated mismatches.
        seed: of the words that are left out, and of the intervals.
    """

    thresholds: Thresholds
    true: tuple[Decisions, ...]
    wrong: tuple[Decisions, ...]
    wrong_mean: Mapping[str, Share]
    curated: Mapping[str, Curated]
    seed: int


@measure()
def benchmark(
    judge: Judge,
    posterior: Posterior,
    attributes: npt.ArrayLike,
    said: npt.ArrayLike,
    names: Sequence[str],
    *,
    mismatches: npt.ArrayLike,
    mismatches_said: npt.ArrayLike,
    seed: int,
) -> Result:
    """Judges true captions in whole and in part, captions with one wrong word, and curated mismatches.

    Args:
        judge: the model with its thresholds.
        posterior: mean and log variance of q(z | image) of images other than those that gave the thresholds, [N, D].
        attributes: of these images, [N, A] in {0, 1}.
        said: what their captions say, [N, A] in {0, 1}.
        names: names of the A attributes.
        mismatches: curated mismatches, [N, A], see `consistency.curate_mismatches`.
        mismatches_said: what their captions say, [N, A] in {0, 1}.
        seed: of the words that are left out, and of the intervals.

    Returns:
        Shares of right decisions. Words are left out of those captions that have more; with all words but the gender
        left out, the true and the wrong gender are judged, where gender is an attribute.

    Raises:
        ValueError: shapes disagree, or values are not finite.
    """
    true, stated = checked_bits(attributes, names), checked_bits(said, names) > 0
    spoken, _ = _said_items(stated, names)

    def accepting(kind: str, says: np.ndarray, rows: Any = slice(None)) -> Decisions:
        accepted = judge.accepts(posterior, true, says)  # of all images: another number would be compiled anew
        return Decisions(kind, **{name: share(accepts[rows]) for name, accepts in accepted.items()})

    def rejecting(kind: str, accepted: Mapping[str, np.ndarray]) -> Decisions:
        return Decisions(kind, **{name: share(~accepts) for name, accepts in accepted.items()})

    kinds = [accepting("every attribute said, yes or no", np.ones_like(stated))]
    for count in range(_MOST_LEFT_OUT + 1):
        rows = spoken.sum(axis=1) > count
        if rows.any():
            kind = "its own caption" if not count else f"{count} word{'s' if count > 1 else ''} left out"
            kinds.append(accepting(kind, leave_out(stated, names, count, seed=(seed, count)), rows))
    edits, edits_said, items = wrong_words(true, stated, names)
    accepted = [judge.accepts(posterior, *pair) for pair in zip(edits, edits_said, strict=True)]
    wrong = [rejecting(*pair) for pair in zip(items, accepted, strict=True)]
    genders = [name in face_attributes.GENDER for name in names]
    if any(genders):
        alone = np.broadcast_to(genders, true.shape)
        kinds.append(accepting("gender alone", alone))
        item = items.index("/".join(name for name in face_attributes.GENDER if name in names))
        wrong.append(rejecting("gender, alone", judge.accepts(posterior, edits[item], alone)))

    own = judge.scores(posterior, true, stated)
    others = judge.scores(posterior, np.asarray(mismatches), np.asarray(mismatches_said))
    compared = {"words": 0, "score": 1, "score_at_acceptance": 1}
    return Result(
        thresholds=judge.thresholds,
        true=tuple(kinds),
        wrong=tuple(wrong),
        wrong_mean={
            name: _mean_share(1.0 - np.mean([accepts[name] for accepts in accepted], axis=0), (seed, 100))
            for name in VERDICTS
        },
        curated={
            name: _curated(getattr(judge.thresholds, name), own[which], others[which], (seed, 101))
            for name, which in compared.items()
        },
        seed=seed,
    )


def _curated(threshold: float, own: np.ndarray, others: np.ndarray, seed: Sequence[int]) -> Curated:
    rates = Confusion.at(threshold, own, others).rates()
    return Curated(rates, bootstrap_intervals([threshold], own, others[None], seed=seed))


def _mean_share(shares: np.ndarray, seed: Sequence[int], draws: int = 1000) -> Share:
    """Mean of shares of images, [N], and its 95 % bootstrap interval over the images."""
    count = len(shares)
    if not count:
        return Share(None, None, None, 0)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    low, high = np.quantile(weights @ shares / count, (0.025, 0.975))
    return Share(float(shares.mean()), float(low), float(high), count)
