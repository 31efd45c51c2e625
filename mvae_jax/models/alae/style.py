"""StyleALAE (Pidhorskyi et al., 2020): ALAE with a style-based generator and encoder that grow from 4 pixels.

The adversarial losses are those of ALAE with MLPs. Each resolution but the first has two phases: in "fade_S" its
blocks are blended in, in "stabilise_S" they work alone; both are counted in images. All parameters exist from the
start. Every resolution has its groups, which no phase before it trains: so a checkpoint's parameters have one shape
from the first step to the last, while optimiser state and moving averages appear when a resolution does.

Groups: "mapping" (F), "discriminator" (D), and "generator_S" and "encoder_S" for each resolution S.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mvae_jax import gaussian, images, nets, random
from mvae_jax.models import common
from mvae_jax.models.alae import rounds as alae_rounds
from mvae_jax.models.alae.rounds import SLOWED, Networks, Settings
from mvae_jax.models.alae.style_config import Config
from mvae_jax.nets import style
from mvae_jax.nets.alae import LatentDiscriminator
from mvae_jax.nets.alae import Mapping as MappingNetwork
from mvae_jax.nets.style import Noise
from mvae_jax.objective import Batch, Model, ModelState, Params, Phase, Posterior, Round
from mvae_jax.optimizers import equalised_adam

_LAYERS_TRUNCATED = 8  # of the generator, from the coarsest; finer ones keep their latents


def phases(config: Config, steps_per_epoch: int) -> tuple[Phase, ...]:
    """For each resolution "fade_S", but for the first, and "stabilise_S".

    Their lengths are counted in images, whatever an epoch is.
    """
    result: list[Phase] = []
    for level, size in enumerate(config.sizes):
        batch_size, rate = config.at(level, "batch_sizes"), config.at(level, "learning_rates")
        parts = batch_size // (config.at(level, "examples_at_once") or batch_size)
        grown = (*config.groups("generator", level + 1), *config.groups("encoder", level + 1))
        last = config.last_images if level == config.levels - 1 else 0
        lengths = {"fade": config.fade_images} if level else {}
        lengths["stabilise"] = last or config.stabilise_images
        for kind, length in lengths.items():
            result.append(
                Phase(
                    name=f"{kind}_{size}",
                    steps=-(-length // batch_size),
                    start=result[-1].end if result else 0,
                    batch_size=batch_size,
                    image_size=size,
                    learning_rates=dict.fromkeys(("mapping", "discriminator", *grown), rate),
                    parts=parts,
                    options={"level": level, "fade": kind == "fade"},
                    ema_decay=0.5 ** (batch_size / config.ema_half_life) if config.ema_half_life else None,
                    reset_optimizers=config.reset_optimizers and kind == "fade",
                )
            )
    return tuple(result)


def optimizers(config: Config, phase: Phase) -> dict[str, optax.GradientTransformation]:
    """Adam with equalised learning rates for every group that the phase trains, at unit rate."""

    def optimizer(group: str) -> optax.GradientTransformation:
        if group.startswith("generator"):
            return equalised_adam(gains=style.GENERATOR_GAINS)
        return equalised_adam(multiplier=SLOWED if group in ("mapping", "discriminator") else 1.0)

    return {group: optimizer(group) for group in phase.learning_rates}


# --- networks ------------------------------------------------------------------------------------------------------


def init(config: Config, key: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
    """Draws the parameters of all resolutions."""
    largest = config.image_size  # a pyramid gives each resolution its images
    size = min(batch["image"].shape[1], largest) if "image" in batch else largest
    config.level_of(size)
    images.check_batch(batch, image=(size, size, config.channels))
    keys, z = jax.random.split(key, 4), jnp.zeros((1, config.latent_size))
    params = {
        "mapping": nets.init(_mapping(config), keys[0], z)[0],
        "discriminator": nets.init(_discriminator(config), keys[1], z)[0],
        **dict(zip(config.groups("generator"), _generator(config).init(keys[2], config.latent_size), strict=True)),
        **dict(zip(config.groups("encoder"), _encoder(config).init(keys[3], config.channels), strict=True)),
    }
    state: dict[str, Any] = {group: {} for group in params}
    return params, state | {"mapping": {"mean_latent": jnp.zeros(config.latent_size)}}


def _mapping(config: Config) -> MappingNetwork:
    return MappingNetwork(config.latent_size, config.mapping_layers, config.compute_dtype)


def _discriminator(config: Config) -> LatentDiscriminator:
    size, dtype = config.latent_size, config.compute_dtype
    return LatentDiscriminator(size, 3, config.discriminator_activation, outputs=2 * size, dtype=dtype)


def _generator(config: Config) -> style.Generator:
    return style.Generator(config.widths, config.channels, config.compute_dtype, config.recomputed_from)


def _encoder(config: Config) -> style.Encoder:
    return style.Encoder(config.widths, config.latent_size, config.compute_dtype, config.recomputed_from)


def _to_latent(config: Config, params: Params, z: jax.Array) -> jax.Array:
    """F: w of z, both [B, D]."""
    return nets.evaluate(_mapping(config), params["mapping"], {}, z)


def _generate(
    config: Config, params: Params, w: jax.Array, noise: Noise = style.NO_NOISE, blend: jax.Array | float = 1.0
) -> jax.Array:
    """G: images of latents for each layer, [B, L, D]."""
    if w.shape[1] % 2 or not 2 <= w.shape[1] <= 2 * config.levels:
        raise ValueError(
            f"w has shape {w.shape}; expected two layers for each resolution, at most {2 * config.levels}."
        )
    groups = config.groups("generator", w.shape[1] // 2)
    return _generator(config)([params[group] for group in groups], w, noise, blend)


def _to_code(config: Config, params: Params, x: jax.Array, blend: jax.Array | float = 1.0) -> jax.Array:
    """E: w, [B, D], of images of any of the model's resolutions."""
    groups = config.groups("encoder", config.level_of(x.shape[1]) + 1)
    return _encoder(config)([params[group] for group in groups], x, blend)


