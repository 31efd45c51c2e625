"""The public functions of `losses` and `gaussian` again, by their textbook formulas, to be run in float64.

Elementwise ones are of one element per example, since the others are their sums. What is infinite in the arguments is
1e300 here, so that limits need no case of their own.
"""

from __future__ import annotations

import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax import gaussian, losses, random

KEY = jax.random.key(3)
DATASET_SIZE = 1000
LARGEST = float(np.finfo(np.float32).max)

_MEANS = (0.0, 1e-15, -0.5, 2.0, 1e4, -1e4)
_LOG_SPREADS = (-100.0, -90.0, -60.0, -1.0, 0.0, 3.0, 60.0)
_LOGITS = (0.0, 2.0, -3.0, 90.0, -1e4, 1e4, math.inf, -math.inf)
_SHARES = (0.0, 0.25, 1.0)
# Name of an argument -> values that it may take: a new loss is tried at the extremes by the names that it has.
EXTREMES = {
    **dict.fromkeys(("x", "z", "mean", "mean_p", "mean_q", "loc", "prediction", "target", "a", "b"), _MEANS),
    **dict.fromkeys(("start", "end", "features_a", "features_b", "real", "fake", "means"), _MEANS),
    **dict.fromkeys(("logvar", "logvar_p", "logvar_q", "log_scale", "logvars"), _LOG_SPREADS),
    **dict.fromkeys(("logits", "real_logits", "fake_logits"), _LOGITS),
    **dict.fromkeys(("targets", "fraction"), _SHARES),
    "log_weights": _MEANS,
}


def public_functions(module):
    names = [name for name in vars(module) if not name.startswith("_")]
    return [
        n for n in names if inspect.isfunction(f := getattr(module, n)) and f.__module__.startswith(module.__name__)
    ]


def critic(x):
    return jnp.tanh(x * jnp.arange(1.0, x[0].size + 1.0, dtype=x.dtype).reshape(1, *x.shape[1:])).sum(-1)


def normal(x, mean, logvar):
    return -(jnp.log(2 * jnp.pi) + logvar + (x - mean) ** 2 / jnp.exp(logvar)) / 2


def kl(mean_p, logvar_p, mean_q, logvar_q):
    return (jnp.exp(logvar_p - logvar_q) - 1 - logvar_p + logvar_q + (mean_p - mean_q) ** 2 / jnp.exp(logvar_q)) / 2


def magnitude(x):
    return jnp.sign(x) * x  # with slope 0 at 0


def softplus(x):
    return jnp.logaddexp(x, 0.0)


def cross_entropy(logits, targets):
    return targets * softplus(-logits) + (1 - targets) * softplus(logits)


def cosine(a, b):
    norms = length(a) * length(b)
    return 1 - (a * b).sum(-1) / jnp.where(norms > 0, norms, 1.0)


def slope(x):
    """Gradient of the critic, [B, D]."""
    weights = jnp.arange(1.0, x[0].size + 1.0).reshape(1, *x.shape[1:])
    return weights * (1 - jnp.tanh(weights * x) ** 2)


def length(x):
    squared = (x**2).sum(-1)
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)


def gradient_penalty(real, fake, fraction):
    return (length(slope(fraction[:, None] * real + (1 - fraction[:, None]) * fake)) - 1) ** 2


def kl_terms(z, mean, logvar):
    pairs = normal(z[:, None], mean[None], logvar[None])
    total = math.log(len(z) * DATASET_SIZE)
    joint = jax.nn.logsumexp(pairs.sum(-1), axis=1) - total
    marginals = (jax.nn.logsumexp(pairs, axis=1) - total).sum(-1)
    own, prior = normal(z, mean, logvar).sum(-1), normal(z, 0.0, 0.0).sum(-1)
    return own - joint, joint - marginals, marginals - prior


def wasserstein(mean_p, logvar_p, mean_q, logvar_q):
    apart = jnp.stack([mean_p - mean_q, jnp.exp(logvar_p / 2) - jnp.exp(logvar_q / 2)], -1)
    return length(apart.reshape(*mean_p.shape[:-1], -1))


