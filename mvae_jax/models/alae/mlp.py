"""Adversarial latent autoencoder (Pidhorskyi et al., 2020), with MLPs.

A generator G(F(z)) is trained against a discriminator D(E(x)); what F makes of z and E recovers are the same latents w,
whose distribution is learned. Each step has three rounds on the same images with fresh z: E and D tell real images from
generated ones, F and G make that hard, and E and G make E(G(w)) give back w (algorithm 1). The generated image is never
compared with a real one.

Groups: "mapping" (F), "generator" (G), "encoder" (E), "discriminator" (D).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from mvae_jax import gaussian, images, nets, random
from mvae_jax.models import common
from mvae_jax.models.alae import rounds as alae_rounds
from mvae_jax.models.alae.rounds import SLOWED, Networks, Settings
from mvae_jax.models.checks import check_at_least, check_choice, check_compute_dtype, check_positive, check_widths
from mvae_jax.nets.alae import DenseEncoder, DenseGenerator, LatentDiscriminator, Mapping
from mvae_jax.objective import Batch, Model, ModelState, Params, Phase, Posterior, Round
from mvae_jax.optimizers import equalised_adam

GROUPS = {"mapping": SLOWED, "generator": 1.0, "encoder": 1.0, "discriminator": SLOWED}  # factors of the rate


@dataclasses.dataclass(frozen=True)
class Config(common.SquareImages):
    """ALAE with MLPs; defaults are the paper's, repaired where paper and released code disagree.

    Attributes:
        image_size: height and width of the images in pixels.
        channels: of the images.
        latent_size: dimensions of z and of w.
        widths: units of the hidden layers of encoder and generator.
        encoder_slopes: negative slopes of the encoder's layers, of which there is one more.
        generator_slopes: negative slopes of the generator's hidden layers.
        mapping_layers: layers of F.
        discriminator_layers: layers of D.
        discriminator_activation: between the layers of D: "none" as published, which makes D affine, or "leaky_relu"
            (AL-03).
        r1_weight: gamma, of which half multiplies the R1 penalty on real images (AL-01).
        move_mapping_by_reciprocity: let the third round move F too, as released (AL-02); the paper moves E and G.
        mean_latent_decay: per step, of the running mean of w that truncation needs. The released code has .995 in each
            round.
        ema_half_life: images after which a parameter has half of its weight in the moving average; 0 keeps none.
        epochs: passes over the training images (AL-08).
        batch_size: examples per step.
        learning_rate: of Adam with equalised learning rates.
        compute_dtype: "float32", or "bfloat16" for the networks' products and activations.
    """

    image_size: int = 28
    channels: int = 1
    latent_size: int = 50
    widths: tuple[int, ...] = (1024, 1024)
    encoder_slopes: tuple[float, ...] = (0.2, 0.2, 0.01)
    generator_slopes: tuple[float, ...] = (0.01, 0.01)
    mapping_layers: int = 6
    discriminator_layers: int = 3
    discriminator_activation: str = "none"
    r1_weight: float = 10.0
    move_mapping_by_reciprocity: bool = False
    mean_latent_decay: float = 0.985
    ema_half_life: float = 10_000.0
    epochs: int = 400
    batch_size: int = 128
    learning_rate: float = 2e-3
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_choice(self, "discriminator_activation", ("none", "leaky_relu"))
        check_compute_dtype(self)
        check_widths(self, "widths")
        names = ("image_size", "channels", "latent_size", "mapping_layers", "discriminator_layers")
        check_at_least(self, 1, *names, "epochs", "batch_size")
        check_at_least(self, 0, "r1_weight", "ema_half_life")
        check_positive(self, "learning_rate")
        if not 0 <= self.mean_latent_decay < 1:
            raise ValueError(f"mean_latent_decay is {self.mean_latent_decay}; expected at least 0 and below 1.")
        for name, more in {"encoder_slopes": 1, "generator_slopes": 0}.items():
            if len(getattr(self, name)) != len(self.widths) + more:
                raise ValueError(
                    f"{name} are {getattr(self, name)}; expected {len(self.widths) + more} of them for "
                    f"{len(self.widths)} widths."
                )

    @classmethod
    def reference(cls) -> Config:
        """As the released code (AL-02)."""
        return cls(move_mapping_by_reciprocity=True)

    def network(self, group: str) -> nn.Module:
        """Network of a group, the same in training and evaluation."""
        size, dtype = self.latent_size, self.compute_dtype
        if group == "mapping":
            return Mapping(size, self.mapping_layers, dtype)
        if group == "generator":
            return DenseGenerator(self.image_shape, self.widths, self.generator_slopes, dtype)
        if group == "encoder":
            return DenseEncoder(size, self.widths, self.encoder_slopes, dtype)
        return LatentDiscriminator(size, self.discriminator_layers, self.discriminator_activation, dtype=dtype)


def phases(config: Config, steps_per_epoch: int) -> tuple[Phase, ...]:
    """The single phase, "training"."""
    half_life = config.ema_half_life
    decay = 0.5 ** (config.batch_size / half_life) if half_life else None
    rates = dict.fromkeys(GROUPS, config.learning_rate)
    return common.training_phase(config, steps_per_epoch, rates, ema_decay=decay)


def optimizers(config: Config, phase: Phase) -> dict[str, optax.GradientTransformation]:
    """Adam with equalised learning rates for every group, at unit rate."""
    return {group: equalised_adam(multiplier=multiplier) for group, multiplier in GROUPS.items()}


def init(config: Config, key: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
    """Draws the parameters of all networks."""
    images.check_batch(batch, image=config.image_shape)
    x, z = images.to_unit_interval(batch["image"]), jnp.zeros((len(batch["image"]), config.latent_size))
    keys = dict(zip(GROUPS, jax.random.split(key, len(GROUPS)), strict=True))
    params = {
        group: nets.init(config.network(group), keys[group], x if group == "encoder" else z)[0] for group in GROUPS
    }
    state: dict[str, Any] = {group: {} for group in params}
    return params, state | {"mapping": {"mean_latent": jnp.zeros(config.latent_size)}}


def networks(config: Config) -> Networks:
    """F, G, E and D for the rounds; images are in [0, 1]."""
    run = functools.partial(_run, config)
    return Networks(
        real=lambda batch, key, step: images.to_unit_interval(batch["image"]),
        to_latent=functools.partial(run, "mapping"),
        draws=lambda key, count, mix: (),
        generate=lambda params, w, draws, step: run("generator", params, w),
        to_code=lambda params, x, step: run("encoder", params, x),
        to_logit=functools.partial(run, "discriminator"),
        groups={group: (group,) for group in GROUPS},
        latent_size=config.latent_size,
    )


def rounds(config: Config, phase: Phase, axis_name: str | None = None) -> tuple[Round, ...]:
    """The three rounds of a step."""
    settings = Settings(
        r1_weight=config.r1_weight,
        mean_latent_decay=config.mean_latent_decay,
        move_mapping=config.move_mapping_by_reciprocity,
        axis_name=axis_name,
    )
    return alae_rounds.rounds(networks(config), settings)


def encode(config: Config, params: Params, state: ModelState, x: jax.Array) -> Posterior:
    """Codes w of images [B, H, W, C] in [-1, 1]: means without a log variance."""
    return Posterior(_run(config, "encoder", params, images.to_unit_interval(x)), None)


def decode(config: Config, params: Params, state: ModelState, w: jax.Array) -> jax.Array:
    """Images [B, H, W, C] of latents w [B, D], around [-1, 1] without a bound."""
    return images.from_unit_interval(_run(config, "generator", params, w))


def sample(
    config: Config,
    params: Params,
    state: ModelState,
    key: jax.Array,
    count: int,
    truncation: float | jax.Array = 1.0,
) -> jax.Array:
    """Images of `count` draws of z from N(0, I); a truncation of 0 gives the image of the mean latent, 1 is none."""
    w = to_latent(config, params, state, random.standard_normal(key, (count, config.latent_size)))
    return decode(config, params, state, gaussian.lerp(state["mapping"]["mean_latent"][None], w, truncation))


def to_latent(config: Config, params: Params, state: ModelState, z: jax.Array) -> jax.Array:
    """F: latents w of z, both [B, D]."""
    return _run(config, "mapping", params, z)


def features(config: Config, params: Params, state: ModelState, x: jax.Array) -> jax.Array:
    """The encoder's last hidden layer, [B, F], of images [B, H, W, C] in [-1, 1]."""
    return nets.features(config.network("encoder"), params["encoder"], {}, images.to_unit_interval(x))


