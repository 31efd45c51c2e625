"""Disentanglement: one latent dimension for one factor of variation. MIG, DCI, SAP and the FactorVAE score.

Codes are [N, D], usually posterior means, and factors [N, F], integers; both plain arrays. All scores are in [0, 1]
(informativeness by lasso can be negative), 1 is best, and reordering the dimensions changes nothing: exactly so for
MIG and SAP; up to the order in which trees try equally good dimensions, or the solver's tolerance, for DCI. Nor does
multiplying them by non-zero numbers, apart from codes that lie on the edge of a bin or threshold, with two exceptions:
the SVM of SAP, whose penalty takes codes in the scale that they have, and the FactorVAE score where other dimensions
become active.

`mig`, `sap` and `dci` are what the literature reports under these names, as disentanglement_lib computes it. Variants
have names of their own: `threshold_gap`, and the estimators that are not the default.

None of them is comparable across estimators, bins or sample counts, so results are frozen dataclasses that carry
these; their `to_dict()` gives plain numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mvae_jax.eval import _results
from mvae_jax.eval._arguments import check_finite, measure


@dataclasses.dataclass(frozen=True)
class MIG(_results.Result):
    """Mutual information gap.

    Attributes:
        value: mean over factors.
        per_factor: one gap per factor.
        dimensions: the most informative dimension of each factor.
        estimator: how mutual information was estimated.
        bins: of each dimension.
        samples: N.
    """

    value: float
    per_factor: tuple[float, ...]
    dimensions: tuple[int, ...]
    estimator: str
    bins: int
    samples: int


def mig(codes: npt.ArrayLike, factors: npt.ArrayLike, *, bins: int = 20) -> MIG:
    """Mutual information gap: how much more the best dimension tells about a factor than the second best does.

    For a factor v it is (I(z_j; v) - I(z_k; v)) / H(v) with the two most informative dimensions j and k. Mutual
    information is that of the histogram of each dimension, cut into bins of equal width between its least and greatest
    code. With fewer bins than the factor has values even perfect codes stay below 1, at most log(bins) / H(v). With
    few samples every I is too large, by about (bins - 1) (values - 1) / 2N for unrelated dimensions.

    Args:
        codes: [N, D], D at least 2.
        factors: integers, [N, F].
        bins: of each dimension; N must be at least as large.

    Returns:
        The gaps.

    Raises:
        ValueError: shapes disagree, codes are not finite, factors are not integers or take one value only, or there
            are too few samples, dimensions or bins.

    Reference:
        Chen et al., 2018, arXiv:1802.04942, section 4; 20 bins as Locatello et al., 2019, arXiv:1811.12359.
    """
    from sklearn.metrics import mutual_info_score

    codes, factors = _checked(codes, factors, dimensions=2)
    if not 2 <= bins <= len(codes):
        raise ValueError(f"bins is {bins}, expected at least 2 and at most the {len(codes)} samples.")
    low, width = codes.min(axis=0), np.ptp(codes, axis=0)
    binned = np.minimum((codes - low) / np.where(width > 0, width, 1.0) * bins, bins - 1).astype(int)
    information = np.array([[mutual_info_score(factor, code) for factor in factors.T] for code in binned.T])
    entropy = np.array([mutual_info_score(factor, factor) for factor in factors.T])
    gaps, dimensions = _gaps(information / entropy)
    return MIG(
        value=float(np.mean(gaps)),
        per_factor=gaps,
        dimensions=dimensions,
        estimator="mutual information of equal-width histograms",
        bins=bins,
        samples=len(codes),
    )


@dataclasses.dataclass(frozen=True)
class DCI(_results.Result):
    """Disentanglement, completeness and informativeness.

    Attributes:
        disentanglement: mean over dimensions, weighted by their total importance.
        completeness: mean over factors, weighted by the total importance of all dimensions for them.
        informativeness: mean over factors.
        disentanglement_per_dimension: 1 if a dimension matters for one factor only, however little; 0 if it matters
            for none.
        completeness_per_factor: 1 if one dimension alone matters for the factor; 0 if none does.
        informativeness_per_factor: how well the factor is predicted from all dimensions, see `measure`.
        baseline_per_factor: the same without looking at the codes: 0.2 is good for accuracy only above it.
        estimator: what predicts a factor and what importance is.
        measure: what informativeness is.
        train_samples: number of samples that the predictors were fitted to.
        test_samples: number of other samples, on which informativeness was measured.
        seed: of the split and the predictors.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    disentanglement_per_dimension: tuple[float, ...]
    completeness_per_factor: tuple[float, ...]
    informativeness_per_factor: tuple[float, ...]
    baseline_per_factor: tuple[float, ...]
    estimator: str
    measure: str
    train_samples: int
    test_samples: int
    seed: int


