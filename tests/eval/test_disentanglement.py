import dataclasses
import json
import math

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import train_test_split
from sklearn.svm import LinearSVC

from mvae_jax.eval.disentanglement import dci, factor_vae_score, mig, sap, threshold_gap


def grid(*sizes, repeats=1):
    """All combinations of the values of all factors, each equally often: exactly independent and uniform."""
    return np.tile(np.indices(sizes).reshape(len(sizes), -1).T, (repeats, 1))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def loop_information(joint):
    """Mutual information of a table of counts."""
    joint = joint / joint.sum()
    total = 0.0
    for i, row in enumerate(joint):
        for j, share in enumerate(row):
            if share > 0:
                total += share * math.log(share / (joint[i].sum() * joint[:, j].sum()))
    return total


def test_mig_equals_loop_over_histograms():
    factors = np.random.default_rng(0).integers([2, 5, 9], size=(700, 3))
    codes = factors @ noise(3, 4, seed=1) + noise(700, 4, seed=2)
    information = np.zeros((4, 3))
    for i in range(4):
        for k, size in enumerate((2, 5, 9)):
            table, _, _ = np.histogram2d(codes[:, i], factors[:, k], bins=[12, np.arange(size + 1)])
            information[i, k] = loop_information(table)
    entropy = [loop_information(np.diag(np.bincount(factor))) for factor in factors.T]
    expected = [(sorted(column)[-1] - sorted(column)[-2]) / h for column, h in zip(information.T, entropy, strict=True)]
    result = mig(codes, factors, bins=12)
    assert result.per_factor == pytest.approx(expected, abs=1e-12)
    assert result.value == pytest.approx(np.mean(expected), abs=1e-12)
    assert result.dimensions == tuple(information.argmax(axis=0))
    assert (result.bins, result.samples) == (12, 700)


def rotated():
    """Fixed codes of two factors, of 3 and 4 values, that share a dimension."""
    rng = np.random.default_rng(0)
    factors = rng.integers([3, 4], size=(400, 2))
    return factors @ [[1.0, 0.3, 0.0], [0.2, 0.0, 1.0]] + 0.3 * rng.normal(size=(400, 3)), factors


def test_sap_is_the_literatures():
    """disentanglement_lib in a loop: accuracy of a linear SVM on one code; thresholds, which it has not, give 2.7 x."""
    codes, factors = rotated()
    train, test, train_factors, test_factors = train_test_split(codes, factors, test_size=80, random_state=0)
    gaps = []
    for j in range(2):
        scores = []
        for i in range(3):
            svm = LinearSVC(C=0.01, class_weight="balanced", random_state=0).fit(train[:, [i]], train_factors[:, j])
            scores.append(np.mean(svm.predict(test[:, [i]]) == test_factors[:, j]))
        gaps.append(sorted(scores)[-1] - sorted(scores)[-2])
    result = sap(codes, factors)
    assert result.per_factor == pytest.approx(gaps, abs=1e-12)
    assert result.per_factor == pytest.approx((0.0625, 0.25), abs=1e-12)
    assert (result.value, result.dimensions) == (pytest.approx(0.15625, abs=1e-12), (0, 2))
    assert (result.train_samples, result.test_samples, result.seed) == (320, 80, 0)
    assert threshold_gap(codes, factors).value == pytest.approx(0.424, abs=1e-3)


def test_dci_is_the_literatures():
    """disentanglement_lib in loops: importances by boosted trees, and both means weighted by importance."""
    codes, factors = rotated()
    train, test, train_factors, test_factors = train_test_split(codes, factors, test_size=80, random_state=0)
    importance, right = np.zeros((3, 2)), []
    for j in range(2):
        model = GradientBoostingClassifier(random_state=0).fit(train, train_factors[:, j])
        importance[:, j] = np.abs(model.feature_importances_)
        right.append(np.mean(model.predict(test) == test_factors[:, j]))
    expected = literature_dci(importance)
    result = dci(codes, factors)
    assert (result.disentanglement, result.completeness) == pytest.approx(expected, abs=1e-9)
    assert expected == pytest.approx((0.6605, 0.7094), abs=1e-3)
    assert result.informativeness == pytest.approx(np.mean(right), abs=1e-12)


def literature_dci(importance):
    """Disentanglement and completeness of importances, [D, F], in loops."""
    scores = []
    for matrix in (importance, importance.T):
        score = 0.0
        for row in matrix:
            shares = (row + 1e-11) / (row + 1e-11).sum()
            entropy = -sum(share * math.log(share, len(row)) for share in shares)
            score += (1 - entropy) * row.sum() / importance.sum()
        scores.append(score)
    return tuple(scores)


