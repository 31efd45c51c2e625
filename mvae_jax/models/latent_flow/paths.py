"""Mathematics of a rectified flow: straight paths from noise to codes, their velocity, and the flow along it.

At time t in [0, 1] a path is at x_t = (1 - t) noise + t code, noise from N(0, I); its velocity is code - noise. The
expectation of that given x_t is the velocity of a flow that carries N(0, I) at t = 0 to the codes at t = 1.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from mvae_jax import losses

SOLVERS = ("heun", "euler")
Velocity = Callable[[jax.Array, jax.Array], jax.Array]  # (x [B, D], t [B]) -> [B, D]


def point(noise: jax.Array, code: jax.Array, t: jax.Array) -> jax.Array:
    """Points of straight paths.

    Args:
        noise: where they start, [B, D].
        code: where they end, [B, D].
        t: times in [0, 1], [B].

    Returns:
        (1 - t) noise + t code, [B, D].
    """
    return (1 - t[:, None]) * noise + t[:, None] * code


def velocity_error(velocity: jax.Array, noise: jax.Array, code: jax.Array) -> jax.Array:
    """Squared error of velocities of straight paths, |velocity - (code - noise)|^2.

    Its expectation is smallest for E[code - noise | x_t], where it is the trace of the covariance of code - noise given
    x_t: for codes from N(m, C) that is tr(C + I - K S_t K), with S_t = (1 - t)^2 I + t^2 C the covariance of x_t and
    K = (t C - (1 - t) I) S_t^-1. It is not zero.

    Args:
        velocity: predicted at the paths' points, [B, D].
        noise: where the paths start, [B, D].
        code: where they end, [B, D].

    Returns:
        [B], sums over dimensions, in squared units of the codes.

    Reference:
        Liu et al., 2023, arXiv:2209.03003, equation 1; Lipman et al., 2023, arXiv:2210.02747, equation 14.
    """
    return losses.squared_error(velocity, code - noise)


def gaussian_velocity(x: jax.Array, t: jax.Array) -> jax.Array:
    """E[code - noise | x_t] for codes from N(0, I): (2 t - 1) / (t^2 + (1 - t)^2) x_t.

    Args:
        x: points of the paths, [B, D].
        t: times in [0, 1], [B].

    Returns:
        [B, D].
    """
    return ((2 * t - 1) / (t**2 + (1 - t) ** 2))[:, None] * x


def guided(known: jax.Array, unknown: jax.Array, guidance: float | jax.Array) -> jax.Array:
    """Velocity moved away from what it is without a condition: unknown + guidance (known - unknown).

    Args:
        known: velocities given the condition, [B, D].
        unknown: velocities without one, [B, D].
        guidance: 1 follows the condition, 0 ignores it, more exaggerates it at the cost of diversity.

    Reference:
        Ho and Salimans, 2022, arXiv:2207.12598, whose w is guidance - 1.
    """
    return unknown + guidance * (known - unknown)


def transport(velocity: Velocity, x: jax.Array, steps: int | jax.Array, solver: str = "heun") -> jax.Array:
    """Carries points along a flow from t = 0 to t = 1 in equal steps.

    The error falls as 1 / steps^2 with Heun's method, which asks for two velocities in each step, and as 1 / steps
    with Euler's, which asks for one.

    Args:
        velocity: (x [B, D], t [B]) -> [B, D].
        x: points at t = 0, [B, D].
        steps: at least 1; may be traced.
        solver: "heun" or "euler".

    Returns:
        The points at t = 1, [B, D].

    Raises:
        ValueError: there is no such solver.
    """
    chex.assert_rank(x, 2)
    if solver not in SOLVERS:
        raise ValueError(f"solver is {solver!r}; choose one of {', '.join(map(repr, SOLVERS))}.")
    size = 1.0 / jnp.asarray(steps, jnp.float32)

    def step(number: jax.Array, x: jax.Array) -> jax.Array:
        t = jnp.full(x.shape[0], number * size)  # which may be symbolic
        first = velocity(x, t)
        if solver == "euler":
            return x + size * first
        second = velocity(x + size * first, t + size)
        return x + size / 2 * (first + second)

    return jax.lax.fori_loop(0, steps, step, x)
