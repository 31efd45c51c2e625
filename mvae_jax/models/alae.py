"""Adversarial latent autoencoder (Pidhorskyi et al., 2020), with MLPs.

A generator G(F(z)) plays against a discriminator D(E(x)); what F draws and E recovers are the same latents w, whose
distribution is learned. Each step has three rounds on the same images with fresh z: E and D tell real images from
generated ones, F and G make that hard, and E and G make E(G(w)) give back w (algorithm 1). The generated image is never
compared with a real one.

Groups: "mapping" (F), "generator" (G), "encoder" (E), "discriminator" (D).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from mvae_jax import gaussian, images, nets
from mvae_jax.models import _alae
from mvae_jax.models._alae import SLOWED, Players
from mvae_jax.models._checks import check_at_least, check_choice, check_positive, check_widths
from mvae_jax.nets.alae import DenseEncoder, DenseGenerator, LatentDiscriminator, Mapping
from mvae_jax.objective import Batch, Model, ModelState, Params, Phase, Round
from mvae_jax.optimizers import equalised_adam

GROUPS = {"mapping": SLOWED, "generator": 1.0, "encoder": 1.0, "discriminator": SLOWED}  # factors of the rate


@dataclasses.dataclass(frozen=True)
class Config:
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
        check_choice(self, "compute_dtype", ("float32", "bfloat16"))
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

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return (self.image_size, self.image_size, self.channels)


def phases(config: Config, steps_per_epoch: int) -> tuple[Phase, ...]:
    """The one phase, "training"."""
    half_life = config.ema_half_life
    return (
        Phase(
            name="training",
            steps=config.epochs * steps_per_epoch,
            batch_size=config.batch_size,
            image_size=config.image_size,
            learning_rates=dict.fromkeys(GROUPS, config.learning_rate),
            ema_decay=0.5 ** (config.batch_size / half_life) if half_life else None,
        ),
    )


def build(config: Config) -> Model:
    """Builds the model's pure functions.

    Returns:
        A `Model` that trains on batches {"image": uint8 [B, H, W, C]}. `encode` returns w and a log variance of minus
        infinity; `decode` takes w, and is not bounded to [-1, 1]; `sample` has the keyword truncation: 1 for none, 0
        for the image of the mean latent. Further functions: map(params, model_state, z) -> w; features(params,
        model_state, images) -> the encoder's last hidden layer, [B, F]; discriminate(params, model_state, images) ->
        logits [B].
    """
    size, dtype = config.latent_size, config.compute_dtype
    mapping = Mapping(size, config.mapping_layers, dtype)
    generator = DenseGenerator(config.image_shape, config.widths, config.generator_slopes, dtype)
    encoder = DenseEncoder(size, config.widths, config.encoder_slopes, dtype)
    discriminator = LatentDiscriminator(size, config.discriminator_layers, config.discriminator_activation, dtype=dtype)

    def init(key: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
        images.check_batch(batch, image=config.image_shape)
        x, z = images.to_unit_interval(batch["image"]), jnp.zeros((len(batch["image"]), size))
        inputs = {"mapping": (mapping, z), "generator": (generator, z), "encoder": (encoder, x)}
        inputs["discriminator"] = (discriminator, z)
        keys = jax.random.split(key, len(inputs))
        drawn = {
            name: nets.init(net, key, value)[0] for (name, (net, value)), key in zip(inputs.items(), keys, strict=True)
        }
        state: dict[str, Any] = {name: {} for name in drawn} | {"mapping": {"mean_latent": jnp.zeros(size)}}
        return drawn, state

    def run(net: nn.Module, params: Params, x: jax.Array) -> jax.Array:
        return nets.apply(net, params, {}, x, train=False)[0]

    def to_latent(params: Params, z: jax.Array) -> jax.Array:
        return run(mapping, params["mapping"], z)

    def generate(params: Params, w: jax.Array) -> jax.Array:
        return run(generator, params["generator"], w)

    def to_code(params: Params, x: jax.Array) -> jax.Array:
        return run(encoder, params["encoder"], x)

    def judge(params: Params, x: jax.Array) -> jax.Array:
        return run(discriminator, params["discriminator"], to_code(params, x))

    players = Players(
        real=lambda batch, key, step: images.to_unit_interval(batch["image"]),
        to_latent=to_latent,
        draws=lambda key, count, mix: (),
        generate=lambda params, w, draws, step: generate(params, w),
        to_code=lambda params, x, step: to_code(params, x),
        to_logit=lambda params, w: run(discriminator, params["discriminator"], w),
        groups={group: (group,) for group in GROUPS},
        latent_size=size,
    )

    def rounds(phase: Phase, axis_name: str | None = None) -> tuple[Round, ...]:
        return _alae.rounds(
            players,
            r1_weight=config.r1_weight,
            mean_latent_decay=config.mean_latent_decay,
            move_mapping=config.move_mapping_by_reciprocity,
            axis_name=axis_name,
        )

    def optimizers(phase: Phase) -> dict[str, optax.GradientTransformation]:
        return {group: equalised_adam(multiplier=multiplier) for group, multiplier in GROUPS.items()}

    def encode(params: Params, state: ModelState, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        w = to_code(params, images.to_unit_interval(x))
        return w, jnp.full_like(w, -jnp.inf)

    def decode(params: Params, state: ModelState, w: jax.Array) -> jax.Array:
        return images.from_unit_interval(generate(params, w))

    def sample(
        params: Params, state: ModelState, key: jax.Array, count: int, truncation: float | jax.Array = 1.0
    ) -> jax.Array:
        w = to_latent(params, gaussian.standard_normal(key, (count, size)))
        return decode(params, state, gaussian.lerp(state["mapping"]["mean_latent"][None], w, truncation))

    def evaluate(phase: Phase) -> Callable[..., dict[str, jax.Array]]:
        def terms(params: Params, state: ModelState, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
            x = images.to_unit_interval(batch["image"])
            return _alae.errors(x, lambda x: to_code(params, x), lambda w: generate(params, w))

        return terms

    return Model(
        init=init,
        rounds=rounds,
        optimizers=optimizers,
        evaluate=evaluate,
        encode=encode,
        decode=decode,
        sample=sample,
        functions={
            "map": lambda params, state, z: to_latent(params, z),
            "features": lambda params, state, x: nets.features(
                encoder, params["encoder"], {}, images.to_unit_interval(x)
            ),
            "discriminate": lambda params, state, x: judge(params, images.to_unit_interval(x)),
        },
    )