def _to_logit(config: Config, params: Params, w: jax.Array) -> jax.Array:
    """D: logits [B] of w."""
    return nets.evaluate(_discriminator(config), params["discriminator"], {}, w)


# --- training ------------------------------------------------------------------------------------------------------


def blend_of(phase: Phase, step: jax.Array) -> jax.Array | float:
    """Share of the newest resolution, which rises from 0 to 1 along half a cosine over a fade."""
    if not phase.options["fade"]:
        return 1.0
    return 0.5 - 0.5 * jnp.cos(math.pi * jnp.minimum(1.0, step / phase.steps))


def real_images(
    config: Config, phase: Phase, axis_name: str | None, batch: Batch, key: jax.Array, step: jax.Array
) -> jax.Array:
    """The images of a batch at the phase's resolution, mirrored at random, in a fade blended with the one below."""
    x = images.to_float(batch["image"])
    if config.flip:
        turned = random.uniform(jax.random.fold_in(key, 21), (len(x), 1, 1, 1), axis_name) < config.flip
        x = jnp.where(turned, x[:, :, ::-1], x)
    x = shrunk(x, config.sizes[phase.options["level"]])
    if not phase.options["fade"]:
        return x
    return gaussian.lerp(style.upsample(style.downsample(x)), x, blend_of(phase, step))


def generator_draws(
    config: Config, phase: Phase, axis_name: str | None, key: jax.Array, count: int, mix: bool
) -> dict[str, jax.Array]:
    """Random inputs of the generator besides w: noise, and with `mix` another latent and its first layer."""
    keys, layers = jax.random.split(key, 4), 2 * phase.options["level"] + 2
    draws = {"noise": random.example_keys(keys[3], count, axis_name)}
    if mix and config.style_mixing:
        # One number for the batch: the first of the layers that take the other latent.
        first = jax.random.randint(keys[1], (), 1, layers + 1)
        mixed = jax.random.bernoulli(keys[2], config.style_mixing)
        draws["first"] = jnp.full(count, jnp.where(mixed, first, layers))
        draws["z"] = random.standard_normal(keys[0], (count, config.latent_size), axis_name)
    return draws


