"""Networks of the multimodal VAEs: what is there of a batch, what encoders say of it, and how likely it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax import images, nets
from mvae_jax.models.multimodal_vaes.config import Config, JMVAEConfig, MMVAEPlusConfig
from mvae_jax.models.multimodal_vaes.modality import Modality
from mvae_jax.models.multimodal_vaes.objectives import Experts, Gaussian
from mvae_jax.nets.modalities import JointEncoder
from mvae_jax.objective import Batch, ModelState, Params

PRESENT = "present/"  # and the name of a modality: of its mask


class Observed(NamedTuple):
    """What is there of a batch.

    Attributes:
        values: by name, [B, *shape] as networks and likelihoods see them; zero where missing, whatever the batch has
            there.
        present: [B, M] in {0, 1}, in the order of the modalities.
    """

    values: Mapping[str, jax.Array]
    present: jax.Array


def observe(config: Config, values: Mapping[str, Any], present: Mapping[str, Any]) -> Observed:
    """Takes a batch apart.

    Args:
        config: the model.
        values: by name, [B, *shape]; a modality that is not among them is missing. It may hold "present/NAME" as well.
        present: by name, [B]: 0 where the modality is missing, else 1. What neither has is there.

    Raises:
        ValueError: there is none of the modalities, one that the model does not have, one of another shape or of
            another number of examples than the others, or a mask of a modality that is not given.
    """
    masks = {name.removeprefix(PRESENT): mask for name, mask in values.items() if name.startswith(PRESENT)}
    masks, values = {**masks, **present}, {n: value for n, value in values.items() if not n.startswith(PRESENT)}
    unknown = sorted({*values, *masks} - set(config.names))
    if unknown or not values:
        raise ValueError(
            f"modalities are {', '.join(unknown or ['none'])}; expected some of {', '.join(config.names)}, which the "
            "model has."
        )
    for modality in config.modalities:
        if modality.name in values:
            images.check_batch({modality.name: values[modality.name]}, **{modality.name: modality.shape})
    count = jnp.shape(next(iter(values.values())))[0]
    wrong = [f"{name}: {jnp.shape(value)[0]}" for name, value in values.items() if jnp.shape(value)[0] != count]
    wrong += [f"present of {name}: {jnp.shape(mask)}" for name, mask in masks.items() if jnp.shape(mask) != (count,)]
    if wrong or not masks.keys() <= values.keys():
        what = ", ".join(wrong or sorted(masks.keys() - values.keys()))
        raise ValueError(
            f"of {count} examples of {next(iter(values))} there are {what}; expected as many values of each modality, "
            f"and present of those that are given, ({count},)."
        )
    seen, there = {}, []
    for modality in config.modalities:
        shape = (count, *modality.shape)
        if modality.name not in values:
            seen[modality.name], mask = jnp.zeros(shape), jnp.zeros(count, bool)
        else:
            x = jnp.asarray(values[modality.name])
            mask = jnp.asarray(masks.get(modality.name, jnp.ones(count))) != 0
            # Before anything is computed of it: NaN times a gradient of 0 would be NaN.
            kept = mask.reshape(count, *(1,) * len(modality.shape))
            seen[modality.name] = modality.to_float(jnp.where(kept, x, jnp.zeros((), x.dtype)))
        there.append(mask.astype(jnp.float32))
    return Observed(seen, jnp.stack(there, axis=1))


def of_batch(config: Config, batch: Batch) -> Observed:
    """What is there of a training batch, which holds arrays that are no modality too."""
    masks = {name: batch[PRESENT + name] for name in config.names if PRESENT + name in batch}
    missing = [name for name in config.names if name not in batch]
    if missing:
        raise ValueError(
            f"the data have no {', '.join(missing)}; expected arrays {', '.join(config.names)}, the modalities of the "
            "model, and present/NAME, which is 0 where there are no values."
        )
    return observe(config, {name: batch[name] for name in config.names}, masks)


def check_data(config: Config, arrays: Mapping[str, np.ndarray]) -> None:
    """Refuses examples whose values the modalities' likelihoods are not for, see `Modality.check`.

    Args:
        config: the model.
        arrays: of all examples by name, [N, ...]; what is missing or no modality is passed over.

    Raises:
        ValueError: a modality's values are of another kind.
    """
    for modality in config.modalities:
        if modality.name in arrays:
            values = arrays[modality.name]
            modality.check(values, arrays.get(PRESENT + modality.name, np.ones(len(values))))


def _encoder(config: Config, modality: Modality) -> nn.Module:
    return modality.encoder(config.latent_size + modality.private_size, 2, config.compute_dtype)


def _joint_encoder(config: JMVAEConfig) -> nn.Module:
    encoders = tuple(m.encoder(config.latent_size, 1, config.compute_dtype) for m in config.modalities)
    return JointEncoder(encoders, config.latent_size, config.joint_widths, config.compute_dtype)


def init(config: Config, key: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
    """Draws the parameters of all networks."""
    seen = of_batch(config, batch)
    keys = jax.random.split(key, (2, len(config.modalities)))
    params: dict[str, Any] = {"encoders": {}, "decoders": {}}
    for number, m in enumerate(config.modalities):
        z = jnp.zeros((1, config.latent_size + m.private_size))
        params["encoders"][m.name] = nets.init(_encoder(config, m), keys[0, number], seen.values[m.name])[0]
        params["decoders"][m.name] = nets.init(m.decoder(config.compute_dtype), keys[1, number], z)[0]
    if isinstance(config, JMVAEConfig):
        inputs = [seen.values[name] for name in config.names], seen.present
        params["joint_encoder"] = nets.init(_joint_encoder(config), jax.random.fold_in(key, 1), *inputs)[0]
    if isinstance(config, MMVAEPlusConfig):
        # Log variances; their means are zero.
        params["auxiliary_priors"] = {m.name: jnp.zeros(m.private_size) for m in config.modalities if m.private_size}
    return params, {group: {} for group in params}


def encode(config: Config, params: Params, seen: Observed) -> Experts:
    """What the encoder of each modality says; of one that is missing, what it says of zeros."""
    outputs = {
        m.name: nets.evaluate(_encoder(config, m), params["encoders"][m.name], {}, seen.values[m.name])
        for m in config.modalities
    }
    shared = [tuple(part[:, : config.latent_size] for part in output) for output in outputs.values()]
    private = {name: tuple(part[:, config.latent_size :] for part in output) for name, output in outputs.items()}
    means, logvars = (jnp.stack(parts, axis=1) for parts in zip(*shared, strict=True))
    return Experts(means, logvars, seen.present, private)


def encode_jointly(config: JMVAEConfig, params: Params, seen: Observed) -> Gaussian:
    """Mean and log variance of the joint encoder, each [B, D]."""
    values = [seen.values[name] for name in config.names]
    return nets.evaluate(_joint_encoder(config), params["joint_encoder"], {}, values, seen.present)


def decode(config: Config, params: Params, modality: Modality, z: jax.Array) -> jax.Array:
    """Output of a decoder, [N, *shape], of latents [N, D], its private dimensions last."""
    return nets.evaluate(modality.decoder(config.compute_dtype), params["decoders"][modality.name], {}, z)


def log_likelihoods(
    config: Config, params: Params, seen: Observed, latents: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Log p(x_m | z) of each modality.

    Args:
        config: the model.
        params: its parameters.
        seen: the examples.
        latents: by name, [B, K, D], its private dimensions last.

    Returns:
        By name, [B, K] in nats, without weights; 0 where the modality is missing.
    """
    result = {}
    for number, m in enumerate(config.modalities):
        if m.name in latents:
            count, samples, size = latents[m.name].shape
            output = decode(config, params, m, latents[m.name].reshape(-1, size))
            x = jnp.broadcast_to(seen.values[m.name][:, None], (count, samples, *m.shape)).reshape(-1, *m.shape)
            result[m.name] = m.log_likelihood(output, x).reshape(count, samples) * seen.present[:, number, None]
    return result