def discriminate(config: Config, params: Params, state: ModelState, x: jax.Array) -> jax.Array:
    """D(E(x)): log odds of being real, [B], of images [B, H, W, C] in [-1, 1]."""
    return _run(config, "discriminator", params, _run(config, "encoder", params, images.to_unit_interval(x)))


def evaluate(
    config: Config, phase: Phase, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """Errors of reconstructions and of their codes; nothing is random."""
    x = images.to_unit_interval(batch["image"])
    w = _run(config, "encoder", params, x)
    output = _run(config, "generator", params, w)
    return alae_rounds.terms(x, output, w, _run(config, "encoder", params, output))


def build(config: Config) -> Model:
    """Builds the model's pure functions.

    Returns:
        A `Model` that trains on batches {"image": uint8 [B, H, W, C]}. `encode` returns w; `decode` takes w, and is not
        bounded to [-1, 1]; `sample` has the keyword truncation. Further functions: map(params, model_state, z) -> w;
        features(params, model_state, images) -> the encoder's last hidden layer, [B, F]; discriminate(params,
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
        functions={"map": to_latent, "features": features, "discriminate": discriminate},
    )


def _run(config: Config, group: str, params: Params, x: jax.Array) -> jax.Array:
    return nets.evaluate(config.network(group), params[group], {}, x)