def generated_images(
    config: Config, phase: Phase, params: Params, w: jax.Array, draws: Mapping[str, jax.Array], step: jax.Array
) -> jax.Array:
    """Images of latents w, [B, D], at the phase's resolution, with noise and mixed styles."""
    size = config.sizes[phase.options["level"]]
    layers = layered(w, size)
    if "first" in draws:
        layers = _mixed(layers, layered(_to_latent(config, params, draws["z"]), size), draws["first"])
    return _generate(config, params, layers, Noise(draws["noise"]), blend_of(phase, step))


def networks(config: Config, phase: Phase, axis_name: str | None = None) -> Networks:
    """F, G, E and D of a phase for the rounds."""
    levels = phase.options["level"] + 1
    return Networks(
        real=functools.partial(real_images, config, phase, axis_name),
        to_latent=functools.partial(_to_latent, config),
        draws=functools.partial(generator_draws, config, phase, axis_name),
        generate=functools.partial(generated_images, config, phase),
        to_code=lambda params, x, step: _to_code(config, params, x, blend_of(phase, step)),
        to_logit=functools.partial(_to_logit, config),
        groups={
            "mapping": ("mapping",),
            "discriminator": ("discriminator",),
            "generator": config.groups("generator", levels),
            "encoder": config.groups("encoder", levels),
        },
        latent_size=config.latent_size,
    )


def rounds(config: Config, phase: Phase, axis_name: str | None = None) -> tuple[Round, ...]:
    """The three rounds of a step, and one more where the penalty is lazy."""
    settings = Settings(
        r1_weight=config.r1_weight,
        mean_latent_decay=config.mean_latent_decay,
        move_mapping=config.move_mapping_by_reciprocity,
        r1_every=config.r1_every,
        parts=phase.parts,
        axis_name=axis_name,
    )
    return alae_rounds.rounds(networks(config, phase, axis_name), settings)


# --- the trained model ---------------------------------------------------------------------------------------------


def encode(config: Config, params: Params, state: ModelState, x: jax.Array) -> Posterior:
    """Codes w of images [B, S, S, C] in [-1, 1] of any of the model's resolutions: means without a log variance."""
    return Posterior(_to_code(config, params, x), None)


def decode(config: Config, params: Params, state: ModelState, w: jax.Array) -> jax.Array:
    """Images around [-1, 1], without noise and without a bound.

    Args:
        config: the model.
        params: its parameters.
        state: its state.
        w: latents [B, D] for images of full size, or one for each layer, [B, L, D], two per resolution, for images as
            large as L says.
    """
    return _generate(config, params, w if w.ndim == 3 else layered(w, config.image_size))


def draw(config: Config, params: Params, state: ModelState, w: jax.Array, keys: jax.Array) -> jax.Array:
    """Images of w [B, L, D] with noise by keys [B], or [1] for the same in all."""
    return _generate(config, params, w, Noise(keys))


def truncate(config: Config, params: Params, state: ModelState, w: jax.Array, psi: jax.Array | float) -> jax.Array:
    """W [B, D] or [B, L, D], of which coarse layers move towards the mean latent: [B, L, D]; a psi of 1 is none."""
    layers = w if w.ndim == 3 else layered(w, config.image_size)
    near = gaussian.lerp(state["mapping"]["mean_latent"][None, None], layers, psi)
    return jnp.where((jnp.arange(layers.shape[1]) < _LAYERS_TRUNCATED)[None, :, None], near, layers)


def to_latent(config: Config, params: Params, state: ModelState, z: jax.Array) -> jax.Array:
    """F: latents w of z, both [B, D]."""
    return _to_latent(config, params, z)


def discriminate(config: Config, params: Params, state: ModelState, x: jax.Array) -> jax.Array:
    """D(E(x)): log odds of being real, [B], of images [B, S, S, C] in [-1, 1]."""
    return _to_logit(config, params, _to_code(config, params, x))


