"""Training of the multimodal VAEs, and the functions of a trained one: encode any subset, decode every modality.

Groups: "encoders" and "decoders", by modality; "joint_encoder" of the JMVAE, "auxiliary_priors" of the MMVAE+.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mvae_jax import gaussian, random
from mvae_jax.models import common
from mvae_jax.models.common import Training
from mvae_jax.models.multimodal_vaes import networks, objectives
from mvae_jax.models.multimodal_vaes.config import (
    CADAVAEConfig,
    Config,
    DivergenceConfig,
    JMVAEConfig,
    MMVAEConfig,
    MMVAEPlusConfig,
    MoPoEConfig,
    MVAEConfig,
    MVTCAEConfig,
)
from mvae_jax.models.multimodal_vaes.modality import Modality
from mvae_jax.models.multimodal_vaes.networks import PRESENT, Observed, init
from mvae_jax.models.multimodal_vaes.objectives import Experts, Gaussian
from mvae_jax.objective import Batch, Model, ModelState, Params, Partial, Phase, Posterior

# --- training ------------------------------------------------------------------------------------------------------


def phases(config: Config, steps_per_epoch: int) -> tuple[Phase, ...]:
    """The single phase, "training"."""
    warmup = config.warmup_epochs * steps_per_epoch if isinstance(config, DivergenceConfig) else 0
    rates = dict.fromkeys(config.groups, config.learning_rate)
    return common.training_phase(config, steps_per_epoch, rates, options={"warmup_steps": warmup})


def optimizers(config: Config, phase: Phase) -> dict[str, optax.GradientTransformation]:
    """Adam for every group, at unit rate."""
    return dict.fromkeys(phase.learning_rates, optax.adam(1.0))


def terms(
    config: Config,
    axis_name: str | None,
    params: Params,
    batch: Batch,
    key: jax.Array,
    warmth: jax.Array | float = 1.0,
) -> dict[str, jax.Array]:
    """Terms of the model's objective, [B] each, see `objectives`.

    Args:
        config: the model.
        axis_name: mapped axis over which the batch is split.
        params: parameters of all groups.
        batch: the modalities by name, and "present/NAME" where some may be missing.
        key: a key that serves nothing else.
        warmth: factor of the divergences' weights, and of CADA-VAE's gamma and delta, in [0, 1].
    """
    seen = networks.of_batch(config, batch)
    experts = networks.encode(config, params, seen)
    log_likelihoods = functools.partial(networks.log_likelihoods, config, params, seen)
    count, total = seen.present.shape

    def noise(number: int, *shape: int) -> jax.Array:
        return random.standard_normal(jax.random.fold_in(key, number), (count, *shape), axis_name)

    def uniform(*shape: int) -> jax.Array:
        return random.uniform(jax.random.fold_in(key, 1), (count, *shape), axis_name)

    match config:
        case MVAEConfig():
            drawn = _draw_subsets(uniform, total, config.subsets)
            return objectives.mvae(
                experts,
                log_likelihoods,
                noise(0, 1 + total * config.unimodal + config.subsets, config.latent_size),
                drawn,
                weights=config.weights,
                beta=warmth * config.beta,
                unimodal=config.unimodal,
            )
        case MoPoEConfig():
            return objectives.mopoe(
                experts,
                log_likelihoods,
                noise(0, config.latent_size),
                uniform(),
                weights=config.weights,
                beta=warmth * config.beta,
            )
        case MVTCAEConfig():
            return objectives.mvtcae(
                experts,
                log_likelihoods,
                noise(0, config.latent_size),
                weights=config.weights,
                alpha=config.alpha,
                beta=warmth * config.beta,
            )
        case JMVAEConfig():
            return objectives.jmvae(
                networks.encode_jointly(config, params, seen),
                experts,
                log_likelihoods,
                noise(0, config.latent_size),
                weights=config.weights,
                alpha=warmth * config.alpha,
                beta=warmth * config.beta,
            )
        case CADAVAEConfig():
            return objectives.cada_vae(
                experts,
                log_likelihoods,
                noise(0, total, config.latent_size),
                weights=config.weights,
                beta=warmth * config.beta,
                gamma=warmth * config.gamma,
                delta=warmth * config.delta,
            )
        case MMVAEPlusConfig():
            private = {m.name: m.private_size for m in config.modalities if m.private_size}
            return objectives.mmvae_plus(
                experts,
                log_likelihoods,
                noise(0, total, config.samples, config.latent_size),
                {name: noise(2 + n, total, config.samples, size) for n, (name, size) in enumerate(private.items())},
                params["auxiliary_priors"],
                weights=config.weights,
                estimator=config.estimator,
                beta=config.beta,
            )
        case MMVAEConfig():
            return objectives.mmvae(
                experts,
                log_likelihoods,
                noise(0, total, config.samples, config.latent_size),
                weights=config.weights,
                estimator=config.estimator,
            )
    raise TypeError(f"config is a {type(config).__name__}; expected that of one of the models.")


def _draw_subsets(uniform: Callable[..., jax.Array], total: int, count: int) -> jax.Array:
    """Subsets of 2 to M - 1 modalities for each example, none twice: [B, count, M] in {0, 1}."""
    between = [members for members in objectives.subsets(total) if 1 < len(members) < total]
    table = jnp.array([[m in members for m in range(total)] for members in between], jnp.float32).reshape(-1, total)
    order = jnp.argsort(uniform(len(between)), axis=1)[:, :count]
    return table[order]


def training_terms(
    config: Config, training: Training, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> common.Terms:
    """The terms in training, whose divergences may be warming up."""
    warmup = training.phase.options["warmup_steps"]
    warmth = jnp.minimum(1.0, training.step / warmup) if warmup else 1.0
    return _where_there(config, batch, terms(config, training.axis_name, params, batch, key, warmth)), {}


def evaluate(
    config: Config, phase: Phase, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> dict[str, jax.Array | Partial]:
    """The terms, with the divergences at their full weights."""
    return _where_there(config, batch, terms(config, None, params, batch, key))


def _where_there(config: Config, batch: Batch, values: dict[str, jax.Array]) -> dict[str, jax.Array | Partial]:
    """Terms that say which examples have a modality, so that what is missing does not count as an error of 0."""
    masks = {f"reconstruction/{name}": batch[PRESENT + name] for name in config.names if PRESENT + name in batch}
    return values | {name: Partial(values[name], mask != 0) for name, mask in masks.items()}


# --- the trained model ---------------------------------------------------------------------------------------------

Values = Mapping[str, jax.Array]


def encode_subset(
    config: Config, params: Params, state: ModelState, values: Values, present: Values | None = None
) -> Posterior:
    """Posterior q(z | values) given any of the modalities.

    Private dimensions of what is not given have the prior. The shared ones, by model:

    - mvae: the product of the experts that are there and the prior.
    - mvtcae: their product without the prior.
    - mopoe: the product of the set of all that are there, one of those that its objective mixes, with the prior where
      that is every modality (MF-04). `draw_subset` draws from it as well.
    - jmvae: the joint encoder's where all are there, else the product of the encoders of single modalities;
      each of those is a posterior, so that the product has the prior more than once (MF-07).
    - mmvae, mmvae_plus, cada_vae: mean and variance of the mixture; `draw_subset` draws from the mixture itself.

    Args:
        config: the model.
        params: its parameters.
        state: its state, {}.
        values: by name, [B, *shape]; images in [-1, 1]. What is not given is missing. It may hold "present/NAME" too.
        present: by name, [B], 0 where a value is missing, else 1; what neither has is there.

    Returns:
        Mean and log variance, each [B, code_size].

    Raises:
        ValueError: a modality is unknown, or an array has another shape than the config or the other arrays say.
    """
    seen = networks.observe(config, values, present or {})
    experts = networks.encode(config, params, seen)
    mean, logvar = _shared(config, params, seen, experts)
    parts = [(mean, logvar), *_private(config, experts)]
    return Posterior(*(jnp.concatenate(part, axis=1) for part in zip(*parts, strict=True)))


def draw_subset(
    config: Config,
    params: Params,
    state: ModelState,
    key: jax.Array,
    values: Values,
    present: Values | None = None,
) -> jax.Array:
    """One draw from q(z | values) for each example, [B, code_size]; arguments as of `encode_subset`."""
    seen = networks.observe(config, values, present or {})
    experts = networks.encode(config, params, seen)
    if isinstance(config, MMVAEConfig | CADAVAEConfig):
        share = random.uniform(jax.random.fold_in(key, 1), (len(experts.present),))
        shared = objectives.one_of(experts.present != 0, share, experts.means, experts.logvars)
    else:
        shared = _shared(config, params, seen, experts)
    parts = [shared, *_private(config, experts)]
    mean, logvar = (jnp.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    return gaussian.sample(jax.random.fold_in(key, 0), mean, logvar)


def _shared(config: Config, params: Params, seen: Observed, experts: Experts) -> Gaussian:
    """Mean and log variance of the shared dimensions given what is there, each [B, D]."""
    complete = seen.present.all(1)[:, None]

    def where_complete(whole: Gaussian, part: Gaussian) -> Gaussian:
        return tuple(jnp.where(complete, a, b) for a, b in zip(whole, part, strict=True))  # type: ignore[return-value]

    match config:
        case MVAEConfig():
            return experts.product(prior=True)
        case MVTCAEConfig():
            return experts.product(prior=False)
        case MoPoEConfig():
            return where_complete(experts.product(prior=True), experts.product(prior=False))  # MF-04
        case JMVAEConfig():
            single = experts.product(prior=False)  # MF-07
            return where_complete(networks.encode_jointly(config, params, seen), single)
    shares = (experts.present / jnp.maximum(experts.present.sum(1), 1)[:, None])[..., None]
    mean = (shares * experts.means).sum(1)
    variance = (shares * (jnp.exp(experts.logvars) + jnp.square(experts.means - mean[:, None]))).sum(1)
    nothing = ~seen.present.any(1)[:, None]
    return mean, jnp.log(jnp.where(nothing, 1.0, variance))


def _private(config: Config, experts: Experts) -> list[Gaussian]:
    """Mean and log variance of the private dimensions of each modality, N(0, I) where it is missing."""
    result = []
    for number, modality in enumerate(config.modalities):
        if modality.private_size:
            there = experts.present[:, number, None] != 0
            mean, logvar = experts.private[modality.name]
            result.append((jnp.where(there, mean, 0.0), jnp.where(there, logvar, 0.0)))
    return result


def shared_part(config: Config, params: Params, state: ModelState, posterior: Posterior) -> Posterior:
    """What all modalities share of a posterior, each [B, latent_size]."""
    return Posterior(*(part[:, : config.latent_size] for part in posterior if part is not None))


def log_likelihood(
    config: Config, params: Params, state: ModelState, values: Values, z: jax.Array
) -> dict[str, jax.Array]:
    """Log p(x_m | z) of the modalities that are given, by name: [B] each in nats, of codes [B, code_size].

    Where `values` has "present/NAME", it is 0 for examples in which that modality is missing.
    """
    seen = networks.observe(config, values, {})
    if z.shape[0] != seen.present.shape[0]:
        raise ValueError(
            f"z has shape {z.shape}; expected ({seen.present.shape[0]}, {config.code_size}), as of values."
        )
    latents = {m.name: _own(config, m, z)[:, None] for m in config.modalities if m.name in values}
    return {name: value[:, 0] for name, value in networks.log_likelihoods(config, params, seen, latents).items()}


def _own(config: Config, modality: Modality, z: jax.Array) -> jax.Array:
    """What a modality is decoded from, [B, latent_size + private_size], of codes [B, code_size]."""
    if z.ndim != 2 or z.shape[1] != config.code_size:
        raise ValueError(
            f"z has shape {z.shape}; expected (B, {config.code_size}): {config.latent_size} dimensions that the "
            "modalities share, and the private ones of each."
        )
    before = config.modalities[: config.modalities.index(modality)]
    start = config.latent_size + sum(other.private_size for other in before)
    return jnp.concatenate([z[:, : config.latent_size], z[:, start : start + modality.private_size]], axis=1)


def _encode_one(modality: Modality) -> Callable[..., Posterior]:
    def encode_one(config: Config, params: Params, state: ModelState, x: jax.Array) -> Posterior:
        return encode_subset(config, params, state, {modality.name: x})

    what = "images [B, H, W, C] in [-1, 1]" if modality.is_image else "values [B, ...]"
    encode_one.__doc__ = f"Posterior q(z | {modality.name}) of {what}, as of `encode_subset`."
    return encode_one


def _decode_one(modality: Modality) -> Callable[..., jax.Array]:
    def decode_one(config: Config, params: Params, state: ModelState, z: jax.Array) -> jax.Array:
        return modality.mean(networks.decode(config, params, modality, _own(config, modality, z)))

    discrete = modality.likelihood in ("bernoulli", "categorical")
    what = (
        "images [B, H, W, C] in [-1, 1]" if modality.is_image else "logits [B, ...]" if discrete else "means [B, ...]"
    )
    decode_one.__doc__ = f"The {modality.name} of codes [B, code_size]: {what}."
    return decode_one


def sample(config: Config, params: Params, state: ModelState, key: jax.Array, count: int) -> jax.Array:
    """Images of `count` draws from the prior, N(0, I)."""
    z = random.standard_normal(key, (count, config.code_size))
    image = config.modalities[config.names.index("image")]
    return _decode_one(image)(config, params, state, z)


def build(config: Config) -> Model:
    """Builds the model's pure functions.

    Returns:
        A `Model` that trains on batches of the config's modalities by name, images uint8 [B, H, W, C] and others float
        [B, ...], and "present/NAME", float [B] in {0, 1}, where some may be missing: values are not looked at there. If
        a modality is called "image", `encode`, `decode` and `sample` are its own. Further functions, with params and
        model_state first: encode_subset(values, present=None) and encode_NAME(x) -> `Posterior`;
        draw_subset(key, values, present=None) -> codes; decode_NAME(z) -> images in [-1, 1], means or logits;
        log_likelihood(values, z) -> {name: log p(x | z)}; shared(posterior) -> `Posterior` of the dimensions that all
        modalities share. Their `values` may hold "present/NAME" as well.
    """
    functions: dict[str, Callable[..., Any]] = {
        "encode_subset": encode_subset,
        "draw_subset": draw_subset,
        "log_likelihood": log_likelihood,
        "shared": shared_part,
    }
    for modality in config.modalities:
        functions[f"encode_{modality.name}"] = _encode_one(modality)
        functions[f"decode_{modality.name}"] = _decode_one(modality)
    has_image = config.image_size is not None
    return common.bind(
        config,
        init=init,
        rounds=common.one_round("bound", training_terms),
        optimizers=optimizers,
        evaluate=evaluate,
        encode=functions["encode_image"] if has_image else None,
        decode=functions["decode_image"] if has_image else None,
        sample=sample if has_image else None,
        functions=functions,
    )