def dci(
    codes: npt.ArrayLike,
    factors: npt.ArrayLike,
    *,
    estimator: Literal["gradient_boosting", "random_forest", "lasso"] = "gradient_boosting",
    trees: int = 100,
    min_leaf: int = 5,
    test_share: float = 0.2,
    seed: int = 0,
) -> DCI:
    """Disentanglement, completeness and informativeness, from the importance of each dimension for each factor.

    One predictor per factor gives importances R, [D, F]. A dimension's disentanglement is 1 minus the entropy of its
    normalised row of R, in units of log F; a factor's completeness 1 minus that of its column, in units of log D.
    The means are weighted by the sums of the rows and columns: what matters little counts little.

    * "gradient_boosting": trees of depth 3, fitted one after another with rate 0.1, for factors of any kind, as
      disentanglement_lib has it. Importance is the mean decrease of the squared error, informativeness the share of
      right predictions. A tree per value and round: minutes for factors of many values.
    * "random_forest": the same with a forest, forty times as quick; importance is the decrease in Gini impurity.
      Every split may choose among all dimensions: were some hidden from it, as is usual in forests, unrelated
      dimensions would get importance.
    * "lasso": linear regression with the penalty chosen by cross-validation, for factors whose values are ordered.
      Codes and factors are standardised, importance is the absolute weight, informativeness the coefficient of
      determination R^2 (the paper has the error instead).

    Args:
        codes: [N, D], D at least 2.
        factors: integers, [N, F], F at least 2.
        estimator: "gradient_boosting", "random_forest" or "lasso".
        trees: of a forest; rounds of boosting.
        min_leaf: fewest training samples in a leaf of a forest.
        test_share: share of the samples that is held out, in (0, 1).
        seed: of the split and the predictors.

    Returns:
        The scores.

    Raises:
        ValueError: shapes disagree, codes are not finite, factors are not integers or take one value only among the
            training samples, there are too few samples, dimensions or factors, or the estimator is unknown.

    Reference:
        Eastwood and Williams, 2018, A framework for the quantitative evaluation of disentangled representations;
        boosting and weights as Locatello et al., 2019, arXiv:1811.12359 (disentanglement_lib).
    """
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LassoCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _check_choice(estimator, ("gradient_boosting", "random_forest", "lasso"))
    codes, factors = _checked(codes, factors, dimensions=2)
    if factors.shape[1] < 2:
        raise ValueError("disentanglement compares factors and got one; give at least two.")
    train_codes, test_codes, train_factors, test_factors = _split(codes, factors, test_share, seed)
    importance, scores, baselines = [], [], []
    for train, test in zip(train_factors.T, test_factors.T, strict=True):
        if estimator != "lasso":
            model = (
                GradientBoostingClassifier(n_estimators=trees, random_state=seed)
                if estimator == "gradient_boosting"
                else RandomForestClassifier(trees, max_features=None, min_samples_leaf=min_leaf, random_state=seed)
            )
            importance.append(model.fit(train_codes, train).feature_importances_)
            baseline = DummyClassifier(strategy="most_frequent")
        else:
            lasso = make_pipeline(StandardScaler(), LassoCV(cv=5))
            model, baseline = TransformedTargetRegressor(lasso, transformer=StandardScaler()), DummyRegressor()
            importance.append(np.abs(model.fit(train_codes, train).regressor_[-1].coef_))
        scores.append(model.score(test_codes, test))
        baselines.append(baseline.fit(train_codes, train).score(test_codes, test))
    relevance = np.stack(importance, axis=1)  # [D, F]
    disentanglement, completeness = _concentration(relevance), _concentration(relevance.T)
    shares = relevance / max(relevance.sum(), np.finfo(float).tiny)
    described = {
        "gradient_boosting": (
            f"gradient boosting, {trees} rounds, importance by squared error",
            "accuracy on held-out samples",
        ),
        "random_forest": (
            f"random forest, {trees} trees, at least {min_leaf} samples per leaf, importance by Gini impurity",
            "accuracy on held-out samples",
        ),
        "lasso": ("lasso, penalty by 5-fold cross-validation, absolute weights", "R^2 on held-out samples"),
    }
    name, measure = described[estimator]
    return DCI(
        disentanglement=float(shares.sum(axis=1) @ disentanglement),
        completeness=float(shares.sum(axis=0) @ completeness),
        informativeness=float(np.mean(scores)),
        disentanglement_per_dimension=_floats(disentanglement),
        completeness_per_factor=_floats(completeness),
        informativeness_per_factor=_floats(scores),
        baseline_per_factor=_floats(baselines),
        estimator=name,
        measure=measure,
        train_samples=len(train_codes),
        test_samples=len(test_codes),
        seed=seed,
    )


