"""Losses: pure functions from arrays to one number per example, [B].

Sums over event axes (all but the first), in nats or squared units, unweighted: callers take the mean over the batch
and apply weights. Logits, never probabilities. Arrays must be floating point; shapes and types are asserted. Losses are
computed and returned in float32, whatever comes in.

Losses take whole batches and need no `jax.vmap`. Within one, an example is a batch of its own:
`jax.vmap(lambda x, y: squared_error(x[None], y[None])[0])`. An array that cannot be a batch is refused.

Where examples couple, `axis_name` names the mapped axis over which the batch is split; None means that the arrays
are the whole batch. Arrays may be split over any mesh, whose axes may have any type, and a loss is then split as its
batch. Within `shard_map` a loss is that of the device's examples.
"""

from mvae_jax.losses._adversarial import (
    DiscriminatorLoss,
    gradient_penalty,
    hinge_discriminator,
    least_squares_discriminator,
    least_squares_generator,
    logistic_discriminator,
    non_saturating_generator,
    r1_penalty,
    saturating_generator,
    wasserstein_discriminator,
    wasserstein_generator,
)
from mvae_jax.losses._divergence import KLTerms, kl_diag_gaussians, kl_standard_normal, kl_terms, total_correlation
from mvae_jax.losses._importance import doubly_reparameterised_bound, importance_weighted_bound
from mvae_jax.losses._reconstruction import (
    absolute_error,
    bernoulli_nll,
    categorical_nll,
    gaussian_nll,
    laplace_nll,
    penalised_bernoulli_nll,
    squared_error,
)
from mvae_jax.losses._similarity import cosine_distance, feature_distance

__all__ = [
    "DiscriminatorLoss",
    "KLTerms",
    "absolute_error",
    "bernoulli_nll",
    "categorical_nll",
    "cosine_distance",
    "doubly_reparameterised_bound",
    "feature_distance",
    "gaussian_nll",
    "gradient_penalty",
    "hinge_discriminator",
    "importance_weighted_bound",
    "kl_diag_gaussians",
    "kl_standard_normal",
    "kl_terms",
    "laplace_nll",
    "least_squares_discriminator",
    "least_squares_generator",
    "logistic_discriminator",
    "non_saturating_generator",
    "penalised_bernoulli_nll",
    "r1_penalty",
    "saturating_generator",
    "squared_error",
    "total_correlation",
    "wasserstein_discriminator",
    "wasserstein_generator",
]