def sample(
    config: Config,
    params: Params,
    state: ModelState,
    key: jax.Array,
    count: int,
    truncation: float | jax.Array = 1.0,
    size: int | None = None,
) -> jax.Array:
    """Images of `count` draws of z from N(0, I), with noise, truncated, of one of the resolutions."""
    keys, size = jax.random.split(key), size or config.image_size
    config.level_of(size)
    w = layered(_to_latent(config, params, random.standard_normal(keys[0], (count, config.latent_size))), size)
    w = truncate(config, params, state, w, truncation)
    return draw(config, params, state, w, random.example_keys(keys[1], count))


def evaluate(
    config: Config, phase: Phase, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """Errors of reconstructions at the phase's resolution and of their codes; nothing is random."""
    size = config.sizes[phase.options["level"]]

    def of_images(x: jax.Array) -> dict[str, jax.Array]:
        w = _to_code(config, params, x)
        output = _generate(config, params, layered(w, size))
        return alae_rounds.terms(x, output, w, _to_code(config, params, output), span=2.0)

    return alae_rounds.in_parts(of_images, phase.parts, shrunk(images.to_float(batch["image"]), size))


def build(config: Config) -> Model:
    """Builds the model's pure functions.

    Returns:
        A `Model` that trains on batches {"image": uint8 [B, S, S, C]} with S the phase's resolution or any larger one
        of the model, of which means of pixels are taken. Images that it encodes may have any of its resolutions.
        `encode` returns w; `decode` takes w, [B, D], or one for each layer, [B, L, D], two per resolution, and gives
        images as large as L says, without a bound. `sample` has the keywords truncation and size. Further functions:
        map(params, model_state, z) -> w; truncate(params, model_state, w, psi) -> [B, L, D]; draw(params, model_state,
        w, keys) -> images of w [B, L, D] with noise by keys [B], or [1] for the same in all; discriminate(params,
        model_state, images) -> logits [B].
    """
    return common.bind(
        config,
        init=init,
        rounds=rounds,
        optimizers=optimizers,
        evaluate=evaluate,
        encode=encode,
        decode=decode,
        sample=sample,
        functions={"map": to_latent, "draw": draw, "truncate": truncate, "discriminate": discriminate},
    )


def layered(w: jax.Array, size: int) -> jax.Array:
    """One latent for all layers of images of so many pixels, [B, D] to [B, L, D]."""
    return jnp.broadcast_to(w[:, None], (w.shape[0], 2 * (size.bit_length() - 2), w.shape[1]))


def mixed_at_random(w: jax.Array, others: jax.Array, keys: jax.Array, probability: float) -> jax.Array:
    """Latents of which, with a probability, those from a random layer on are another's, as in training.

    The released code tosses one coin for a batch. Here each sample has its own: one sample is distributed alike, and
    sets of samples vary less.

    Args:
        w: [B, L, D].
        others: likewise.
        keys: [B], of coins and layers. The first layer that changes is uniform on 1 to L, of which L changes none.
        probability: in [0, 1].

    Returns:
        [B, L, D].
    """
    count = w.shape[1]

    def first_layer(key: jax.Array) -> jax.Array:
        coin, layer = jax.random.split(key)
        return jnp.where(jax.random.bernoulli(coin, probability), jax.random.randint(layer, (), 1, count + 1), count)

    return _mixed(w, others, jax.vmap(first_layer)(keys))


def _mixed(w: jax.Array, others: jax.Array, first: jax.Array) -> jax.Array:
    """Latents w before the layer `first`, [B], and others from there on; [B, L, D]."""
    before = jnp.arange(w.shape[1])[None] < first[:, None]
    return jnp.where(before[..., None], w, others)


def shrunk(x: jax.Array, size: int) -> jax.Array:
    """Images [B, S, S, C] as means of their pixels, [B, size, size, C].

    Raises:
        ValueError: the images are smaller than that.
    """
    b, large, _, c = x.shape
    if large < size:
        raise ValueError(f"images have {large} px; expected at least the {size} px of the resolution that is trained.")
    factor = large // size
    return x.reshape(b, size, factor, size, factor, c).mean((2, 4))