@dataclasses.dataclass(frozen=True)
class Gap(_results.Result):
    """How much better the best dimension predicts a factor than the second best does.

    Attributes:
        value: mean over factors.
        per_factor: one gap per factor.
        dimensions: the most predictive dimension of each factor.
        estimator: how the prediction was made and scored.
        train_samples: number of samples that the predictors were fitted to.
        test_samples: number of other samples, on which they were scored; 0 if that was done on the former.
        seed: of the split; None if there was none.
    """

    value: float
    per_factor: tuple[float, ...]
    dimensions: tuple[int, ...]
    estimator: str
    train_samples: int
    test_samples: int
    seed: int | None


class SAP(Gap):
    """Separated attribute predictability: a `Gap`, by one of the literature's estimators."""


def sap(
    codes: npt.ArrayLike,
    factors: npt.ArrayLike,
    *,
    estimator: Literal["svm", "linear"] = "svm",
    test_share: float = 0.2,
    seed: int = 0,
) -> SAP:
    """Separated attribute predictability: how much better the best single dimension predicts a factor than the next.

    * "svm": for factors of any kind. A linear SVM on one dimension, in the scale that it has, C 0.01, one value against
      the rest, equal weight of all values. The score is accuracy on held-out samples.
    * "linear": for factors whose values are ordered. The score is R^2, the squared correlation over all samples.

    Args:
        codes: [N, D], D at least 2.
        factors: integers, [N, F].
        estimator: "svm" or "linear".
        test_share: share of the samples that is held out, in (0, 1); for "svm".
        seed: of the split.

    Returns:
        The gaps.

    Raises:
        ValueError: shapes disagree, codes are not finite, factors are not integers or take one value only among the
            training samples, there are too few samples or dimensions, or the estimator is unknown.

    Reference:
        Kumar, Sattigeri and Balakrishnan, 2018, arXiv:1711.00848, section 3; the SVM as Locatello et al., 2019,
        arXiv:1811.12359 (disentanglement_lib).
    """
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    _check_choice(estimator, ("svm", "linear"))
    if estimator == "linear":
        codes, factors = _checked(codes, factors, dimensions=2)
        correlation = StandardScaler().fit_transform(codes).T @ StandardScaler().fit_transform(factors) / len(codes)
        gaps, dimensions = _gaps(np.square(correlation))
        return SAP(float(np.mean(gaps)), gaps, dimensions, "R^2 of one dimension", len(codes), 0, None)

    def score(train_code: np.ndarray, train: np.ndarray, test_code: np.ndarray, test: np.ndarray) -> float:
        # The primal problem has the same solution, and makes no random choices.
        model = LinearSVC(C=0.01, class_weight="balanced", dual=False)
        return float(model.fit(train_code, train).score(test_code, test))

    return SAP(**_gaps_of(score, codes, factors, test_share, seed), estimator="accuracy of a linear SVM, C 0.01")


def threshold_gap(codes: npt.ArrayLike, factors: npt.ArrayLike, *, test_share: float = 0.2, seed: int = 0) -> Gap:
    """As SAP, by the balanced accuracy of thresholds, which no scale of the codes changes; not comparable with SAP.

    Thresholds on one dimension, one fewer than the factor has values, are found by a decision tree with that many
    leaves and equal weight of all values. Chance is 1 / values, so perfect codes of V values have a gap of about
    1 - 1 / V. Gaps are larger than those of SAP: thresholds find values that lie between others, an SVM does not.

    Args:
        codes: [N, D], D at least 2.
        factors: integers, [N, F].
        test_share: share of the samples that is held out, in (0, 1).
        seed: of the split and the trees.

    Returns:
        The gaps.

    Raises:
        ValueError: as for `sap`.
    """
    from sklearn.metrics import recall_score
    from sklearn.tree import DecisionTreeClassifier

    def score(train_code: np.ndarray, train: np.ndarray, test_code: np.ndarray, test: np.ndarray) -> float:
        tree = DecisionTreeClassifier(max_leaf_nodes=len(np.unique(train)), class_weight="balanced", random_state=seed)
        predicted = tree.fit(train_code, train).predict(test_code)
        return float(recall_score(test, predicted, labels=np.unique(test), average="macro"))

    return Gap(
        **_gaps_of(score, codes, factors, test_share, seed),
        estimator="balanced accuracy of thresholds on one dimension",
    )


