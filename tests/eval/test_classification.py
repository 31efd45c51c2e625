import dataclasses
import itertools
import math

import numpy as np
import pytest

from mvae_jax.eval import classification, partial_captions

TABLE_1 = classification.Confusion(427, 73, 40, 460)
MEASURES = {"accuracy", "precision", "recall", "f1", "auroc"}


@pytest.mark.parametrize(
    ("positive", "published"),
    [("match", (0.887, 0.863, 0.920, 0.891)), ("mismatch", (0.887, 0.914, 0.854, 0.883))],
)
def test_published_table(positive, published):
    rates = dataclasses.astuple(TABLE_1.rates(positive=positive))
    assert tuple(round(rate, 3) for rate in rates) == published


def test_match_is_positive_unless_told():
    assert TABLE_1.rates() == TABLE_1.rates("match")


def test_rates_of_nothing_accepted_are_zero():
    assert classification.Confusion(5, 0, 5, 0).rates() == classification.Rates(0.5, 0.0, 0.0, 0.0)


def test_unknown_positive_class():
    with pytest.raises(ValueError, match="positive is 'Match'; choose one of 'match', 'mismatch'"):
        TABLE_1.rates("Match")


def test_confusion_counts_scores_above_the_threshold():
    confusion = classification.Confusion.at(0.5, [0.5, 0.6, 0.9], [0.1, 0.5, 0.7, 0.8])
    assert confusion == classification.Confusion(2, 2, 1, 2)


def test_auroc_counts_pairs_and_halves_ties():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(2, 9, 40), rng.integers(0, 7, 30)
    pairs = [(p > n) + 0.5 * (p == n) for p, n in itertools.product(positive, negative)]
    assert classification.auroc(positive, negative) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert classification.auroc([1, 2], [0, 0.5]) == 1.0
    assert classification.auroc([1, 1], [1]) == 0.5


@pytest.mark.parametrize(
    ("true", "count", "low", "high"),
    [(0, 10, 0.0, 0.27753), (5, 10, 0.23659, 0.76341), (10, 10, 0.72247, 1.0), (81, 263, 0.25529, 0.36621)],
)
def test_wilsons_interval_of_a_share(true, count, low, high):
    """By the formula; 81 of 263 is an example of Newcombe, 1998, Two-sided confidence intervals: 0.2553 to 0.3662."""
    found = classification.share([True] * true + [False] * (count - true))
    assert dataclasses.astuple(found) == pytest.approx((true / count, low, high, count), abs=1e-5)
    assert str(found) == f"{true / count:.3f} ({low:.3f} to {high:.3f})"


def test_a_share_of_no_example_has_no_value_and_no_interval():
    nothing = classification.share([])
    assert dataclasses.astuple(nothing) == (None, None, None, 0)
    assert str(nothing) == "\N{EM DASH}"
    assert nothing == partial_captions._mean_share(np.zeros(0), (0,))
    for wrong in ((0.5, 0.4, 0.6, 0), (None, None, None, 3), (0.5, None, None, 3)):
        with pytest.raises(ValueError, match=rf"a share of {wrong[-1]} examples has .*; expected numbers, and None of"):
            classification.Share(*wrong)


def test_spreads_by_hand():
    # Curation 0: one match and one mismatch of two accepted; curation 1: everything.
    spreads = classification.spreads([0.4, 0.3], [0.9, 0.4], [[0.1, 0.6], [0.5, 0.5]])
    expected = {
        "accuracy": (0.5, 0.0, 0.5, 0.5),
        "precision": (0.5, 0.0, 0.5, 0.5),
        "recall": (0.75, 0.25, 0.5, 1.0),
        "f1": (7 / 12, 1 / 12, 1 / 2, 2 / 3),
        "auroc": (0.625, 0.125, 0.5, 0.75),
    }
    assert set(spreads) == MEASURES
    for name, values in expected.items():
        assert dataclasses.astuple(spreads[name]) == pytest.approx(values), name


