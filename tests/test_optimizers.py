"""Gradient transformations against optax and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mvae_jax import optimizers

GRADIENTS = {"a": jnp.array([3.0, -4.0]), "b": {"c": jnp.array([[12.0]])}}  # global norm 13


@pytest.mark.parametrize("max_norm", [1.0, 6.5, 12.99])
def test_clipped_gradients_have_the_largest_norm_and_their_direction(max_norm):
    clip = optimizers.clip_by_global_norm(max_norm)
    clipped, _ = clip.update(GRADIENTS, clip.init(GRADIENTS))
    jax.tree.map(lambda c, g: np.testing.assert_allclose(c, g * max_norm / 13, rtol=1e-6), clipped, GRADIENTS)
    theirs, _ = optax.clip_by_global_norm(max_norm).update(GRADIENTS, optax.EmptyState())
    jax.tree.map(lambda c, t: np.testing.assert_allclose(c, t, rtol=1e-6), clipped, theirs)


@pytest.mark.parametrize("max_norm", [13.0, 14.0, 1e9])
def test_small_gradients_keep_every_bit(max_norm):
    clip = optimizers.clip_by_global_norm(max_norm)
    clipped, _ = clip.update(GRADIENTS, clip.init(GRADIENTS))
    jax.tree.map(np.testing.assert_array_equal, clipped, GRADIENTS)
    zeros = jax.tree.map(jnp.zeros_like, GRADIENTS)
    jax.tree.map(np.testing.assert_array_equal, clip.update(zeros, clip.init(zeros))[0], zeros)


def test_dtypes_are_kept():
    clip = optimizers.clip_by_global_norm(1.0)
    gradient = {"a": jnp.full(4, 2.0, jnp.bfloat16)}
    assert clip.update(gradient, clip.init(gradient))[0]["a"].dtype == jnp.bfloat16
