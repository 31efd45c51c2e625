"""Precision and recall on points whose neighbours can be counted by hand, and against a search through all pairs."""

import functools

import numpy as np
import pytest

from mvae_jax.eval import manifold
from mvae_jax.eval.features import Features

precision_and_recall = functools.partial(manifold.precision_and_recall, features=Features("pixels"))


def column(*values):
    return np.array(values, float)[:, None]


def search(real, generated, neighbours):
    def on_manifold(x, points):
        for i, point in enumerate(points):
            others = sorted(np.linalg.norm(other - point) for j, other in enumerate(points) if j != i)
            if np.linalg.norm(x - point) <= others[neighbours - 1]:
                return True
        return False

    precision = np.mean([on_manifold(x, real) for x in generated])
    return precision, np.mean([on_manifold(x, generated) for x in real])


def test_points_on_a_line_by_hand():
    """Balls of the real points: [-1, 1], [0, 2], [1, 5], [3, 11]. Of the others: [-3, -1], [-2, 0], [-1, 13], [11, 13],
    [12, 14]; a point on the rim is in.
    """
    real, generated = column(0, 1, 3, 7), column(-2, -1, 6, 12, 13)
    result = precision_and_recall(real, generated, neighbours=1, split="test")
    assert result.precision == 2 / 5
    assert result.recall == 1.0
    assert (result.count_a, result.count_b, result.dimensions, result.neighbours) == (4, 5, 1, 1)
    assert result.to_dict()["split"] == "test"


def test_the_third_neighbour_is_the_default():
    """Balls of 0, 1, 3, 7: out to 7, 6, 4 and 7. -7 is on the rim of the first, 14.5 beyond that of the last."""
    real = column(0, 1, 3, 7)
    result = precision_and_recall(real, column(-7, -7.5, 14, 14.5))
    assert result.precision == 0.5
    assert result.neighbours == 3
    assert precision_and_recall(real, column(100, 101, 102, 103)).precision == 0


@pytest.mark.parametrize("chunk", [1, 4, 1000])
@pytest.mark.parametrize("neighbours", [1, 2, 3])
def test_equals_a_search_through_all_pairs(neighbours, chunk):
    """On a grid, where many distances are equal and some points coincide."""
    rng = np.random.default_rng(neighbours)
    real, generated = rng.integers(0, 9, (17, 3)), rng.integers(4, 13, (13, 3))
    result = precision_and_recall(real, generated, neighbours=neighbours, chunk=chunk)
    assert (result.precision, result.recall) == search(real, generated, neighbours)
    assert 0 < min(result.precision, result.recall) < 1
    other_way = precision_and_recall(generated, real, neighbours=neighbours, chunk=chunk)
    assert (other_way.precision, other_way.recall) == (result.recall, result.precision)


def test_a_generator_of_one_image_is_precise_and_recalls_nothing_else():
    real = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    result = precision_and_recall(real, np.tile(real[7], (20, 1)))
    assert (result.precision, result.recall) == (1.0, 1 / 50)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_copies_are_on_the_manifold(offset):
    """Of a set in which each image comes five times, so that its balls are points: in another order, far away too."""
    rng = np.random.default_rng(1)
    real = np.repeat(rng.normal(size=(30, 40)), 5, axis=0) + offset
    result = precision_and_recall(real, rng.permutation(real), chunk=7)
    assert (result.precision, result.recall) == (1.0, 1.0)
    moved = real + 0.01 * rng.normal(size=real.shape)
    assert precision_and_recall(real, moved).precision == 0.0


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (3, {}, r"shape \(3, 2\), expected \[N, F\] with at least 4"),
        (8, {"neighbours": 0}, "neighbours is 0 and chunk 1000, expected at least 1"),
        (8, {"chunk": 0}, "chunk 0, expected at least 1"),
    ],
)
def test_what_cannot_be_is_refused(count, options, message):
    with pytest.raises(ValueError, match=message):
        precision_and_recall(np.zeros((count, 2)), np.zeros((8, 2)), **options)
