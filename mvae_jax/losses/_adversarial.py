"""Games between a generator and a discriminator, and gradient penalties on the latter.

Logits are [B, ...], one per example or per patch, positive for "real"; results are [B], summed over patches. Every
loss is minimised. A discriminator's loss comes in two parts, so that callers can weight or watch each side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from mvae_jax import gaussian
from mvae_jax.losses._events import assert_events, norm_events, sum_events
from mvae_jax.numerics import in_float32

Critic = Callable[[jax.Array], jax.Array]


class DiscriminatorLoss(NamedTuple):
    """The two sides of a discriminator's loss, to be averaged and added.

    Attributes:
        real: one loss per real example, [B].
        fake: one loss per generated example, [B'].
    """

    real: jax.Array
    fake: jax.Array


@in_float32
def logistic_discriminator(
    real_logits: jax.Array, fake_logits: jax.Array, *, epsilon: float = 0.0
) -> DiscriminatorLoss:
    """Cross-entropy of the discriminator: softplus(-real), softplus(fake).

    With D = sigmoid(logit) the sides are -log D(real) and -log(1 - D(fake)).

    Args:
        real_logits: of real examples, [B, ...].
        fake_logits: of generated examples, [B', ...].
        epsilon: added to both probabilities inside the logarithms, as old code does. It bounds a side by
            -log(epsilon), where its gradient vanishes: an example that is judged wrong beyond doubt is given up.

    Returns:
        Real [B] and fake [B'] side, in nats.

    Reference:
        Goodfellow et al., 2014, arXiv:1406.2661, equation 1.
    """
    _assert_sides(real_logits, fake_logits)
    return DiscriminatorLoss(
        -sum_events(_log_probability(real_logits, epsilon)), -sum_events(_log_probability(-fake_logits, epsilon))
    )


@in_float32
def non_saturating_generator(fake_logits: jax.Array) -> jax.Array:
    """Generator's loss against `logistic_discriminator`: softplus(-fake) = -log D(fake).

    Its gradient stays large while the discriminator wins.

    Args:
        fake_logits: of generated examples, [B, ...].

    Returns:
        One loss per example, [B], in nats.

    Reference:
        Goodfellow et al., 2014, arXiv:1406.2661, section 3.
    """
    assert_events(fake_logits, least_rank=1)
    return sum_events(jax.nn.softplus(-fake_logits))


@in_float32
def saturating_generator(fake_logits: jax.Array, *, epsilon: float = 0.0) -> jax.Array:
    """Generator's side of the minimax game: -softplus(fake) = log(1 - D(fake)).

    Minus the fake side of `logistic_discriminator`; its gradient vanishes while the discriminator wins.

    Args:
        fake_logits: of generated examples, [B, ...].
        epsilon: as for `logistic_discriminator`.

    Returns:
        One loss per example, [B], in nats, at most log(1 + epsilon) per logit.

    Reference:
        Goodfellow et al., 2014, arXiv:1406.2661, equation 1.
    """
    assert_events(fake_logits, least_rank=1)
    return sum_events(_log_probability(-fake_logits, epsilon))


@in_float32
def hinge_discriminator(real_logits: jax.Array, fake_logits: jax.Array) -> DiscriminatorLoss:
    """Hinge loss: max(0, 1 - real), max(0, 1 + fake). Its generator minimises `wasserstein_generator`.

    Args:
        real_logits: of real examples, [B, ...].
        fake_logits: of generated examples, [B', ...].

    Returns:
        Real [B] and fake [B'] side, in units of the logits.

    Reference:
        Lim and Ye, 2017, arXiv:1705.02894; Miyato et al., 2018, arXiv:1802.05957, equations 16 and 17.
    """
    _assert_sides(real_logits, fake_logits)
    return DiscriminatorLoss(sum_events(jax.nn.relu(1.0 - real_logits)), sum_events(jax.nn.relu(1.0 + fake_logits)))


@in_float32
def wasserstein_discriminator(real_logits: jax.Array, fake_logits: jax.Array) -> DiscriminatorLoss:
    """Loss of the critic: -real, fake. Minus their sum estimates the distance if the critic is 1-Lipschitz.

    Args:
        real_logits: critic at real examples, [B, ...].
        fake_logits: critic at generated examples, [B', ...].

    Returns:
        Real [B] and fake [B'] side, in units of the logits.

    Reference:
        Arjovsky et al., 2017, arXiv:1701.07875, equation 2.
    """
    _assert_sides(real_logits, fake_logits)
    return DiscriminatorLoss(-sum_events(real_logits), sum_events(fake_logits))


@in_float32
def wasserstein_generator(fake_logits: jax.Array) -> jax.Array:
    """Generator's loss against `wasserstein_discriminator` and `hinge_discriminator`: -fake.

    Args:
        fake_logits: critic at generated examples, [B, ...].

    Returns:
        One loss per example, [B], in units of the logits.

    Reference:
        Arjovsky et al., 2017, arXiv:1701.07875, theorem 3.
    """
    assert_events(fake_logits, least_rank=1)
    return -sum_events(fake_logits)


@in_float32
def least_squares_discriminator(real_logits: jax.Array, fake_logits: jax.Array) -> DiscriminatorLoss:
    """Squared distance to the labels 1 and 0: (real - 1)^2, fake^2, without the paper's factor 1/2.

    Args:
        real_logits: discriminator at real examples, no sigmoid applied, [B, ...].
        fake_logits: discriminator at generated examples, [B', ...].

    Returns:
        Real [B] and fake [B'] side, in squared units.

    Reference:
        Mao et al., 2017, arXiv:1611.04076, equation 9.
    """
    _assert_sides(real_logits, fake_logits)
    return DiscriminatorLoss(sum_events(jnp.square(real_logits - 1.0)), sum_events(jnp.square(fake_logits)))


@in_float32
def least_squares_generator(fake_logits: jax.Array) -> jax.Array:
    """Squared distance to the label 1: (fake - 1)^2, without the paper's factor 1/2.

    Args:
        fake_logits: discriminator at generated examples, no sigmoid applied, [B, ...].

    Returns:
        One loss per example, [B], in squared units.

    Reference:
        Mao et al., 2017, arXiv:1611.04076, equation 9.
    """
    assert_events(fake_logits, least_rank=1)
    return sum_events(jnp.square(fake_logits - 1.0))


@in_float32
def r1_penalty(critic: Critic, real: jax.Array) -> jax.Array:
    """Squared norm of the critic's gradient with respect to its input, without the factor gamma / 2.

    The gradient is that of the critic's outputs summed over patches and examples. It is each example's own gradient
    if the critic treats examples alone; batch statistics couple them, and add the effect of an example on the
    outputs of the others. At generated images this is the R2 penalty.

    Args:
        critic: images [B, ...] -> logits [B, ...], with its parameters closed over.
        real: images, [B, ...].

    Returns:
        One penalty per example, [B], in squared logits per squared unit of the images.

    Reference:
        Mescheder et al., 2018, arXiv:1801.04406, equation 9.
    """
    assert_events(real)
    return sum_events(jnp.square(_input_gradient(critic, real)))


@in_float32
def gradient_penalty(
    critic: Critic, real: jax.Array, fake: jax.Array, fraction: jax.Array, *, target: float = 1.0
) -> jax.Array:
    """(gradient norm - target)^2 of the critic at points between real and generated images.

    The points are fraction * real + (1 - fraction) * fake. As in `r1_penalty` the gradient is that of the summed
    outputs, so a critic with batch statistics couples examples. At zero norm the penalty has gradient zero.

    Args:
        critic: images [B, ...] -> logits [B, ...], with its parameters closed over.
        real: images, [B, ...].
        fake: generated images, [B, ...].
        fraction: share of the real image, one per example, [B] in [0, 1], drawn uniformly.
        target: the norm that costs nothing.

    Returns:
        One penalty per example, [B], in squared units of the gradient norm; the paper weights it by 10.

    Reference:
        Gulrajani et al., 2017, arXiv:1704.00028, equation 3.
    """
    assert_events(real, fake)
    chex.assert_type(fraction, float)
    chex.assert_shape(fraction, (real.shape[0],))
    between = gaussian.lerp(fake, real, fraction.reshape(-1, *(1,) * (real.ndim - 1)))
    return jnp.square(norm_events(_input_gradient(critic, between)) - target)


def _log_probability(logits: jax.Array, epsilon: float) -> jax.Array:
    """log(sigmoid(logit) + epsilon), elementwise."""
    if not epsilon:
        return -jax.nn.softplus(-logits)
    return jnp.log(jax.nn.sigmoid(logits) + epsilon)


def _input_gradient(critic: Critic, images: jax.Array) -> jax.Array:
    return jax.grad(lambda x: critic(x).sum())(images)


def _assert_sides(real: jax.Array, fake: jax.Array) -> None:
    assert_events(real, least_rank=1)
    assert_events(fake, least_rank=1)
    chex.assert_equal_rank([real, fake])
    chex.assert_equal_shape([real, fake], dims=range(1, real.ndim))
