"""Learned distances against hand values, and their gradients where a vector vanishes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax import losses

A, B = np.random.default_rng(3).normal(size=(2, 4, 6)).astype(np.float32)


def test_feature_distance_sums_over_maps_and_layers():
    shallow = np.random.default_rng(0).normal(size=(2, 2, 4, 4, 3)).astype(np.float32)
    deep = np.ones((2, 2, 8), np.float32)
    pixels = np.square(shallow[0] - shallow[1]).sum((1, 2, 3))
    np.testing.assert_allclose(losses.feature_distance(shallow[0], shallow[1]), pixels, rtol=1e-6)
    layers = losses.feature_distance([shallow[0], deep[0]], [shallow[1], 3 * deep[1]])
    np.testing.assert_allclose(layers, pixels + 8 * 4.0, rtol=1e-6)


def test_feature_distance_refuses_different_layers():
    with pytest.raises(AssertionError):
        losses.feature_distance([A], [A, B])
    with pytest.raises(AssertionError):
        losses.feature_distance(A, B[:, :3])


def test_cosine_distance_by_hand():
    a = jnp.array([[2.0, 0.0], [1.0, 1.0], [1.0, 0.0], [3.0, 4.0], [1.0, 2.0]])
    b = jnp.array([[5.0, 0.0], [1.0, -1.0], [1.0, 1.0], [4.0, 3.0], [-2.0, -4.0]])
    expected = [0.0, 1.0, 1 - math.sqrt(0.5), 1 - 24 / 25, 2.0]
    np.testing.assert_allclose(losses.cosine_distance(a, b), expected, rtol=1e-5, atol=1e-6)


def test_cosine_distance_sees_directions_only():
    np.testing.assert_allclose(losses.cosine_distance(3 * A, 0.1 * B), losses.cosine_distance(A, B), rtol=1e-5)
    flattened = losses.cosine_distance(A.reshape(4, 3, 2), B.reshape(4, 3, 2))
    np.testing.assert_allclose(flattened, losses.cosine_distance(A, B), rtol=1e-6)


def test_cosine_distance_of_zero_vectors_is_one_with_finite_gradient():
    a, b = A * np.float32([[0], [0], [1], [1]]), B * np.float32([[0], [1], [1], [1]])
    distance, gradients = jax.value_and_grad(lambda a, b: losses.cosine_distance(a, b)[:2].sum(), (0, 1))(a, b)
    assert distance == 2.0
    for gradient in gradients:
        assert jnp.isfinite(gradient).all()
    assert jnp.linalg.norm(gradients[0][1]) <= 1.01 * jnp.linalg.norm(b[1])
