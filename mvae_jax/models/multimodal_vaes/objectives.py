"""Objectives of the multimodal VAEs: pure functions of what encoders say, of noise and of log-likelihoods.

`log_likelihoods` gives log p(x_m | z) of latents by name, [B, K, D], by name, [B, K] in nats, 0 where the modality is
missing. Noise is from N(0, I). `weights` are by name, in the order of the experts. Each objective returns terms [B]:
"loss", which is minimised, "kl" and what else diverges, in nats but for distances, and for each modality
"reconstruction/NAME", -log p(x_m | z) without its weight, of those latents that stand for the whole example. That of a
missing modality is 0, and an example of which nothing is there has zeros. Objectives are means over all examples; what
is reported of a modality is the mean over those that have it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax import gaussian, losses

Gaussian = tuple[jax.Array, jax.Array]  # mean and log variance
LogLikelihoods = Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]]


class Experts(NamedTuple):
    """What the encoder of each modality says of the latents.

    Attributes:
        means: of the shared latents, [B, M, D].
        logvars: their log variances, [B, M, D].
        present: [B, M] in {0, 1}; an expert whose modality is missing is finite and does not count.
        private: mean and log variance of the private latents of each modality by name, [B, P].
    """

    means: jax.Array
    logvars: jax.Array
    present: jax.Array
    private: Mapping[str, Gaussian]

    def product(self, members: tuple[int, ...] | None = None, *, prior: bool) -> Gaussian:
        """Product of the experts that are there, each [B, D].

        Args:
            members: numbers of modalities; None for all.
            prior: whether N(0, I) is one more expert.
        """
        which = range(self.means.shape[1]) if members is None else members
        means, logvars, present = ([array[:, m] for m in which] for array in (self.means, self.logvars, self.present))
        return gaussian.product_of_experts(means, logvars, present=present, prior=prior)

    def mixture_log_prob(self, z: jax.Array) -> jax.Array:
        """Log density of the mixture of the experts that are there at z [B, K, D]: [B, K]; 0 where there is none."""
        members = range(self.means.shape[1])
        values = gaussian.mixture_log_prob(
            z,
            [self.means[:, m, None] for m in members],
            [self.logvars[:, m, None] for m in members],
            present=[self.present[:, m, None] for m in members],
        )
        anything = self.present.any(1)[:, None]
        return jnp.where(anything, values, 0.0)


def subsets(count: int) -> tuple[tuple[int, ...], ...]:
    """All sets of modalities but the empty one, small ones first."""
    return tuple(itertools.chain(*(itertools.combinations(range(count), size) for size in range(1, count + 1))))


def one_of(there: jax.Array, share: jax.Array, means: jax.Array, logvars: jax.Array) -> Gaussian:
    """One of the Gaussians that are there for each example, each as likely.

    Args:
        there: [B, S], bool.
        share: [B] in [0, 1), uniform: which of them.
        means: [B, S, D].
        logvars: their log variances, [B, S, D].

    Returns:
        Mean and log variance, each [B, D]; those of N(0, I) where there is none.
    """
    number = jnp.cumsum(there, axis=1) - 1
    chosen = there & (number == jnp.floor(share * there.sum(1)).astype(number.dtype)[:, None])
    mean, logvar = (jnp.where(chosen[..., None], part, 0.0).sum(1) for part in (means, logvars))
    return mean, logvar


def standard_kl(mean: jax.Array, logvar: jax.Array) -> jax.Array:
    """KL(N(mean, exp(logvar)) || N(0, I)) over the last axis, [..., D] to [...], in nats."""
    return gaussian.kl_divergence(mean, logvar, 0.0, 0.0).sum(-1)


def _drawn(mean: jax.Array, logvar: jax.Array, noise: jax.Array) -> jax.Array:
    return mean + jnp.exp(0.5 * logvar) * noise


def _weighted(weights: Mapping[str, float], values: Mapping[str, jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, (weights[name] * value for name, value in values.items()))


def _reconstructions(values: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return {f"reconstruction/{name}": value for name, value in values.items()}


def mvae(
    experts: Experts,
    log_likelihoods: LogLikelihoods,
    noise: jax.Array,
    drawn: jax.Array,
    *,
    weights: Mapping[str, float],
    beta: jax.Array | float,
    unimodal: bool,
) -> dict[str, jax.Array]:
    """The MVAE's sum of negative bounds: of all modalities, of each alone, and of subsets that were drawn.

    The bound of a set S is sum_m weight_m log p(x_m | z) - beta KL(q(z | x_S) || p(z)) with z from q(z | x_S), the
    product of the experts of S and the prior. Of an incomplete example S is what it has of the set: sets that so become
    the same each count, as the set of all and the modality alone where an example has one modality.

    Args:
        experts: what the encoders say.
        log_likelihoods: see the module.
        noise: [B, 1 + M + R, D] for R subsets; without `unimodal`, [B, 1 + R, D].
        drawn: which modalities each subset has, [B, R, M] in {0, 1}.
        weights: of the modalities by name.
        beta: weight of the divergence.
        unimodal: whether the bounds of single modalities count.

    Reference:
        Wu and Goodman, 2018, arXiv:1802.05335 (the sub-sampled objective).
    """
    count, total = experts.present.shape
    fixed = jnp.concatenate([jnp.ones((1, total)), *([jnp.eye(total)] if unimodal else [])])
    members = jnp.concatenate([jnp.broadcast_to(fixed[None], (count, *fixed.shape)), drawn], axis=1)  # [B, S, M]
    present = members * experts.present[:, None]
    shape = (*members.shape[:2], experts.means.shape[-1])
    means, logvars = (
        [jnp.broadcast_to(array[:, m, None], shape) for m in range(total)] for array in (experts.means, experts.logvars)
    )
    product = gaussian.product_of_experts(means, logvars, present=[present[..., m] for m in range(total)])
    z = _drawn(*product, noise)
    first_drawn = members.shape[1] - drawn.shape[1]
    # The sets that a modality may be in: no other is decoded.
    having = {
        name: np.array([0, *([1 + m] if unimodal else []), *range(first_drawn, members.shape[1])])
        for m, name in enumerate(weights)
    }
    errors = {
        name: -value for name, value in log_likelihoods({name: z[:, sets] for name, sets in having.items()}).items()
    }
    counted = {name: (members[:, having[name], m] * errors[name]).sum(1) for m, name in enumerate(weights)}
    kl = standard_kl(*product)  # of nothing it is that of the prior, 0
    return {
        "loss": _weighted(weights, counted) + beta * kl.sum(1),
        "kl": kl[:, 0],
        **_reconstructions({name: error[:, 0] for name, error in errors.items()}),
    }


def mopoe(
    experts: Experts,
    log_likelihoods: LogLikelihoods,
    noise: jax.Array,
    share: jax.Array,
    *,
    weights: Mapping[str, float],
    beta: jax.Array | float,
) -> dict[str, jax.Array]:
    """The MoPoE-VAE's negative bound: -sum_m weight_m log p(x_m | z) + beta mean_S KL(q(z | x_S) || p(z)).

    z is from the mixture, over the sets S of modalities that are all there, of the products of their experts; as in the
    released code the prior is one more expert of the set of all (MF-04). By convexity the mean is no less than the
    divergence of the mixture.

    Args:
        experts: what the encoders say.
        log_likelihoods: see the module.
        noise: [B, D].
        share: [B] in [0, 1), uniform: which of the sets that are there the latent is drawn from.
        weights: of the modalities by name.
        beta: weight of the divergence.

    Reference:
        Sutter et al., 2021, arXiv:2105.02470 (the objective of MoPoE-VAE).
    """
    total = experts.present.shape[1]
    sets = subsets(total)
    products = [experts.product(members, prior=len(members) == total) for members in sets]
    means, logvars = (jnp.stack(parts, axis=1) for parts in zip(*products, strict=True))  # [B, S, D]
    there = jnp.stack([experts.present[:, np.array(members)].all(1) for members in sets], axis=1)  # [B, S]
    mean, logvar = one_of(there, share, means, logvars)
    z = _drawn(mean, logvar, noise)[:, None]
    errors = {name: -value[:, 0] for name, value in log_likelihoods(dict.fromkeys(weights, z)).items()}
    kl = jnp.where(there, standard_kl(means, logvars), 0.0).sum(1) / jnp.maximum(there.sum(1), 1).astype(jnp.float32)
    return {"loss": _weighted(weights, errors) + beta * kl, "kl": kl, **_reconstructions(errors)}


def mvtcae(
    experts: Experts,
    log_likelihoods: LogLikelihoods,
    noise: jax.Array,
    *,
    weights: Mapping[str, float],
    alpha: float,
    beta: jax.Array | float,
) -> dict[str, jax.Array]:
    """The MVTCAE's negative bound of the total correlation.

    With q the product of the n experts that are there, without the prior, and z from it:
    -(n - alpha) / n sum_m weight_m log p(x_m | z) + beta ((1 - alpha) KL(q || p) + alpha / n sum_m KL(q || q_m)).
    The paper has complete examples alone; of an incomplete one this is the bound of those views that it has (MF-03).

    Args:
        experts: what the encoders say.
        log_likelihoods: see the module.
        noise: [B, D].
        weights: of the modalities by name.
        alpha: share of the conditional divergences, "conditional_kl", which is their sum.
        beta: weight of the divergences.

    Reference:
        Hwang et al., 2021, Multi-view representation learning via total correlation objective.
    """
    there = jnp.maximum(experts.present.sum(1), 1)  # MF-03
    mean, logvar = experts.product(prior=False)
    z = _drawn(mean, logvar, noise)[:, None]
    errors = {name: -value[:, 0] for name, value in log_likelihoods(dict.fromkeys(weights, z)).items()}
    kl, conditional = standard_kl(mean, logvar), _kl_to_experts((mean, logvar), experts)
    divergence = (1 - alpha) * kl + alpha / there * conditional
    loss = (there - alpha) / there * _weighted(weights, errors) + beta * divergence
    return {"loss": loss, "kl": kl, "conditional_kl": conditional, **_reconstructions(errors)}


def jmvae(
    joint: Gaussian,
    experts: Experts,
    log_likelihoods: LogLikelihoods,
    noise: jax.Array,
    *,
    weights: Mapping[str, float],
    alpha: jax.Array | float,
    beta: jax.Array | float,
) -> dict[str, jax.Array]:
    """The JMVAE's objective, -sum_m weight_m log p(x_m | z) + beta KL(q || p) + alpha sum_m KL(q || q_m), z from q.

    Args:
        joint: q, what the joint encoder says of what is there, each [B, D].
        experts: what the encoders of single modalities say.
        log_likelihoods: see the module.
        noise: [B, D].
        weights: of the modalities by name.
        alpha: weight of the divergences from single modalities, "conditional_kl", which is their sum.
        beta: weight of the divergence from the prior.

    Reference:
        Suzuki et al., 2016, arXiv:1611.01891 (JMVAE-kl).
    """
    z = _drawn(*joint, noise)[:, None]
    errors = {name: -value[:, 0] for name, value in log_likelihoods(dict.fromkeys(weights, z)).items()}
    kl = jnp.where(experts.present.any(1), standard_kl(*joint), 0.0)
    conditional = _kl_to_experts(joint, experts)
    loss = _weighted(weights, errors) + beta * kl + alpha * conditional
    return {"loss": loss, "kl": kl, "conditional_kl": conditional, **_reconstructions(errors)}


def cada_vae(
    experts: Experts,
    log_likelihoods: LogLikelihoods,
    noise: jax.Array,
    *,
    weights: Mapping[str, float],
    beta: jax.Array | float,
    gamma: jax.Array | float,
    delta: jax.Array | float,
) -> dict[str, jax.Array]:
    """The CADA-VAE's objective: a VAE of each modality, and what draws their latent spaces together.

    With e_mn = -weight_n log p(x_n | z_m), z_m from expert m, over the modalities that are there:
    sum_m (e_mm + beta KL(q_m || p)) + gamma sum_{m != n} e_mn + delta sum_{m < n} W(q_m, q_n), where W is the
    2-Wasserstein distance. "kl" and "wasserstein" are these sums; "reconstruction/NAME" is that of its own latents.

    Args:
        experts: what the encoders say.
        log_likelihoods: see the module.
        noise: [B, M, D] (MF-08).
        weights: of the modalities by name.
        beta: weight of the divergences.
        gamma: weight of the errors from the latents of other modalities.
        delta: weight of the distances, each of which counts once (MF-09).

    Reference:
        Schönfeld et al., 2019, arXiv:1812.01784 (equations 2 to 7).
    """
    there, total = experts.present != 0, experts.present.shape[1]
    z = _drawn(experts.means, experts.logvars, noise)
    errors = {name: jnp.where(there, -value, 0.0) for name, value in log_likelihoods(dict.fromkeys(weights, z)).items()}
    own = {name: error[:, m] for m, (name, error) in enumerate(errors.items())}
    crossed = {name: error.sum(1) - own[name] for name, error in errors.items()}
    kl = jnp.where(there, standard_kl(experts.means, experts.logvars), 0.0).sum(1)
    first, second = np.triu_indices(total, 1)
    apart = gaussian.wasserstein_distance(
        *(part[:, numbers] for numbers in (first, second) for part in (experts.means, experts.logvars))
    )
    distance = jnp.where(there[:, first] & there[:, second], apart, 0.0).sum(1)
    loss = _weighted(weights, own) + beta * kl + gamma * _weighted(weights, crossed) + delta * distance
    return {"loss": loss, "kl": kl, "wasserstein": distance, **_reconstructions(own)}


def _kl_to_experts(joint: Gaussian, experts: Experts) -> jax.Array:
    """Sum over the experts that are there of KL(joint || expert), [B]."""
    mean, logvar = (part[:, None] for part in joint)
    values = gaussian.kl_divergence(
        jnp.broadcast_to(mean, experts.means.shape),
        jnp.broadcast_to(logvar, experts.means.shape),
        experts.means,
        experts.logvars,
    ).sum(-1)
    return jnp.where(experts.present != 0, values, 0.0).sum(1)


def mmvae(
    experts: Experts,
    log_likelihoods: LogLikelihoods,
    noise: jax.Array,
    *,
    weights: Mapping[str, float],
    estimator: str,
) -> dict[str, jax.Array]:
    """The MMVAE's negative bound: the mean over experts m of log (1 / K) sum_k w(z_mk), z_mk from expert m.

    log w(z) = sum_n weight_n log p(x_n | z) + log p(z) - log q(z | x), where q is the mixture of the experts. The other
    terms are means over experts and samples, "kl" that of log q(z | x) - log p(z).

    "dreg" is the paper's estimator. For K = 1, or an example of one modality, it is the gradient on average; else it is
    biased, as z_mk is from one expert and q is the mixture (MF-02). "iwae" never is, and has more variance.

    Args:
        experts: what the encoders say.
        log_likelihoods: see the module.
        noise: [B, M, K, D].
        weights: of the modalities by name.
        estimator: of the gradient by the encoders, "dreg" or "iwae".

    Reference:
        Shi et al., 2019, arXiv:1911.03393 (the looser of its bounds, with the mean over experts outside).
    """
    return mmvae_plus(experts, log_likelihoods, noise, {}, {}, weights=weights, estimator=estimator, beta=1.0)


def mmvae_plus(
    experts: Experts,
    log_likelihoods: LogLikelihoods,
    noise: jax.Array,
    private_noise: Mapping[str, jax.Array],
    auxiliary: Mapping[str, jax.Array],
    *,
    weights: Mapping[str, float],
    estimator: str,
    beta: float,
) -> dict[str, jax.Array]:
    """The MMVAE+'s negative bound: that of the MMVAE with private latents w beside the shared ones u.

    Expert m gives u and its own w_m, from its encoder; the private latents with which it decodes another modality n are
    from the auxiliary prior of n. With z = (u, w_m),
    log w(z) = sum_n weight_n log p(x_n | u, w_n) + beta (log p(z) - log q(u | x) - log q(w_m | x_m)).

    Args:
        experts: what the encoders say.
        log_likelihoods: see the module.
        noise: of the shared latents, [B, M, K, D].
        private_noise: by name of those modalities that have private latents, [B, M, K, P].
        auxiliary: log variances of the auxiliary priors by name, [P].
        weights: of the modalities by name.
        estimator: of the gradient by the encoders, "dreg" or "iwae", see `mmvae`.
        beta: weight of log p(z) - log q(z | x), a number, of which "dreg" takes account (MF-01).

    Reference:
        Palumbo et al., 2023, MMVAE+: enhancing the generative quality of multimodal VAEs.
    """
    count, total, samples, size = noise.shape
    numbers = {name: m for m, name in enumerate(weights)}

    def of_its_expert(name: str, values: jax.Array, others: jax.Array | float) -> jax.Array:
        """Values [B, M, K, ...] of the expert of a modality, and something else of the other experts."""
        own = (jnp.arange(total) == numbers[name]).reshape(1, total, *(1,) * (values.ndim - 2))
        return jnp.where(own, values, others)

    def four(part: jax.Array) -> jax.Array:
        return part[:, None, None]

    def draw_private(name: str) -> jax.Array:
        mean, logvar = map(four, experts.private[name])
        return of_its_expert(name, _drawn(mean, logvar, private_noise[name]), 0.0)

    aside = {name: jnp.exp(0.5 * auxiliary[name])[None, None, None] * part for name, part in private_noise.items()}
    fixed = jax.lax.stop_gradient(experts) if estimator == "dreg" else experts
    u = _drawn(experts.means[:, :, None], experts.logvars[:, :, None], noise)
    z = jnp.concatenate([u, *map(draw_private, private_noise)], axis=-1)

    def log_weight(z: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        z = z.reshape(count, total, samples, -1)
        u, ends = z[..., :size], itertools.accumulate(part.shape[-1] for part in private_noise.values())
        own = {
            name: z[..., size + end - part.shape[-1] : size + end]
            for (name, part), end in zip(private_noise.items(), ends, strict=True)
        }
        flat = u.reshape(count, -1, size)
        divergence = (fixed.mixture_log_prob(flat) - gaussian.log_prob(flat, 0.0, 0.0).sum(-1)).reshape(
            count, total, samples
        )
        latents = {}
        for name in weights:
            w = [of_its_expert(name, own[name], aside[name])] if name in own else []
            latents[name] = jnp.concatenate([u, *w], axis=-1).reshape(count, total * samples, -1)
        for name, part in own.items():
            ratio = gaussian.log_prob(part, *map(four, fixed.private[name])) - gaussian.log_prob(part, 0.0, 0.0)
            divergence += of_its_expert(name, ratio.sum(-1), 0.0)
        errors = {name: -value.reshape(count, total, samples) for name, value in log_likelihoods(latents).items()}
        log_weights = -_weighted(weights, errors) - beta * divergence
        return log_weights.reshape(-1, samples), {"kl": divergence, **_reconstructions(errors)}

    by_expert = z.reshape(count * total, samples, -1)
    if estimator == "dreg":
        # As the papers have it, also where the mixture is not what z is from (MF-02); of any beta (MF-01).
        bounds, terms = losses.doubly_reparameterised_bound(log_weight, by_expert, has_aux=True, posterior_weight=beta)
    else:
        log_weights, terms = log_weight(by_expert)
        bounds = losses.importance_weighted_bound(log_weights)
    there = experts.present != 0

    def mean(values: jax.Array) -> jax.Array:
        """Over the experts that are there, [B, M] to [B]."""
        return jnp.where(there, values, 0.0).sum(1) / jnp.maximum(there.sum(1), 1).astype(jnp.float32)

    return {"loss": -mean(bounds.reshape(count, total)), **{name: mean(x.mean(-1)) for name, x in terms.items()}}
