"""The kernel distance by loops, by moments that are known, and by sets that have no other value."""

import functools
import itertools

import numpy as np
import pytest

from mvae_jax.eval import kernel_distance as module
from mvae_jax.eval.features import Features
from mvae_jax.eval.kernel_distance import squared_mmd

kernel_distance = functools.partial(module.kernel_distance, features=Features("pixels"))


def loop(a, b):
    """Pair by pair, no example with itself."""

    def k(x, y):
        return (sum(p * q for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    within = [mean(k(x, y) for x, y in itertools.permutations(each, 2)) for each in (a, b)]
    return sum(within) - 2 * mean(k(x, y) for x in a for y in b)


@pytest.mark.parametrize(("n", "m", "size"), [(2, 2, 1), (7, 4, 3), (12, 9, 5)])
def test_estimate_equals_a_loop(n, m, size):
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=(n, size)), rng.normal(size=(m, size)) + 0.5
    assert squared_mmd(a, b) == pytest.approx(loop(a, b), rel=1e-10)
    assert squared_mmd(b, a) == pytest.approx(loop(a, b), rel=1e-10)


def test_sums_are_double_precision():
    """Features in single precision far from the origin, where kernels are 1e9 and their difference is 1."""
    a, b = (np.random.default_rng(seed).normal(size=(40, 4)).astype(np.float32) + 1000 for seed in (0, 1))
    assert squared_mmd(a, b) == pytest.approx(loop(a.astype(float), b.astype(float)), rel=1e-6)


def test_constant_sets_by_hand():
    """Of (1, 1) and (2, 0): (2/2 + 1)^3 + (4/2 + 1)^3 - 2 (2/2 + 1)^3, whatever the subsets."""
    result = kernel_distance(np.ones((4, 2)), np.tile([2.0, 0.0], (9, 1)))
    assert result.value == pytest.approx(8 + 27 - 16, rel=1e-12)
    assert result.standard_error == pytest.approx(0, abs=1e-12)


def test_population_value_of_coins():
    """All moments of a coin in {0, 1} are p: (3 + 3 + 1) (p - q)^2. The estimates scatter around it."""
    rng = np.random.default_rng(2)
    values = [squared_mmd(*(rng.random((30, 1)) < p for p in (0.8, 0.3))) for _ in range(2000)]
    error = np.std(values) / np.sqrt(len(values))
    assert error < 0.03
    assert abs(np.mean(values) - 7 * 0.5**2) < 4 * error


def test_one_distribution_has_expectation_zero():
    """Also with few images; the mean that keeps each example with itself would be far above."""
    rng = np.random.default_rng(3)
    values = [squared_mmd(*rng.normal(size=(2, 6, 4))) for _ in range(3000)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    assert error < 0.05


def test_subsets_have_the_expectation_of_the_whole():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(40, 3)), rng.normal(size=(30, 3)) * 1.3 + 0.2
    result = kernel_distance(a, b, subsets=2000, subset_size=10)
    assert abs(result.value - squared_mmd(a, b)) < 4 * result.standard_error
    assert result.standard_error < 0.05 * result.value
    few = kernel_distance(a, b, subsets=500, subset_size=10, seed=1)
    assert few.standard_error == pytest.approx(2 * result.standard_error, rel=0.15)


def test_result_carries_what_it_depends_on():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(30, 3)), rng.normal(size=(9, 3))
    result = kernel_distance(a, b, split="test", subsets=7)
    assert (result.count_a, result.count_b, result.subsets, result.subset_size) == (30, 9, 7, 4)  # half of 9
    assert kernel_distance(a, b, subsets=7, subset_size=3).to_dict()["subset_size"] == 3
    assert kernel_distance(a, b, split="test", subsets=7) == result
    assert kernel_distance(a, b, split="test", subsets=7, seed=1).value != result.value


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (3, {}, r"shape \(3, 2\), expected \[N, F\] with at least 4"),
        (8, {"subsets": 1}, "subsets is 1 and subset_size 1000, expected at least 2"),
        (8, {"subset_size": 1}, "subset_size 1, expected at least 2"),
    ],
)
def test_too_few_are_refused(count, options, message):
    with pytest.raises(ValueError, match=message):
        kernel_distance(np.zeros((count, 2)), np.zeros((8, 2)), **options)
