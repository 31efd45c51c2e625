"""Bounds of log p(x) from K samples of the posterior of each example. Results are [B], in nats."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import chex
import jax

from mvae_jax.losses._events import assert_events
from mvae_jax.numerics import in_float32


@in_float32
def importance_weighted_bound(log_weights: jax.Array) -> jax.Array:
    """Importance-weighted lower bound of log p(x), log((1 / K) sum_k p(x, z_k) / q(z_k | x)).

    In expectation it never exceeds log p(x), is the ELBO for K = 1, grows with K and tends to log p(x). It equals
    log p(x) for every sample where q is the exact posterior. A model is trained to minimise its negative.

    Args:
        log_weights: log p(x | z_k) + log p(z_k) - log q(z_k | x) of z_k from q(z | x), [B, K].

    Returns:
        One bound per example, [B], in nats.

    Reference:
        Burda et al., 2016, arXiv:1509.00519, equation 8.
    """
    assert_events(log_weights)
    chex.assert_rank(log_weights, 2)
    return jax.nn.logsumexp(log_weights, axis=1) - math.log(log_weights.shape[1])


@in_float32
def doubly_reparameterised_bound(
    log_weight: Callable[[jax.Array], Any], z: jax.Array, *, has_aux: bool = False, posterior_weight: float = 1.0
) -> Any:
    """`importance_weighted_bound` whose gradient by the posterior is the doubly reparameterised one (DReG).

    With w_k the normalised weights and b the weight of log q, the gradient by z_k is
    w_k (1 - b + b w_k) d log_weight / d z_k, for b = 1 w_k^2 d log_weight / d z_k, and by all that `log_weight`
    closes over sum_k w_k d log_weight. In expectation both are those of the bound, if `log_weight` computes
    log q(z_k | x) from the posterior's parameters under `jax.lax.stop_gradient`, so that these act through z alone, and
    if the z_k are samples of that same q. If q is a mixture and the z_k are samples of one of its parts, the gradient
    by the posterior is biased for K > 1. For b = 1 it has less variance, which does not grow with K, and is zero for
    every sample where q is the exact posterior. Its derivative serves reverse mode alone.

    Args:
        log_weight: z [B, K, ...] -> log p(x | z) + log p(z) - log q(z | x), [B, K]; that of a sample may depend on that
            sample alone.
        z: reparameterised samples of the posterior, [B, K, ...].
        has_aux: `log_weight` returns a pair, whose second part is a tree of arrays to be handed on without a gradient.
        posterior_weight: b, if `log_weight` has b log q(z | x) in place of log q(z | x).

    Returns:
        One bound per example, [B], in nats; with `has_aux` a pair, that and the tree.

    Reference:
        Tucker et al., 2019, arXiv:1810.04152 (DReG of the IWAE, b = 1).
    """
    assert_events(z)

    def pair(z: jax.Array) -> tuple[jax.Array, Any]:
        log_weights, aux = log_weight(z) if has_aux else (log_weight(z), None)
        chex.assert_shape(log_weights, z.shape[:2])
        return log_weights, aux

    function, closed_over = jax.closure_convert(pair, z)
    bound, aux = _doubly_reparameterised_bound(function, posterior_weight, z, tuple(closed_over))
    return (bound, jax.lax.stop_gradient(aux)) if has_aux else bound


def _doubly_reparameterised(
    function: Callable[..., tuple[jax.Array, Any]], posterior_weight: float, z: jax.Array, closed_over: tuple[Any, ...]
) -> tuple[jax.Array, Any]:
    log_weights, aux = function(z, *closed_over)
    return importance_weighted_bound(log_weights), aux


def _forward(
    function: Callable[..., tuple[jax.Array, Any]], posterior_weight: float, z: jax.Array, closed_over: tuple[Any, ...]
) -> tuple[tuple[jax.Array, Any], tuple[Any, jax.Array]]:
    log_weights, transpose, aux = jax.vjp(function, z, *closed_over, has_aux=True)
    return (importance_weighted_bound(log_weights), aux), (transpose, jax.nn.softmax(log_weights, axis=1))


def _backward(
    function: Callable[..., tuple[jax.Array, Any]],
    posterior_weight: float,
    kept: tuple[Any, jax.Array],
    gradients: tuple[jax.Array, Any],
) -> tuple[jax.Array, tuple[Any, ...]]:
    transpose, weights = kept
    by_z, *by_others = transpose(gradients[0][:, None] * weights)
    # What reparameterising the score of b log q leaves of d log_weight: E[w d log q] = E[(dw / dz) (dz / dq)].
    factors = 1 - posterior_weight + posterior_weight * weights
    return factors.reshape(*factors.shape, *(1,) * (by_z.ndim - 2)) * by_z, tuple(by_others)


_doubly_reparameterised_bound = jax.custom_vjp(_doubly_reparameterised, nondiff_argnums=(0, 1))
_doubly_reparameterised_bound.defvjp(_forward, _backward)