def test_bootstrap_equals_loop_over_repeated_images():
    rng = np.random.default_rng(0)
    match, mismatch = rng.integers(3, 10, 12), rng.integers(0, 8, (3, 12))
    thresholds = np.array([4.5, 5.5, 6.5])

    rng = np.random.default_rng((1, 2))
    curations, weights = rng.integers(3, size=40), rng.multinomial(12, [1 / 12] * 12, size=40)
    rows = []
    for curation, weight in zip(curations, weights, strict=True):
        own, other = np.repeat(match, weight), np.repeat(mismatch[curation], weight)
        rates = classification.Confusion.at(thresholds[curation], own, other).rates()
        rows.append(dataclasses.asdict(rates) | {"auroc": classification.auroc(own, other)})

    intervals = classification.bootstrap_intervals(thresholds, match, mismatch, seed=(1, 2), draws=40, level=0.8)
    assert set(intervals) == MEASURES
    for name, ends in intervals.items():
        assert ends == pytest.approx(np.quantile([row[name] for row in rows], (0.1, 0.9)), abs=1e-12), name


def test_bootstrap_interval_of_accuracy_is_the_binomial_one():
    # 300 images, both pairs right or both wrong together: accuracy is a mean of 300 coin tosses of 0.8.
    right = np.arange(300) < 240
    intervals = classification.bootstrap_intervals([0.5], right * 1.0, [(~right) * 1.0], seed=0)
    deviation = math.sqrt(0.8 * 0.2 / 300)
    np.testing.assert_allclose(intervals["accuracy"], (0.8 - 1.96 * deviation, 0.8 + 1.96 * deviation), atol=0.006)


def test_bootstrap_adds_the_variance_over_curations():
    # All matches accepted; of each curation's mismatches another share, in [0.55, 0.85], is rejected.
    match, shares = np.ones(200), np.random.default_rng(0).uniform(0.55, 0.85, 400)
    mismatch = np.arange(200) >= np.round(200 * shares)[:, None]
    low, high = classification.bootstrap_intervals(np.full(400, 0.5), match, mismatch, seed=0, draws=4000, level=0.8)[
        "accuracy"
    ]
    rejected = 1 - mismatch.mean(1)
    variance = (rejected * (1 - rejected)).mean() / 200 + rejected.var()
    rng = np.random.default_rng(1)
    drawn = rng.choice(rejected, 100_000)
    expected = np.quantile((1 + rng.binomial(200, drawn) / 200) / 2, (0.1, 0.9))
    np.testing.assert_allclose((low, high), expected, atol=0.004)
    assert high - low > 1.5 * 2 * 1.28 * math.sqrt(0.7 * 0.3 / 200) / 2  # images alone
    assert high - low == pytest.approx(2 * 1.28 * math.sqrt(variance) / 2, rel=0.15)


def test_bootstrap_takes_each_curation_at_its_own_threshold():
    match, mismatch = np.full(7, 0.6), np.full((2, 7), 0.4)
    for thresholds, ends in (([0.5, 0.5], (1.0, 1.0)), ([0.5, 0.7], (0.5, 1.0)), ([0.7, 0.3], (0.5, 0.5))):
        intervals = classification.bootstrap_intervals(thresholds, match, mismatch, seed=0)
        assert intervals["accuracy"] == ends
        assert intervals["auroc"] == (1.0, 1.0)


@pytest.mark.parametrize("mismatch", [[[0.4, 0.4]], [[0.4], [0.4]], [0.4, 0.4]])
@pytest.mark.parametrize(
    "measure", [classification.spreads, lambda *args: classification.bootstrap_intervals(*args, seed=0)]
)
def test_scores_of_other_shapes_are_refused(mismatch, measure):
    with pytest.raises(ValueError, match=r"expected \[2, 2\]: a row per threshold and a column per match score"):
        measure([0.5, 0.5], [0.6, 0.6], mismatch)