def test_codes_that_are_the_factors_score_one():
    factors = grid(3, 4, 5, repeats=10)
    assert mig(factors, factors).per_factor == pytest.approx((1, 1, 1), abs=1e-12)
    assert sap(factors, factors, estimator="linear").per_factor == pytest.approx((1, 1, 1), abs=1e-12)
    for estimator in ("gradient_boosting", "random_forest", "lasso"):
        result = dci(factors, factors, estimator=estimator)
        assert result.disentanglement == pytest.approx(1, abs=1e-12)
        assert result.completeness == pytest.approx(1, abs=1e-12)
        assert result.informativeness == pytest.approx(1, abs=1e-4)  # the penalty of the lasso shrinks a little
        assert (result.train_samples, result.test_samples) == (480, 120)
    score = factor_vae_score(lambda values: values, (3, 4, 5))
    assert (score.value, score.train_value, score.per_factor) == (1, 1, (1, 1, 1))


def test_constant_and_unrelated_dimensions_do_not_count():
    factors = grid(3, 4, 5, repeats=10)
    codes = np.concatenate([np.ones((600, 1)), factors, noise(600, 1)], axis=1)
    assert mig(codes, factors).per_factor == pytest.approx((1, 1, 1), abs=0.1)
    assert mig(codes[:, :4], factors).per_factor == pytest.approx((1, 1, 1), abs=1e-12)
    assert mig(codes, factors).dimensions == sap(codes, factors).dimensions == (1, 2, 3)
    assert threshold_gap(codes, factors).dimensions == (1, 2, 3)
    for estimator in ("random_forest", "lasso"):
        result = dci(codes, factors, estimator=estimator)
        assert result.disentanglement_per_dimension == pytest.approx((0, 1, 1, 1, 0), abs=1e-12)
        assert result.completeness_per_factor == pytest.approx((1, 1, 1), abs=1e-12)


def test_mig_is_limited_by_the_bins():
    factors = grid(40, 2)
    assert mig(factors, factors, bins=20).per_factor == pytest.approx((math.log(20) / math.log(40), 1), abs=1e-12)
    assert mig(factors, factors, bins=40).per_factor == pytest.approx((1, 1), abs=1e-12)


def test_rotation_of_two_factors():
    factors = grid(16, 16, 4)
    first, second, third = factors.T
    codes = np.stack([first + second, first - second, third], axis=1)
    assert mig(codes, factors).per_factor == pytest.approx((0, 0, 1), abs=1e-9)
    assert sap(codes, factors, estimator="linear").per_factor == pytest.approx((0, 0, 1), abs=1e-9)
    for metric in (sap, threshold_gap):
        assert metric(codes, factors).per_factor[:2] == pytest.approx((0, 0), abs=0.07)
    result = dci(codes, factors, estimator="lasso")
    # Of three factors two count equally for the dimension, and the other way round.
    mixed = 1 - math.log(2) / math.log(3)
    assert result.disentanglement_per_dimension == pytest.approx((mixed, mixed, 1), abs=0.01)
    assert result.completeness_per_factor == pytest.approx((mixed, mixed, 1), abs=0.01)
    result = dci(codes, factors, estimator="random_forest", trees=5)
    assert result.disentanglement_per_dimension[:2] == pytest.approx((mixed, mixed), abs=0.02)


def test_duplicated_dimension():
    factors = grid(4, 4, 4, repeats=8)
    codes = factors[:, [0, 0, 1, 2]]
    assert mig(codes, factors).per_factor == pytest.approx((0, 1, 1), abs=1e-12)
    for metric in (mig, sap, threshold_gap):
        assert metric(codes, factors).per_factor[0] == 0
    assert sap(codes, factors, estimator="linear").per_factor == pytest.approx((0, 1, 1), abs=1e-12)
    result = dci(codes, factors, estimator="random_forest", trees=200)
    assert result.disentanglement == pytest.approx(1, abs=1e-12)
    assert result.informativeness == 1
    # A tree takes either of the two: shares of one half among four dimensions.
    assert result.completeness_per_factor == pytest.approx((1 - math.log(2) / math.log(4), 1, 1), abs=0.02)
    assert factor_vae_score(lambda values: values[:, [0, 0, 1, 2]], (4, 4, 4)).value == 1