def product_of_experts(means, logvars):
    precisions = [jnp.ones_like(means[0]), *(jnp.exp(-logvar) for logvar in logvars)]
    total = sum(precisions)
    return sum(p * m for p, m in zip(precisions[1:], means, strict=True)) / total, -jnp.log(total)


def mixture(x, means, logvars):
    parts = [normal(x, mean, logvar).sum(-1) for mean, logvar in zip(means, logvars, strict=True)]
    return jax.nn.logsumexp(jnp.stack(parts), axis=0) - math.log(len(parts))


def weigh(z):
    return jnp.tanh(2 * z)


def doubly_reparameterised(z):
    """The bound, with the published gradient: sum_k w_k^2 d log_weight(z_k)."""
    fixed = jax.lax.stop_gradient
    bound = jax.nn.logsumexp(weigh(z), axis=1) - math.log(z.shape[1])
    surrogate = (fixed(jax.nn.softmax(weigh(z), axis=1)) ** 2 * weigh(z)).sum(1)
    return fixed(bound) + surrogate - fixed(surrogate)


def slerp(start, end, fraction):
    norms = (length(start) * length(end))[..., None]
    cosines = (start * end).sum(-1, keepdims=True) / jnp.where(norms > 0, norms, 1.0)
    on_circle = (norms > 0) & (jnp.abs(cosines) < 1 - 1e-12)
    angle = jnp.arccos(jnp.where(on_circle, cosines, 0.0))
    arc = (jnp.sin((1 - fraction) * angle) * start + jnp.sin(fraction * angle) * end) / jnp.sin(angle)
    return jnp.where(on_circle, arc, (1 - fraction) * start + fraction * end)


def summed(elements):
    return lambda *arrays: elements(*arrays).sum(-1)


def noise(mean):
    keys = random.example_keys(KEY, len(mean))
    return jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], jnp.float32))(keys)


REFERENCES = {
    losses: {
        "absolute_error": summed(lambda a, b: jnp.abs(a - b)),
        "bernoulli_nll": summed(cross_entropy),
        "categorical_nll": lambda logits, targets: -(targets * jax.nn.log_softmax(logits, axis=-1)).sum(-1),
        "cosine_distance": cosine,
        "doubly_reparameterised_bound": doubly_reparameterised,
        "feature_distance": summed(lambda a, b: (a - b) ** 2),
        "gaussian_nll": summed(lambda *arrays: -normal(*arrays)),
        "gradient_penalty": gradient_penalty,
        "hinge_discriminator": lambda a, b: (jnp.maximum(1 - a, 0).sum(-1), jnp.maximum(1 + b, 0).sum(-1)),
        "importance_weighted_bound": lambda w: jax.nn.logsumexp(w, axis=1) - math.log(w.shape[1]),
        "kl_diag_gaussians": summed(kl),
        "kl_standard_normal": summed(lambda mean, logvar: kl(mean, logvar, 0.0, 0.0)),
        "kl_terms": kl_terms,
        "laplace_nll": summed(
            lambda x, loc, log_scale: jnp.log(2) + log_scale + magnitude(x - loc) / jnp.exp(log_scale)
        ),
        "least_squares_discriminator": lambda a, b: (((a - 1) ** 2).sum(-1), (b**2).sum(-1)),
        "least_squares_generator": summed(lambda a: (a - 1) ** 2),
        "logistic_discriminator": lambda a, b: (softplus(-a).sum(-1), softplus(b).sum(-1)),
        "non_saturating_generator": summed(lambda a: softplus(-a)),
        "penalised_bernoulli_nll": summed(lambda *x: jnp.where(cross_entropy(*x) > 0.15, 8, 1) * cross_entropy(*x)),
        "r1_penalty": lambda real: (slope(real) ** 2).sum(-1),
        "saturating_generator": summed(lambda a: -softplus(a)),
        "squared_error": summed(lambda a, b: (a - b) ** 2),
        "total_correlation": lambda *arrays: kl_terms(*arrays)[1],
        "wasserstein_discriminator": lambda a, b: (-a.sum(-1), b.sum(-1)),
        "wasserstein_generator": summed(lambda a: -a),
    },
    gaussian: {
        "kl_divergence": kl,
        "lerp": lambda start, end, fraction: (1 - fraction) * start + fraction * end,
        "log_prob": normal,
        "mixture_log_prob": lambda x, *arrays: mixture(x, arrays[:2], arrays[2:]),
        "product_of_experts": lambda *arrays: product_of_experts(arrays[:2], arrays[2:]),
        "sample": lambda mean, logvar: mean + jnp.exp(logvar / 2) * noise(mean),
        "slerp": slerp,
        "wasserstein_distance": wasserstein,
    },
}
NAMES = [(module, name) for module, references in REFERENCES.items() for name in references]
# What is bound beside the arrays.
BOUND = {
    "doubly_reparameterised_bound": functools.partial(losses.doubly_reparameterised_bound, weigh),
    "gradient_penalty": functools.partial(losses.gradient_penalty, critic),
    "kl_terms": functools.partial(losses.kl_terms, dataset_size=DATASET_SIZE),
    "r1_penalty": functools.partial(losses.r1_penalty, critic),
    "sample": functools.partial(gaussian.sample, KEY),
    "total_correlation": functools.partial(losses.total_correlation, dataset_size=DATASET_SIZE),
    "mixture_log_prob": lambda x, *arrays: gaussian.mixture_log_prob(x, arrays[:2], arrays[2:]),
    "product_of_experts": lambda *arrays: gaussian.product_of_experts(arrays[:2], arrays[2:]),
}


