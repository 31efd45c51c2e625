"""Distances in spaces that a network has learned. Arrays are [B, ...], results [B]."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from mvae_jax.losses._events import assert_events, norm_events, sum_events
from mvae_jax.losses._reconstruction import squared_error
from mvae_jax.numerics import in_float32


@in_float32
def feature_distance(features_a: chex.ArrayTree, features_b: chex.ArrayTree) -> jax.Array:
    """Sum of squared differences between the features of two images.

    With the hidden layer Dis_l of a discriminator, half of it is the learned reconstruction error of VAE/GAN, up to
    a constant. Papers that average divide by the number of features. Gradients flow into both arguments: stop them
    where a paper does.

    Args:
        features_a: one feature map [B, ...], or any tree of them (several layers).
        features_b: the same structure and shapes.

    Returns:
        One distance per example, [B], in squared units, summed over the maps.

    Reference:
        Larsen et al., 2016, arXiv:1512.09300, equations 7 and 8.
        Johnson et al., 2016, arXiv:1603.08155, equation 2.
    """
    chex.assert_trees_all_equal_structs(features_a, features_b)
    return jax.tree.reduce(jnp.add, jax.tree.map(squared_error, features_a, features_b))


@in_float32
def cosine_distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """1 - cos of the angle between two vectors: 0 for equal directions, 1 if orthogonal, 2 if opposite.

    A zero vector has distance 1 to all, with a finite gradient.

    Args:
        a: [B, ...], each example one vector.
        b: [B, ...].

    Returns:
        One distance per example, [B], in [0, 2] up to rounding.
    """
    assert_events(a, b)
    norms = norm_events(a) * norm_events(b)
    return 1.0 - sum_events(a * b) / jnp.where(norms > 0, norms, 1.0)