def test_noise_scores_nothing():
    factors, codes = grid(3, 4, 5, repeats=40), noise(2400, 6)
    assert 0 <= mig(codes, factors).value < 0.01
    assert 0 <= sap(codes, factors).value < 0.04
    assert 0 <= threshold_gap(codes, factors).value < 0.04
    assert 0 <= sap(codes, factors, estimator="linear").value < 0.002
    result = dci(codes, factors, estimator="random_forest")
    assert result.disentanglement < 0.01
    assert result.completeness < 0.01
    assert result.informativeness == pytest.approx((1 / 3 + 1 / 4 + 1 / 5) / 3, abs=0.03)
    assert result.baseline_per_factor == pytest.approx((1 / 3, 1 / 4, 1 / 5), abs=0.05)
    rng = np.random.default_rng(0)
    score = factor_vae_score(lambda values: rng.normal(size=(len(values), 6)), (3, 4, 5))
    assert score.value == pytest.approx(1 / 3, abs=4 * math.sqrt(2 / 9 / 800))
    assert score.active_dimensions == (0, 1, 2, 3, 4, 5)


def test_unimportant_everywhere_is_zero_for_the_lasso():
    result = dci(grid(10, 2, 2, 2), grid(10, 2, 2, 2)[:, [1, 2]], estimator="lasso", test_share=0.25)
    assert result.disentanglement_per_dimension == pytest.approx((0, 1, 1, 0), abs=1e-12)
    orthogonal = grid(4, 4, 2, 2)
    result = dci(orthogonal[:, :2], orthogonal[:, 2:], estimator="lasso", test_share=1 / 32)
    assert 0 <= result.disentanglement <= 1
    assert all(score <= 0.05 for score in result.informativeness_per_factor)


@pytest.mark.parametrize("change", ["permutation", "scale"])
def test_order_and_scale_of_dimensions_do_not_matter(change):
    factors = np.random.default_rng(0).integers([2, 5, 9], size=(800, 3))
    codes = factors @ noise(3, 4, seed=1) + noise(800, 4, seed=2)
    order, scale = (
        ((2, 0, 3, 1), 1.0) if change == "permutation" else ((0, 1, 2, 3), np.array([-2.0, 0.7, 300.0, -3.0]))
    )
    changed = codes[:, order] * scale
    scaled = [(mig, {}), (threshold_gap, {}), (sap, {"estimator": "linear"})]
    for metric, options in [*scaled, *([(sap, {})] if change == "permutation" else [])]:
        before, after = metric(codes, factors, **options), metric(changed, factors, **options)
        assert after.per_factor == pytest.approx(before.per_factor, abs=1e-12)
        assert [order[dimension] for dimension in after.dimensions] == list(before.dimensions)
    for estimator, tolerance in (("random_forest", 0.02), ("lasso", 1e-3)):
        before, after = (dci(array, factors, estimator=estimator) for array in (codes, changed))
        expected = [before.disentanglement_per_dimension[dimension] for dimension in order]
        assert after.disentanglement_per_dimension == pytest.approx(expected, abs=tolerance)
        assert after.completeness_per_factor == pytest.approx(before.completeness_per_factor, abs=tolerance)
        assert after.informativeness_per_factor == pytest.approx(before.informativeness_per_factor, abs=2 * tolerance)

    mixing = noise(3, 4, seed=1)
    before, after = (
        factor_vae_score(lambda values, columns=columns: (values @ mixing) @ columns, (2, 5, 9), test_votes=300)
        for columns in (np.eye(4), np.eye(4)[:, order] * scale)
    )
    assert after == dataclasses.replace(before, active_dimensions=after.active_dimensions)


def test_dci_lasso_in_closed_form():
    first, second = grid(10, 10, repeats=10).T
    result = dci(np.stack([first, second], 1), np.stack([3 * first + second, second], 1), estimator="lasso")
    relevance = np.array([[3, 0], [1, math.sqrt(10)]]) / math.sqrt(10)  # standardised weights, [D, F]

    def entropy(weights):
        shares = np.array([weight for weight in weights if weight]) / sum(weights)
        return float(-(shares * np.log2(shares)).sum())

    per_dimension = [1 - entropy(row) for row in relevance]
    assert result.disentanglement_per_dimension == pytest.approx(per_dimension, abs=0.01)
    expected = relevance.sum(1) / relevance.sum() @ per_dimension
    assert result.disentanglement == pytest.approx(expected, abs=0.01)
    assert result.completeness_per_factor == pytest.approx([1 - entropy(column) for column in relevance.T], abs=0.01)
    # The first factor has sqrt(1.6) times the importance of the second.
    weight = math.sqrt(1.6) / (1 + math.sqrt(1.6))
    assert result.completeness == pytest.approx(weight * (1 - entropy([3, 1])) + 1 - weight, abs=0.01)
    assert (result.disentanglement, result.completeness) == pytest.approx(literature_dci(relevance), abs=0.01)
    assert result.informativeness_per_factor == pytest.approx((1, 1), abs=1e-4)
    assert result.baseline_per_factor == pytest.approx((0, 0), abs=0.02)