def _gaps_of(
    score: Callable[..., float], codes: npt.ArrayLike, factors: npt.ArrayLike, test_share: float, seed: int
) -> dict[str, Any]:
    """Fields of a `Gap` of score(train codes [N, 1], train values [N], test codes [M, 1], test values [M])."""
    codes, factors = _checked(codes, factors, dimensions=2)
    train_codes, test_codes, train_factors, test_factors = _split(codes, factors, test_share, seed)
    scores = [
        [
            score(train_codes[:, [i]], train, test_codes[:, [i]], test)
            for train, test in zip(train_factors.T, test_factors.T, strict=True)
        ]
        for i in range(codes.shape[1])
    ]
    gaps, dimensions = _gaps(np.array(scores))
    return {
        "value": float(np.mean(gaps)),
        "per_factor": gaps,
        "dimensions": dimensions,
        "train_samples": len(train_codes),
        "test_samples": len(test_codes),
        "seed": seed,
    }


@dataclasses.dataclass(frozen=True)
class FactorVAEScore(_results.Result):
    """The score of the FactorVAE paper.

    Attributes:
        value: share of right votes among the test votes; guessing gives about 1 / F. 0 if no dimension is active.
        per_factor: the same among the votes of each factor.
        train_value: share of right votes among those that the classifier was fitted to.
        active_dimensions: the dimensions that vary enough to vote.
        estimator: what was done.
        active_threshold: least standard deviation of an active dimension.
        batch_size: samples per vote, all with one value of one factor.
        train_votes: number of votes that the classifier was fitted to.
        test_votes: number of votes that gave the score.
        scale_samples: number of samples that gave the standard deviations.
        seed: of all draws.
    """

    value: float
    per_factor: tuple[float, ...]
    train_value: float
    active_dimensions: tuple[int, ...]
    estimator: str
    active_threshold: float
    batch_size: int
    train_votes: int
    test_votes: int
    scale_samples: int
    seed: int


@measure()
def factor_vae_score(
    codes_of: Callable[[np.ndarray], npt.ArrayLike],
    factor_sizes: Sequence[int],
    *,
    batch_size: int = 64,
    train_votes: int = 800,
    test_votes: int = 800,
    scale_samples: int = 10_000,
    active_threshold: float = 0.05,
    seed: int = 0,
) -> FactorVAEScore:
    """Accuracy with which the dimension that varies least tells which factor is held fixed.

    Each vote draws samples that agree in one factor, at a random value, and are uniform in all others, and names the
    dimension whose variance there is the smallest share of its variance over all data. The classifier assigns each
    dimension the factor for which it was named most often. The factors take turns to be fixed. Dimensions that vary
    too little over all data have collapsed to the prior and do not vote: their tiny variances would be noise.

    Args:
        codes_of: factor indices [n, F], integers below `factor_sizes`, to codes [n, D]; called with n = `batch_size`
            every time, so that a compiled function compiles once.
        factor_sizes: number of values of each factor, each at least 2.
        batch_size: n, samples per vote, at least 2.
        train_votes: votes to fit, at least F.
        test_votes: votes that give the score, at least F.
        scale_samples: samples for the variance over all data; rounded up to whole batches.
        active_threshold: least standard deviation, over all data, of a dimension that votes.
        seed: of all draws.

    Returns:
        The score.

    Raises:
        ValueError: a size or count is too small, or the codes are not finite or not [n, D].

    Reference:
        Kim and Mnih, 2018, arXiv:1802.05983, section 4; 64 samples per vote, the threshold and votes held
        out for judging as Locatello et al., 2019, arXiv:1811.12359.
    """
    sizes = np.asarray(factor_sizes)
    if sizes.ndim != 1 or not len(sizes) or (sizes < 2).any():
        raise ValueError(f"factor_sizes are {factor_sizes}, expected at least one factor, each of at least 2 values.")
    if batch_size < 2 or min(train_votes, test_votes) < len(sizes) or scale_samples < 2:
        raise ValueError(
            f"batch_size={batch_size}, train_votes={train_votes}, test_votes={test_votes}, scale_samples="
            f"{scale_samples}: expected at least 2 samples each and as many votes as there are factors, {len(sizes)}."
        )
    rng = np.random.default_rng(seed)

    def draw(fixed: int | None = None) -> np.ndarray:
        factors = rng.integers(sizes, size=(batch_size, len(sizes)))
        if fixed is not None:
            factors[:, fixed] = factors[0, fixed]
        codes = np.asarray(codes_of(factors), float)
        if codes.ndim != 2 or len(codes) != batch_size:
            raise ValueError(f"codes_of gave shape {codes.shape}, expected codes [{batch_size}, D].")
        check_finite(codes, "codes")
        return codes

    batches = math.ceil(scale_samples / batch_size)
    deviation = np.concatenate([draw() for _ in range(batches)]).std(axis=0, ddof=1)
    active = np.flatnonzero((deviation >= active_threshold) & (deviation > 0))

    def count(votes: int) -> np.ndarray:
        """Counts of votes: for each active dimension and each factor that was fixed, [active, F]."""
        counts = np.zeros((len(active), len(sizes)), int)
        for vote in range(votes):
            factor = vote % len(sizes)
            spread = draw(factor)[:, active].std(axis=0) / deviation[active]
            counts[spread.argmin(), factor] += 1
        return counts

    value, train_value, per_factor = 0.0, 0.0, np.zeros(len(sizes))
    if len(active):
        train, test = count(train_votes), count(test_votes)
        right = np.arange(len(sizes)) == train.argmax(axis=1, keepdims=True)  # [active, F]
        value, train_value = test[right].sum() / test_votes, train[right].sum() / train_votes
        per_factor = (test * right).sum(axis=0) / test.sum(axis=0)
    return FactorVAEScore(
        value=float(value),
        per_factor=_floats(per_factor),
        train_value=float(train_value),
        active_dimensions=tuple(map(int, active)),
        estimator="majority vote of the dimension of least normalised variance",
        active_threshold=active_threshold,
        batch_size=batch_size,
        train_votes=train_votes,
        test_votes=test_votes,
        scale_samples=batches * batch_size,
        seed=seed,
    )


