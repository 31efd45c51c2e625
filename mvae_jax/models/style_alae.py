"""StyleALAE (Pidhorskyi et al., 2020): ALAE with a style-based generator and encoder that grow from 4 pixels.

The game is that of `alae`. Each resolution but the first has two phases: in "fade_S" its blocks are blended in, in
"stabilise_S" they work alone; both are counted in images. All parameters exist from the start, and every resolution has
groups of its own, which no phase before it trains: so a checkpoint's parameters have one shape from the first step to
the last, while optimiser state and moving averages appear when a resolution does.

Groups: "mapping" (F), "discriminator" (D), and "generator_S" and "encoder_S" for each resolution S.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mvae_jax import gaussian, images, nets
from mvae_jax.models import _alae
from mvae_jax.models._alae import SLOWED, Players
from mvae_jax.models._checks import check_at_least, check_choice
from mvae_jax.nets import style
from mvae_jax.nets.alae import LatentDiscriminator
from mvae_jax.nets.alae import Mapping as MappingNetwork
from mvae_jax.nets.style import Noise
from mvae_jax.objective import Batch, Model, ModelState, Params, Phase, Round
from mvae_jax.optimizers import equalised_adam

_LAYERS_TRUNCATED = 8  # of the generator, from the coarsest; finer ones keep their latents


@dataclasses.dataclass(frozen=True)
class Config:
    """StyleALAE; defaults are the paper's for FFHQ, repaired where paper and released code disagree.

    Attributes:
        image_size: largest height and width in pixels: 4 times a power of 2.
        channels: of the images.
        latent_size: dimensions of z and of w.
        first_width: channels at the largest resolution; they double with each halving.
        most_width: up to so many.
        mapping_layers: layers of F.
        discriminator_activation: between the layers of D: "none" as published, which makes D affine, or "leaky_relu"
            (AL-03).
        batch_sizes: examples per step of each resolution from 4 pixels on; the last one holds for all further ones.
        examples_at_once: how many of them, over all devices, are in the networks at a time, likewise; 0 for all. Fewer
            take less memory and one more forward pass, and give the same step: gradients add up.
        recomputed_from: blocks of images of at least so many pixels keep no activations for the backward pass, which
            computes them again; 0 for none. With few examples at once, 0 is often enough.
        learning_rates: of Adam with equalised learning rates, likewise.
        fade_images: images over which a resolution is blended in.
        stabilise_images: images after that, and at 4 pixels.
        last_images: images of the last phase; 0 for `stabilise_images`.
        reset_optimizers: forget the optimisers' state when a resolution begins, as released.
        style_mixing: share of the steps in which layers from a random one on take another latent.
        r1_weight: gamma, of which half multiplies the R1 penalty on real images (AL-01).
        r1_every: steps between penalties, each of which then weighs as many times as much.
        move_mapping_by_reciprocity: let the third round move F too, as released (AL-02).
        mean_latent_decay: per step, of the running mean of w that truncation needs.
        ema_half_life: images after which a parameter has half of its weight in the moving average; 0 keeps none.
        flip: probability of a mirror image.
        compute_dtype: "float32", or "bfloat16" for the networks' products and activations; statistics, losses and
            parameters are float32 with either.
    """

    image_size: int = 1024
    channels: int = 3
    latent_size: int = 512
    first_width: int = 16
    most_width: int = 512
    mapping_layers: int = 8
    discriminator_activation: str = "none"
    batch_sizes: tuple[int, ...] = (512, 256, 128, 64, 32)
    examples_at_once: tuple[int, ...] = (0,)
    recomputed_from: int = 512
    learning_rates: tuple[float, ...] = (0.0015, 0.0015, 0.0015, 0.0015, 0.0015, 0.0015, 0.002, 0.003, 0.003)
    fade_images: int = 500_000
    stabilise_images: int = 500_000
    last_images: int = 1_000_000
    reset_optimizers: bool = True
    style_mixing: float = 0.9
    r1_weight: float = 10.0
    r1_every: int = 1
    move_mapping_by_reciprocity: bool = False
    mean_latent_decay: float = 0.985
    ema_half_life: float = 10_000.0
    flip: float = 0.5
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_choice(self, "discriminator_activation", ("none", "leaky_relu"))
        check_choice(self, "compute_dtype", ("float32", "bfloat16"))
        if self.image_size < 4 or self.image_size != 4 * 2 ** (self.levels - 1):
            raise ValueError(f"image_size is {self.image_size}; expected 4 times a power of 2: 4, 8, 16, ...")
        names = ("channels", "latent_size", "first_width", "most_width", "mapping_layers", "r1_every")
        check_at_least(self, 1, *names, "fade_images", "stabilise_images")
        check_at_least(self, 0, "last_images", "r1_weight", "ema_half_life")
        for name in ("style_mixing", "flip", "mean_latent_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected from 0 to 1.")
        for name in ("batch_sizes", "learning_rates"):
            values = getattr(self, name)
            if not values or not all(value > 0 for value in values):
                raise ValueError(f"{name} are {values}; expected at least one number, and all above 0.")
        if not self.examples_at_once:
            raise ValueError("examples_at_once are (); expected at least one number; 0 for the whole batch.")
        check_at_least(self, 0, "recomputed_from")
        for level, size in enumerate(self.sizes):
            batch_size, at_once = self.at(level, "batch_sizes"), self.at(level, "examples_at_once")
            if at_once < 0 or (at_once and batch_size % at_once):
                raise ValueError(
                    f"examples_at_once is {at_once} at {size} px; expected a divisor of the batch size {batch_size}, "
                    "or 0 for the whole batch."
                )

    @classmethod
    def reference(cls) -> Config:
        """As the released code (AL-02)."""
        return cls(move_mapping_by_reciprocity=True)

    @property
    def levels(self) -> int:
        """How many resolutions there are."""
        return max(1, round(math.log2(max(self.image_size, 4))) - 1)

    def at(self, level: int, name: str) -> Any:
        """The value of a field that has one for each resolution, of which the last holds for all further ones."""
        values = getattr(self, name)
        return values[min(level, len(values) - 1)]

    @property
    def batch_size(self) -> int:
        """The largest batch of all resolutions."""
        return max(self.at(level, "batch_sizes") for level in range(self.levels))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The resolutions in pixels."""
        return tuple(4 * 2**level for level in range(self.levels))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each resolution."""
        return style.widths(self.levels, self.first_width, self.most_width)

    def groups(self, network: str, levels: int | None = None) -> tuple[str, ...]:
        """Parameter groups of "generator" or "encoder" up to a number of resolutions, all by default."""
        return tuple(f"{network}_{size}" for size in self.sizes[:levels])


def phases(config: Config, steps_per_epoch: int) -> tuple[Phase, ...]:
    """For each resolution "fade_S", but for the first, and "stabilise_S".

    Their lengths are counted in images, whatever an epoch is.
    """
    found: list[Phase] = []
    for level, size in enumerate(config.sizes):
        batch_size, rate = config.at(level, "batch_sizes"), config.at(level, "learning_rates")
        parts = batch_size // (config.at(level, "examples_at_once") or batch_size)
        grown = (*config.groups("generator", level + 1), *config.groups("encoder", level + 1))
        last = config.last_images if level == config.levels - 1 else 0
        lengths = {"fade": config.fade_images} if level else {}
        lengths["stabilise"] = last or config.stabilise_images
        for kind, length in lengths.items():
            found.append(
                Phase(
                    name=f"{kind}_{size}",
                    steps=-(-length // batch_size),
                    start=found[-1].end if found else 0,
                    batch_size=batch_size,
                    image_size=size,
                    learning_rates=dict.fromkeys(("mapping", "discriminator", *grown), rate),
                    options={"level": level, "fade": kind == "fade", "parts": parts},
                    ema_decay=0.5 ** (batch_size / config.ema_half_life) if config.ema_half_life else None,
                    reset_optimizers=config.reset_optimizers and kind == "fade",
                )
            )
    return tuple(found)


def blend_of(phase: Phase, step: jax.Array) -> jax.Array | float:
    """How far the newest resolution is blended in, from 0 to 1 along half a cosine over a fade."""
    if not phase.options["fade"]:
        return 1.0
    return 0.5 - 0.5 * jnp.cos(math.pi * jnp.minimum(1.0, step / phase.steps))


def build(config: Config) -> Model:
    """Builds the model's pure functions.

    Returns:
        A `Model` that trains on batches {"image": uint8 [B, S, S, C]} with S the phase's resolution or any larger one
        of the model, of which means of pixels are taken. Images that it encodes may have any of its resolutions.
        `encode` returns w and a log variance of minus infinity; `decode` takes w, [B, D], or one for each layer,
        [B, L, D], two per resolution, and draws images as large as L says, without a bound. `sample` has the keywords
        truncation and size. Further functions: map(params, model_state, z) -> w; truncate(params, model_state, w, psi)
        -> [B, L, D]; draw(params, model_state, w, keys) -> images of w [B, L, D] with noise by keys [B], or [1] for the
        same in all; discriminate(params, model_state, images) -> logits [B].
    """
    latent_size, dtype = config.latent_size, config.compute_dtype
    mapping = MappingNetwork(latent_size, config.mapping_layers, dtype)
    discriminator = LatentDiscriminator(
        latent_size, 3, config.discriminator_activation, outputs=2 * latent_size, dtype=dtype
    )
    generator = style.Generator(config.widths, config.channels, dtype, config.recomputed_from)
    encoder = style.Encoder(config.widths, latent_size, dtype, config.recomputed_from)

    def init(key: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
        size = min(batch["image"].shape[1], config.image_size)  # a pyramid gives each resolution its own images
        level_of(size)
        images.check_batch(batch, image=(size, size, config.channels))
        keys, z = jax.random.split(key, 4), jnp.zeros((1, latent_size))
        params = {
            "mapping": nets.init(mapping, keys[0], z)[0],
            "discriminator": nets.init(discriminator, keys[1], z)[0],
            **dict(zip(config.groups("generator"), generator.init(keys[2], latent_size), strict=True)),
            **dict(zip(config.groups("encoder"), encoder.init(keys[3], config.channels), strict=True)),
        }
        state: dict[str, Any] = {group: {} for group in params}
        return params, state | {"mapping": {"mean_latent": jnp.zeros(latent_size)}}

    def to_latent(params: Params, z: jax.Array) -> jax.Array:
        return nets.apply(mapping, params["mapping"], {}, z, train=False)[0]

    def to_logit(params: Params, w: jax.Array) -> jax.Array:
        return nets.apply(discriminator, params["discriminator"], {}, w, train=False)[0]

    def generate(
        params: Params, w: jax.Array, noise: Noise = style.NO_NOISE, blend: jax.Array | float = 1.0
    ) -> jax.Array:
        """Images of latents for each layer, [B, L, D]."""
        if w.shape[1] % 2 or not 2 <= w.shape[1] <= 2 * config.levels:
            raise ValueError(
                f"w has shape {w.shape}; expected two layers for each resolution, at most {2 * config.levels}."
            )
        own = [params[group] for group in config.groups("generator", w.shape[1] // 2)]
        return generator(own, w, noise, blend)

    def to_code(params: Params, x: jax.Array, blend: jax.Array | float = 1.0) -> jax.Array:
        own = [params[group] for group in config.groups("encoder", level_of(x.shape[1]) + 1)]
        return encoder(own, x, blend)

    def level_of(size: int) -> int:
        if size not in config.sizes:
            raise ValueError(f"images have {size} px; expected one of {', '.join(map(str, config.sizes))}.")
        return config.sizes.index(size)

    def players(phase: Phase, axis_name: str | None) -> Players:
        level, size = phase.options["level"], config.sizes[phase.options["level"]]

        def real(batch: Batch, key: jax.Array, step: jax.Array) -> jax.Array:
            x = images.to_float(batch["image"])
            if config.flip:
                turned = gaussian.uniform(jax.random.fold_in(key, 21), (len(x), 1, 1, 1), axis_name) < config.flip
                x = jnp.where(turned, x[:, :, ::-1], x)
            x = shrunk(x, size)
            if not phase.options["fade"]:
                return x
            return gaussian.lerp(style.upsample(style.downsample(x)), x, blend_of(phase, step))

        def draws(key: jax.Array, count: int, mix: bool) -> dict[str, jax.Array]:
            keys = jax.random.split(key, 4)
            found = {"noise": gaussian.example_keys(keys[3], count, axis_name)}
            if mix and config.style_mixing:
                # One number for the batch: the first of the layers that take the other latent.
                first = jax.random.randint(keys[1], (), 1, 2 * level + 3)
                mixed = jax.random.bernoulli(keys[2], config.style_mixing)
                found["first"] = jnp.full(count, jnp.where(mixed, first, 2 * level + 2))
                found["z"] = gaussian.standard_normal(keys[0], (count, latent_size), axis_name)
            return found

        def generated(params: Params, w: jax.Array, draws: Mapping[str, jax.Array], step: jax.Array) -> jax.Array:
            layers = layered(w, size)
            if "first" in draws:
                own = jnp.arange(layers.shape[1])[None] < draws["first"][:, None]
                layers = jnp.where(own[..., None], layers, layered(to_latent(params, draws["z"]), size))
            return generate(params, layers, Noise(draws["noise"]), blend_of(phase, step))

        return Players(
            real=real,
            to_latent=to_latent,
            draws=draws,
            generate=generated,
            to_code=lambda params, x, step: to_code(params, x, blend_of(phase, step)),
            to_logit=to_logit,
            groups={
                "mapping": ("mapping",),
                "discriminator": ("discriminator",),
                "generator": config.groups("generator", level + 1),
                "encoder": config.groups("encoder", level + 1),
            },
            latent_size=latent_size,
        )

    def rounds(phase: Phase, axis_name: str | None = None) -> tuple[Round, ...]:
        return _alae.rounds(
            players(phase, axis_name),
            r1_weight=config.r1_weight,
            r1_every=config.r1_every,
            parts=phase.options["parts"],
            mean_latent_decay=config.mean_latent_decay,
            move_mapping=config.move_mapping_by_reciprocity,
            axis_name=axis_name,
        )

    def optimizers(phase: Phase) -> dict[str, optax.GradientTransformation]:
        def optimizer(group: str) -> optax.GradientTransformation:
            if group.startswith("generator"):
                return equalised_adam(gains=style.GENERATOR_GAINS)
            return equalised_adam(multiplier=SLOWED if group in ("mapping", "discriminator") else 1.0)

        return {group: optimizer(group) for group in phase.learning_rates}

    def encode(params: Params, state: ModelState, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        w = to_code(params, x)
        return w, jnp.full_like(w, -jnp.inf)

    def decode(params: Params, state: ModelState, w: jax.Array) -> jax.Array:
        return generate(params, w if w.ndim == 3 else layered(w, config.image_size))

    def draw(params: Params, state: ModelState, w: jax.Array, keys: jax.Array) -> jax.Array:
        return generate(params, w, Noise(keys))

    def truncate(params: Params, state: ModelState, w: jax.Array, psi: jax.Array | float) -> jax.Array:
        layers = w if w.ndim == 3 else layered(w, config.image_size)
        near = gaussian.lerp(state["mapping"]["mean_latent"][None, None], layers, psi)
        return jnp.where((jnp.arange(layers.shape[1]) < _LAYERS_TRUNCATED)[None, :, None], near, layers)

    def sample(
        params: Params,
        state: ModelState,
        key: jax.Array,
        count: int,
        truncation: float | jax.Array = 1.0,
        size: int | None = None,
    ) -> jax.Array:
        keys, size = jax.random.split(key), size or config.image_size
        level_of(size)
        w = layered(to_latent(params, gaussian.standard_normal(keys[0], (count, latent_size))), size)
        return draw(params, state, truncate(params, state, w, truncation), gaussian.example_keys(keys[1], count))

    def evaluate(phase: Phase) -> Callable[..., dict[str, jax.Array]]:
        def terms(params: Params, state: ModelState, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
            size = config.sizes[phase.options["level"]]

            def of_images(x: jax.Array) -> dict[str, jax.Array]:
                return _alae.errors(
                    x, lambda x: to_code(params, x), lambda w: generate(params, layered(w, size)), span=2.0
                )

            return _alae.in_parts(of_images, phase.options["parts"], shrunk(images.to_float(batch["image"]), size))

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
            "draw": draw,
            "truncate": truncate,
            "discriminate": lambda params, state, x: to_logit(params, to_code(params, x)),
        },
    )


def layered(w: jax.Array, size: int) -> jax.Array:
    """One latent for all layers of images of so many pixels, [B, D] to [B, L, D]."""
    return jnp.broadcast_to(w[:, None], (len(w), 2 * (size.bit_length() - 2), w.shape[1]))


def shrunk(x: jax.Array, size: int) -> jax.Array:
    """Images [B, S, S, C] as means of their pixels, [B, size, size, C].

    Raises:
        ValueError: they are smaller than that.
    """
    b, large, _, c = x.shape
    if large < size:
        raise ValueError(f"images have {large} px; expected at least the {size} px of the resolution that is trained.")
    factor = large // size
    return x.reshape(b, size, factor, size, factor, c).mean((2, 4))