def test_informativeness_is_held_out_accuracy():
    factors = grid(2, 2, repeats=1000)
    flipped = np.random.default_rng(0).random(factors.shape) < (0.3, 0.1)
    result = dci(np.where(flipped, 1 - factors, factors), factors, estimator="random_forest")
    assert result.informativeness_per_factor == pytest.approx((0.7, 0.9), abs=4 * math.sqrt(0.21 / 800))
    # A forest that learns by heart would be right about its own samples, not about these.
    result = dci(noise(1000, 2), factors[:1000], estimator="random_forest", min_leaf=1)
    assert result.informativeness_per_factor == pytest.approx((0.5, 0.5), abs=4 * math.sqrt(0.25 / 200))


def test_thresholds_balance_the_values():
    # A constant dimension has one answer: balanced accuracy 1 / V, though it is right for 90 % of the samples.
    factor = np.repeat([0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 60)[:, None]
    codes = np.concatenate([factor, np.zeros_like(factor)], axis=1)
    assert threshold_gap(codes, factor).per_factor == (0.5,)
    # Code 1 makes the rare value likelier, never likely: only with equal weights is it an answer.
    code, rare = np.repeat([[0, 0], [0, 1], [1, 0], [1, 1]], [2940, 60, 2460, 540], axis=0).T
    result = threshold_gap(np.stack([code, np.zeros_like(code)], axis=1), rare[:, None])
    assert result.per_factor == pytest.approx(((540 / 600 + 2940 / 5400) / 2 - 0.5,), abs=0.04)
    four = grid(4, repeats=50)
    assert threshold_gap(np.concatenate([np.zeros_like(four), four], axis=1), four).per_factor == (0.75,)
    assert threshold_gap(np.concatenate([np.zeros_like(four), (four + 2) % 4], axis=1), four).per_factor == (0.75,)


def test_sap_linear_is_the_squared_correlation():
    factors = np.random.default_rng(0).integers([2, 9], size=(300, 2))
    codes = factors @ noise(2, 3, seed=1) + noise(300, 3, seed=2)
    squared = np.corrcoef(codes.T, factors.T)[:3, 3:] ** 2
    expected = [sorted(column)[-1] - sorted(column)[-2] for column in squared.T]
    result = sap(codes, factors, estimator="linear")
    assert result.per_factor == pytest.approx(expected, abs=1e-12)
    assert (result.train_samples, result.test_samples, result.seed) == (300, 0, None)


def test_factor_vae_score_of_one_factor_shown():
    # Factor 0 is always told. Else one of many noise dimensions varies least, and stands for either of the others.
    rng = np.random.default_rng(0)
    score = factor_vae_score(
        lambda values: np.concatenate([values[:, :1], rng.normal(size=(len(values), 20))], axis=1), (5, 5, 5)
    )
    assert score.per_factor[0] == 1
    assert score.value == pytest.approx(1 / 3 + 2 / 3 / 2, abs=4 * math.sqrt(0.25 * 2 / 3 / 800))
    assert score.value == pytest.approx(np.mean(score.per_factor), abs=2e-3)


def test_factor_vae_score_normalises():
    # The variance of dimension 1 is always the least, until it is divided by that over all data.
    assert factor_vae_score(lambda values: values * [100.0, 0.1], (4, 4)).value == 1


def test_collapsed_dimensions_do_not_vote():
    def codes_of(values):
        almost_constant = 1e-3 * (values == 0).all(axis=1, keepdims=True)
        return np.concatenate([almost_constant, values], axis=1)

    score = factor_vae_score(codes_of, (10, 10, 10))
    assert (score.value, score.active_dimensions) == (1, (1, 2, 3))
    assert factor_vae_score(codes_of, (10, 10, 10), active_threshold=0.0).value < 0.6
    score = factor_vae_score(lambda values: np.ones((len(values), 2)), (3, 3), active_threshold=0.0)
    assert (score.value, score.per_factor, score.active_dimensions) == (0, (0, 0), ())


def test_factor_vae_score_calls_with_one_shape_and_all_values():
    seen = []
    score = factor_vae_score(
        lambda values: seen.append(values) or values,
        (2, 7),
        batch_size=16,
        train_votes=3,
        test_votes=5,
        scale_samples=33,
    )
    assert [values.shape for values in seen] == [(16, 2)] * (3 + 3 + 5)
    assert (score.scale_samples, score.batch_size, score.train_votes, score.test_votes) == (48, 16, 3, 5)
    everything = np.concatenate(seen)
    assert set(everything[:, 0]) == set(range(2))
    assert set(everything[:, 1]) == set(range(7))
    fixed = [(values == values[0]).all(axis=0).tolist() for values in seen[3:]]
    assert fixed == [[True, False], [False, True], [True, False]] + [[True, False], [False, True]] * 2 + [[True, False]]


def test_seed_decides():
    factors = np.random.default_rng(0).integers([3, 5], size=(300, 2))
    codes = factors + noise(300, 2)
    for metric in (dci, sap, threshold_gap):
        assert metric(codes, factors, seed=1) == metric(codes, factors, seed=1)
        assert metric(codes, factors, seed=1) != dataclasses.replace(metric(codes, factors, seed=2), seed=1)
    scores = [
        factor_vae_score(
            lambda values: np.sin(9 * values @ noise(2, 3)), (3, 5), train_votes=50, test_votes=99, seed=seed
        )
        for seed in (1, 1, 2)
    ]
    assert scores[0] == scores[1] != dataclasses.replace(scores[2], seed=1)


def test_results_are_plain_numbers():
    factors = grid(3, 4, repeats=5)
    results = [
        mig(factors, factors),
        dci(factors, factors),
        sap(factors, factors),
        threshold_gap(factors, factors),
        factor_vae_score(np.asarray, (3, 4)),
    ]
    for result in results:
        assert json.loads(json.dumps(result.to_dict())).keys() == {field.name for field in dataclasses.fields(result)}


@pytest.mark.parametrize("metric", [mig, dci, sap, threshold_gap])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda codes, factors: (codes[:-1], factors), r"shape \(59, 2\) and factors \(60, 2\)"),
        (lambda codes, factors: (codes, factors[:, 0]), r"factors \(60,\), expected"),
        (lambda codes, factors: (codes[:0], factors[:0]), "expected"),
        (lambda codes, factors: (codes[:, :1], factors), "1 dimensions, expected at least 2"),
        (
            lambda codes, factors: (np.where(factors == 1, np.nan, codes), factors),
            "35 of 120 values of codes are not finite",
        ),
        (lambda codes, factors: (codes, factors * 1.0), "factors are float64, expected integers"),
        (lambda codes, factors: (codes, factors * [1, 0]), r"factors \[1\] take only one value among the 60 samples"),
        (lambda codes, factors: (codes[:9], factors[:9]), "9 samples"),
    ],
)
def test_bad_arrays_are_refused(metric, change, message):
    factors = grid(3, 4, repeats=5)
    with pytest.raises(ValueError, match=message):
        metric(*change(factors * 1.0, factors))