@measure()
def _checked(codes: npt.ArrayLike, factors: npt.ArrayLike, *, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes [N, D], float, and factors [N, F], integers, or a ValueError that says what is wrong."""
    codes, factors = np.asarray(codes, float), np.asarray(factors)
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or not factors.size:
        raise ValueError(
            f"codes have shape {codes.shape} and factors {factors.shape}, expected [N, D] and [N, F] with the same N "
            "and at least one factor."
        )
    if codes.shape[1] < dimensions:
        raise ValueError(f"codes have {codes.shape[1]} dimensions, expected at least {dimensions} to compare.")
    if not np.issubdtype(factors.dtype, np.integer):
        raise ValueError(f"factors are {factors.dtype}, expected integers: the index of each value.")
    _check_values(factors, "samples")
    return codes, factors


def _check_values(factors: np.ndarray, where: str) -> None:
    constant = np.flatnonzero((factors == factors[:1]).all(axis=0))
    if len(constant):
        raise ValueError(
            f"factors {constant.tolist()} take only one value among the {len(factors)} {where}; leave them out or "
            "give more samples."
        )


def _check_choice(estimator: str, choices: tuple[str, ...]) -> None:
    if estimator not in choices:
        raise ValueError(f"estimator is {estimator!r}; choose one of {', '.join(map(repr, choices))}.")


def _split(codes: np.ndarray, factors: np.ndarray, test_share: float, seed: int) -> list[np.ndarray]:
    """Training and test codes, training and test factors."""
    from sklearn.model_selection import train_test_split

    test_count = round(test_share * len(codes))
    if not 0 < test_share < 1 or test_count < 2 or len(codes) - test_count < 10:
        raise ValueError(
            f"{len(codes)} samples with test_share={test_share} are too few: expected at least 10 to fit and 2 to test."
        )
    parts = train_test_split(codes, factors, test_size=test_count, random_state=seed)
    _check_values(parts[2], "training samples")
    return parts


def _gaps(scores: np.ndarray) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Best minus second best of each column of [D, F], and the row of the best."""
    second, first = np.sort(scores, axis=0)[-2:]
    return _floats(first - second), tuple(map(int, scores.argmax(axis=0)))


def _concentration(weights: np.ndarray) -> np.ndarray:
    """1 - entropy of each row's shares in units of its maximum: 1 for one entry alone, 0 for equal or no entries."""
    total = weights.sum(axis=1)
    shares = weights / np.where(total > 0, total, 1.0)[:, None]
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1)
    return np.where(total > 0, np.clip(1.0 - entropy / math.log(weights.shape[1]), 0.0, 1.0), 0.0)


def _floats(values: npt.ArrayLike) -> tuple[float, ...]:
    return tuple(map(float, np.asarray(values)))
