"""Norms that have a gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax import numerics


def test_norms_and_their_gradients():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-12, 0.0]])
    np.testing.assert_allclose(numerics.norm(x, -1), [5.0, 0.0, 1e-12], rtol=1e-6)
    np.testing.assert_allclose(numerics.norm(x, (0, 1), keepdims=True), [[5.0]], rtol=1e-6)
    gradient = jax.grad(lambda x: numerics.norm(x, -1).sum())(x)
    np.testing.assert_allclose(gradient, [[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]], rtol=1e-6)