def test_bad_options_are_refused():
    factors = grid(3, 4, repeats=5)
    for metric in (dci, sap):
        with pytest.raises(ValueError, match="estimator is 'tree'; choose one of "):
            metric(factors, factors, estimator="tree")
    for metric in (dci, sap, threshold_gap):
        with pytest.raises(ValueError, match=r"60 samples with test_share=1.0 are too few"):
            metric(factors, factors, test_share=1.0)
        rare = np.eye(1, 60, 7, dtype=int).T
        seed = next(s for s in range(100) if 7 in train_test_split(np.arange(60), test_size=12, random_state=s)[1])
        with pytest.raises(ValueError, match=r"factors \[2\] take only one value among the 48 training samples"):
            metric(factors, np.concatenate([factors, rare], axis=1), seed=seed)
    with pytest.raises(ValueError, match="give at least two"):
        dci(factors, factors[:, :1])
    with pytest.raises(ValueError, match="bins is 1, expected"):
        mig(factors, factors, bins=1)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((), {}, r"factor_sizes are \(\), expected"),
        ((3, 1), {}, "each of at least 2 values"),
        ((3, 3), {"batch_size": 1}, "batch_size=1"),
        ((3, 3), {"test_votes": 1}, "test_votes=1.*as many votes as there are factors, 2"),
    ],
)
def test_bad_sampling_is_refused(sizes, options, message):
    with pytest.raises(ValueError, match=message):
        factor_vae_score(lambda values: values, sizes, **options)


def test_bad_codes_of_function_are_refused():
    for codes_of, message in (
        (lambda values: values[:, 0], r"shape \(64,\), expected codes \[64, D\]"),
        (lambda values: values[1:], r"shape \(63, 2\), expected codes \[64, D\]"),
        (lambda values: values * np.nan, "128 of 128 values of codes are not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            factor_vae_score(codes_of, (3, 3))