def function(module, name):
    return BOUND.get(name, getattr(module, name))


def extremes(module, name, examples=300, seed=0):
    """Arguments at their extremes, float32 [examples, 1] (vectors where a direction counts, pairs of experts)."""
    rng, size = np.random.default_rng(seed), 3 if name in ("cosine_distance", "slerp", "kl_terms") else 1
    arguments = []
    for parameter in array_names(module, name):
        shape = (examples,) if (name, parameter) == ("gradient_penalty", "fraction") else (examples, size)
        if name == "slerp" and parameter == "fraction":
            shape = (examples, 1)
        drawn = [rng.choice(EXTREMES[parameter], shape).astype(np.float32) for _ in range(experts(parameter))]
        arguments += drawn
    if name in ("kl_terms", "total_correlation", "mixture_log_prob"):  # a sample is one of its posterior
        z, mean, logvar = arguments[0], arguments[len(arguments) // 2], arguments[-1]
        arguments[0] = np.float32(mean + np.exp(0.5 * np.float64(logvar)) * rng.normal(size=z.shape))
    return arguments


def experts(parameter):
    """How many arrays an argument is: a sequence of experts has two."""
    return 2 if parameter in ("means", "logvars") else 1


def array_names(module, name):
    """Names of the arguments that are arrays."""
    parameters = inspect.signature(getattr(module, name)).parameters.values()
    options = {"key", "axis_name", "critic", "log_weight"}
    return [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY and p.name not in options]


def moderate(module, name, examples=4, seed=0):
    """Arguments of unit size, float32 [examples, 3]."""
    rng, arguments = np.random.default_rng(seed), []
    for parameter in array_names(module, name):
        shape = (examples,) if (name, parameter) == ("gradient_penalty", "fraction") else (examples, 3)
        if name == "slerp" and parameter == "fraction":
            shape = (examples, 1)
        for _ in range(experts(parameter)):
            drawn = rng.normal(size=shape)
            arguments.append(np.float32(np.tanh(np.abs(drawn)) if EXTREMES[parameter] is _SHARES else drawn))
    return arguments


def differentiated(of, arrays):
    """Values, and the gradients of their sum with respect to each array."""

    def total(*arrays):
        values = jax.tree.leaves(of(*arrays))
        return sum(value.sum() for value in values), values

    gradients, values = jax.jit(jax.grad(total, range(len(arrays)), has_aux=True))(*arrays)
    return [np.asarray(value) for value in values], [np.asarray(gradient) for gradient in gradients]


def reference(module, name, arrays):
    """Values and gradients by the textbook, in float64."""
    with jax.enable_x64(True):
        arrays = [np.clip(np.float64(array), -1e300, 1e300) for array in arrays]
        return differentiated(REFERENCES[module][name], arrays)
