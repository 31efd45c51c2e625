"""Errors and likelihoods of observations. Arrays are [B, ...], results [B], summed over the event axes."""

from __future__ import annotations

import math

import chex
import jax
import jax.numpy as jnp

from mvae_jax import gaussian
from mvae_jax.losses._events import assert_events, sum_events
from mvae_jax.numerics import in_float32


@in_float32
def squared_error(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Sum of squared differences.

    Half of it is the negative log-likelihood of a unit-variance Gaussian, up to a constant.

    Args:
        prediction: [B, ...].
        target: [B, ...].

    Returns:
        One error per example, [B], in squared units.
    """
    assert_events(prediction, target)
    return sum_events(jnp.square(prediction - target))


@in_float32
def absolute_error(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Sum of absolute differences.

    Args:
        prediction: [B, ...].
        target: [B, ...].

    Returns:
        One error per example, [B], in the units of the arrays.
    """
    assert_events(prediction, target)
    return sum_events(jnp.abs(prediction - target))


@in_float32
def bernoulli_nll(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Negative log-likelihood of independent Bernoulli variables, the binary cross-entropy.

    Per element -t log p - (1 - t) log(1 - p) with p = sigmoid(logit), which is t softplus(-logit) +
    (1 - t) softplus(logit). A logit that is infinite costs nothing if it is right, with gradient 0, and else infinitely
    much.

    Args:
        logits: log odds, [B, ...].
        targets: [B, ...] in [0, 1].

    Returns:
        One likelihood per example, [B], in nats.
    """
    assert_events(logits, targets)
    return sum_events(_binary_cross_entropy(logits, targets))


@in_float32
def categorical_nll(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Negative log-likelihood of categorical variables, the cross-entropy.

    Per variable -sum_c t_c log p_c with p = softmax(logits) over the last axis. An infinite logit counts as the largest
    number.

    Args:
        logits: unnormalised log probabilities of C classes, [B, ..., C].
        targets: [B, ..., C] in [0, 1]: one 1 for each variable, or probabilities.

    Returns:
        One likelihood per example, [B], in nats, summed over the variables.
    """
    assert_events(logits, targets)
    largest = float(jnp.finfo(jnp.float32).max)
    return -sum_events(targets * jax.nn.log_softmax(jnp.clip(logits, -largest, largest), axis=-1))


@in_float32
def penalised_bernoulli_nll(
    logits: jax.Array, targets: jax.Array, *, threshold: float = 0.15, factor: float = 8.0
) -> jax.Array:
    """Binary cross-entropy in which elements with a large error count `factor` times (MM-03).

    Per element, with its cross-entropy b: factor * b if b > threshold, else b. The loss jumps at the threshold.

    Args:
        logits: log odds, [B, ...].
        targets: [B, ...] in [0, 1].
        threshold: error of one element, in nats, above which it is penalised; 0.15 nats is a probability of 0.86
            for the right answer.
        factor: how often a penalised element counts; 1 gives `bernoulli_nll`.

    Returns:
        One loss per example, [B], in nats times the factor.
    """
    assert_events(logits, targets)
    errors = _binary_cross_entropy(logits, targets)
    return sum_events(jnp.where(errors > threshold, factor * errors, errors))


@in_float32
def gaussian_nll(x: jax.Array, mean: jax.Array, logvar: jax.Array | float) -> jax.Array:
    """Negative log-likelihood of independent Gaussian variables, constants included.

    Per element (log 2 pi + logvar + (x - mean)^2 / exp(logvar)) / 2. A scale of 1 / sqrt(2), that is
    logvar = -log 2, makes it `squared_error` plus a constant.

    Args:
        x: observations, [B, ...].
        mean: [B, ...].
        logvar: log variances: [B, ...], or one for all, [].

    Returns:
        One likelihood per example, [B], in nats.
    """
    _assert_location_family(x, mean, logvar)
    return -sum_events(gaussian.log_prob(x, mean, logvar))


@in_float32
def laplace_nll(x: jax.Array, loc: jax.Array, log_scale: jax.Array | float) -> jax.Array:
    """Negative log-likelihood of independent Laplace variables, constants included.

    Per element log 2 + log_scale + |x - loc| / exp(log_scale). A scale of 1 makes it `absolute_error` plus a
    constant. The gradient in x has the size of 1 / scale, but at x = loc, where it is 0.

    Args:
        x: observations, [B, ...].
        loc: locations (means), [B, ...].
        log_scale: log of the mean absolute deviation: [B, ...], or one for all, [].

    Returns:
        One likelihood per example, [B], in nats.
    """
    _assert_location_family(x, loc, log_scale)
    # In two halves, before and after the absolute value: neither is infinite where the loss and its gradient are not.
    half = jnp.exp(-0.5 * log_scale)
    deviation = (x - loc) * half
    # Its slope is 0 at 0, where that of `jnp.abs` is 1.
    return sum_events(math.log(2.0) + log_scale + jnp.sign(deviation) * deviation * half)


def _binary_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    positive = logits >= 0
    # |t - [logit >= 0]| |logit| + log(1 + exp(-|logit|)), of which no part cancels for a large logit that is right.
    wrong = jnp.where(positive, 1.0, 0.0) - targets
    certain = (wrong == 0) & jnp.isinf(logits)  # 0 * inf, of which the limit is 0
    return wrong * jnp.where(certain, 0.0, logits) + jnp.log1p(jnp.exp(jnp.where(positive, -logits, logits)))


def _assert_location_family(x: jax.Array, location: jax.Array, log_spread: jax.Array | float) -> None:
    assert_events(x, location)
    chex.assert_type(log_spread, float)
    if jnp.shape(log_spread):
        chex.assert_equal_shape([x, log_spread])
