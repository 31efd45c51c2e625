"""The table of the losses' tests: every public loss with arrays on which it is tried."""

import functools

import jax.numpy as jnp
import numpy as np

from mvae_jax import losses

BATCH = 4
X, Y, Z = np.random.default_rng(0).normal(size=(3, BATCH, 3, 2)).astype(np.float32)
P = np.abs(np.tanh(Y))  # in [0, 1)


def critic(x):
    return jnp.tanh(x * jnp.arange(1.0, 7.0).reshape(1, 3, 2)).sum(-1)


# name -> array arguments; what is not an array is bound in LOSSES.
ARRAYS = {
    "absolute_error": (X, Y),
    "bernoulli_nll": (X, P),
    "categorical_nll": (X, P),
    "cosine_distance": (X, Y),
    "doubly_reparameterised_bound": (X,),
    "feature_distance": (X, Y),
    "gaussian_nll": (X, Y, Z),
    "gradient_penalty": (X, Y, P[:, 0, 0]),
    "hinge_discriminator": (X, Y),
    "importance_weighted_bound": (X[..., 0],),
    "kl_diag_gaussians": (X, Y, Z, X),
    "kl_standard_normal": (X, Y),
    "kl_terms": (X[..., 0], Y[..., 0], Z[..., 0]),
    "laplace_nll": (X, Y, Z),
    "least_squares_discriminator": (X, Y),
    "least_squares_generator": (X,),
    "logistic_discriminator": (X, Y),
    "non_saturating_generator": (X,),
    "penalised_bernoulli_nll": (X, P),
    "r1_penalty": (X,),
    "saturating_generator": (X,),
    "squared_error": (X, Y),
    "total_correlation": (X[..., 0], Y[..., 0], Z[..., 0]),
    "wasserstein_discriminator": (X, Y),
    "wasserstein_generator": (X,),
}
LOSSES = {
    **{name: getattr(losses, name) for name in ARRAYS},
    "doubly_reparameterised_bound": functools.partial(losses.doubly_reparameterised_bound, critic),
    "gradient_penalty": functools.partial(losses.gradient_penalty, critic),
    "kl_terms": functools.partial(losses.kl_terms, dataset_size=50),
    "r1_penalty": functools.partial(losses.r1_penalty, critic),
    "total_correlation": functools.partial(losses.total_correlation, dataset_size=50),
}
