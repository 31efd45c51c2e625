"""What VAE/GAN, the GAN and the VAE with a learned similarity share: networks, training, the game, the errors.

Images are float32 [B, S, S, C] in [-1, 1]. Terms are sums over dimensions and means over the batch, in nats.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from mvae_jax import augmentation, gaussian, images, losses, nets
from mvae_jax.augmentation import Perturbation
from mvae_jax.models._checks import check_at_least, check_choice, check_positive, check_widths
from mvae_jax.nets import larsen
from mvae_jax.objective import Batch, Losses, Model, ModelState, Params, Phase, Round

_RATES = 250  # the learning rate falls in as many equal steps as the published run has periods
# What all released code of the family does.
RELEASED: dict[str, Any] = {
    "batch_reduction": "sum",
    "shuffle": False,
    "augmentation": Perturbation(flip_batches=True),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Decoder, discriminator, their game and their training.

    Attributes:
        image_size: height and width of the images in pixels; a multiple of 2 for each of `decoder_widths`.
        channels: of the images.
        latent_size: dimensions of the latent space.
        decoder_widths: channels of the decoder's transposed convolutions.
        grid_width: channels of the decoder's first grid.
        discriminator_widths: channels of the discriminator's convolutions; all but the first halve the image, and what
            the last one puts out is the space in which images are compared.
        discriminator_hidden: units of the discriminator's dense layer.
        epsilon: added to probabilities inside logarithms.
        real_weight: weight of the real images in the discriminator's error; generated ones have the rest.
        gating: leave a player out of a step in which it is too far ahead or behind (VG-04): the discriminator if an
            error of its two sides is below equilibrium - margin, the decoder if one is above equilibrium + margin, and
            none if both would be left out.
        equilibrium: the error of a side around which both players move, in nats.
        margin: how far an error may be from it.
        augment: change images at random in training.
        augmentation: how.
        shuffle: visit the training images in an order of its own in each epoch, not always in theirs (VG-07).
        epochs: passes over the training images.
        batch_size: examples per step.
        learning_rate: RMSProp's rate at the beginning, r_0.
        final_learning_rate: its rate at the end, r_1.
        rate_power: p; after a fraction e of the steps the rate is r_0 - e^p (r_0 - r_1), in 250 stairs.
        weight_decay: w; the gradient of 2 w times the kernels but the heads' is added to that of the sum of all
            errors of a batch.
        batch_reduction: "mean", or "sum" over the batch in the objectives, as released. What RMSProp adds to its
            roots and the decay are converted, so that both make the same steps.
        compute_dtype: "float32", or "bfloat16" for the networks' products and activations; parameters, statistics
            and losses are float32 with either, so that a run can be loaded with the other.
    """

    image_size: int = 64
    channels: int = 3
    latent_size: int = 128
    decoder_widths: tuple[int, ...] = (256, 128, 32)
    grid_width: int = 256
    discriminator_widths: tuple[int, ...] = (32, 128, 256, 256)
    discriminator_hidden: int = 512
    epsilon: float = 1e-3
    real_weight: float = 0.5
    gating: bool = True
    equilibrium: float = 0.68
    margin: float = 0.35
    augment: bool = True
    augmentation: Perturbation = Perturbation()
    shuffle: bool = True
    epochs: int = 22
    batch_size: int = 64
    learning_rate: float = 0.025 / 64
    final_learning_rate: float = 1e-5 / 64
    rate_power: float = 0.75
    weight_decay: float = 1e-5
    batch_reduction: str = "mean"
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_choice(self, "compute_dtype", ("float32", "bfloat16"))
        check_choice(self, "batch_reduction", ("mean", "sum"))
        check_widths(self, "decoder_widths", "discriminator_widths")
        if len(self.discriminator_widths) < 2:
            raise ValueError(f"discriminator_widths are {self.discriminator_widths}; expected at least two.")
        check_at_least(self, 1, "channels", "latent_size", "grid_width", "discriminator_hidden", "epochs", "batch_size")
        check_at_least(self, 0, "epsilon", "margin", "final_learning_rate", "weight_decay")
        check_positive(self, "learning_rate", "rate_power")
        if not 0 < self.real_weight < 1:
            raise ValueError(
                f"real_weight is {self.real_weight}; expected between 0 and 1: generated images have the rest."
            )
        larsen.check_image_size(self.image_size, self.decoder_widths)
        if self.augment and self.channels != 3 and (self.augmentation.contrast or self.augmentation.hue):
            raise ValueError(
                f"channels is {self.channels}, but contrast and hue are of 3 channels: set augmentation.contrast and "
                "augmentation.hue to 0, or augment to False."
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return (self.image_size, self.image_size, self.channels)

    def decoder(self, axis_name: str | None = None) -> larsen.Decoder:
        """The network from latents to images, without a bound."""
        return larsen.Decoder(
            channels=self.channels,
            image_size=self.image_size,
            widths=self.decoder_widths,
            grid_width=self.grid_width,
            axis_name=axis_name,
            dtype=self.compute_dtype,
        )

    def discriminator(self, axis_name: str | None = None, *, features_only: bool = False) -> larsen.Discriminator:
        """The network from images to logits and features, or to features alone."""
        return larsen.Discriminator(
            widths=self.discriminator_widths,
            hidden=self.discriminator_hidden,
            features_only=features_only,
            axis_name=axis_name,
            dtype=self.compute_dtype,
        )


@dataclasses.dataclass(frozen=True)
class AutoencodingConfig(Config):
    """A model with an encoder.

    Attributes:
        encoder_widths: channels of the encoder's convolutions, each of which halves the image.
        encoder_hidden: units of the encoder's dense layer.
    """

    encoder_widths: tuple[int, ...] = (64, 128, 256)
    encoder_hidden: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths(self, "encoder_widths")
        check_at_least(self, 1, "encoder_hidden")

    def encoder(self, axis_name: str | None = None) -> larsen.Encoder:
        """The network from images to mean and log variance."""
        return larsen.Encoder(
            latent_size=self.latent_size,
            widths=self.encoder_widths,
            hidden=self.encoder_hidden,
            axis_name=axis_name,
            dtype=self.compute_dtype,
        )


# --- phases and optimisers -----------------------------------------------------------------------------------------


def phase(config: Config, name: str, groups: Sequence[str], steps: int, start: int = 0) -> Phase:
    """A phase that trains the groups, all at the published rates of its steps."""

    def rate(step: jax.Array) -> jax.Array:
        fraction = jnp.clip(jnp.floor(_RATES * jnp.asarray(step, jnp.float32) / steps) / _RATES, 0.0, 1.0)
        return config.learning_rate - fraction**config.rate_power * (config.learning_rate - config.final_learning_rate)

    return Phase(
        name=name,
        steps=steps,
        start=start,
        batch_size=config.batch_size,
        image_size=config.image_size,
        learning_rates=dict.fromkeys(groups, rate),
        options={"shuffle": config.shuffle},
    )


def optimizers(config: Config, phase: Phase) -> dict[str, optax.GradientTransformation]:
    """RMSProp of the gradient and an L2 decay, for each group that the phase trains.

    Published are sums over the batch. Dividing the objectives, the decay and the epsilon by the batch's size divides
    gradients, their roots and the epsilon alike, and leaves the steps as they are.
    """
    size = phase.batch_size if config.batch_reduction == "mean" else 1

    def decayed(params: Params) -> Any:
        return jax.tree.map_with_path(
            lambda path, _: path[-1].key == "kernel" and path[-2].key not in larsen.HEADS, params
        )

    rmsprop = optax.chain(
        optax.add_decayed_weights(2 * config.weight_decay / size, mask=decayed),
        optax.scale_by_rms(decay=0.9, eps=1e-8 / size, eps_in_sqrt=False),
        optax.scale(-1.0),
    )
    return dict.fromkeys(phase.learning_rates, rmsprop)


def reduced(config: Config, phase: Phase, objectives: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Objectives that are means over the batch, as the config wants them."""
    factor = 1 if config.batch_reduction == "mean" else phase.batch_size
    return {name: factor * value for name, value in objectives.items()}


# --- running the networks ------------------------------------------------------------------------------------------


def init(config: Config, key: jax.Array, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draws the parameters of all networks that the config has."""
    images.check_batch(batch, image=config.image_shape)
    x = images.to_float(batch["image"])
    networks = {
        "decoder": (config.decoder(), jnp.zeros((len(x), config.latent_size))),
        "discriminator": (config.discriminator(), x),
    }
    if isinstance(config, AutoencodingConfig):
        networks = {"encoder": (config.encoder(), x), **networks}
    params, state = {}, {}
    for own, (group, (net, example)) in zip(jax.random.split(key, len(networks)), networks.items(), strict=True):
        params[group], state[group] = nets.init(net, own, example)
    return params, state


def training_images(config: Config, batch: Batch, key: jax.Array, axis_name: str | None) -> jax.Array:
    """The images of a batch, changed at random."""
    x = images.to_float(batch["image"])
    if not config.augment:
        return x
    keys = gaussian.example_keys(jax.random.fold_in(key, 1), len(x), axis_name)
    return augmentation.perturb(keys, x, config.augmentation, jax.random.fold_in(key, 2))


class Networks(NamedTuple):
    """The networks with their parameters and batch statistics, in training or in evaluation mode.

    Methods that return a pair return new batch statistics second; in evaluation mode these are the old ones.
    """

    config: Any  # Config, or AutoencodingConfig to encode
    params: Params
    state: ModelState
    train: bool = False
    axis_name: str | None = None

    def encode(self, x: jax.Array) -> tuple[tuple[jax.Array, jax.Array], Any]:
        """Mean and log variance, each [B, D]."""
        return self._run("encoder", self.config.encoder(self.axis_name), x)

    def decode(self, z: jax.Array) -> tuple[jax.Array, Any]:
        """Images [B, S, S, C] in [-1, 1]."""
        output, stats = self._run("decoder", self.config.decoder(self.axis_name), z)
        return jnp.tanh(output), stats

    def discriminate(self, x: jax.Array) -> tuple[jax.Array, Any]:
        """Logits [B], positive for "real"."""
        (logits, _), stats = self._run("discriminator", self.config.discriminator(self.axis_name), x)
        return logits, stats

    def features(self, x: jax.Array) -> jax.Array:
        """Dis_l, [B, S', S', C']."""
        return self._run("discriminator", self.config.discriminator(self.axis_name, features_only=True), x)[0]

    def _run(self, group: str, net: nn.Module, value: jax.Array) -> tuple[Any, Any]:
        return nets.apply(net, self.params[group], self.state[group], value, train=self.train)


# --- the game between discriminator and decoder --------------------------------------------------------------------


def verdict(config: Config, real_logits: jax.Array, fake_logits: jax.Array) -> dict[str, jax.Array]:
    """Errors of the discriminator's two sides, and whether it is right: one number per logit."""
    sides = losses.logistic_discriminator(real_logits, fake_logits, epsilon=config.epsilon)
    return {
        "discriminator/real_error": sides.real,
        "discriminator/fake_error": sides.fake,
        "discriminator/real_accuracy": (real_logits > 0).astype(jnp.float32),
        "discriminator/fake_accuracy": (fake_logits < 0).astype(jnp.float32),
    }


def discriminator_error(config: Config, verdict: Mapping[str, jax.Array]) -> jax.Array:
    """What the discriminator minimises: both sides, weighted."""
    real, fake = verdict["discriminator/real_error"], verdict["discriminator/fake_error"]
    return config.real_weight * real + (1.0 - config.real_weight) * fake


class Game(NamedTuple):
    """What both players minimise, [], the verdict's means, and the discriminator's batch statistics."""

    discriminator: jax.Array
    decoder: jax.Array
    metrics: Mapping[str, jax.Array]
    stats: Any


def play(networks: Networks, real: jax.Array, *fakes: jax.Array) -> Game:
    """Real images [B, ...] against one or more batches of generated ones [B, ...], normalised all together.

    The decoder minimises log(1 - D) of its images, summed over `fakes`: the saturating side of the minimax game.
    """
    config = networks.config
    logits, stats = networks.discriminate(jnp.concatenate([real, *fakes]))
    real_logits, fake_logits = logits[: len(real)], logits[len(real) :]
    metrics = {name: values.mean() for name, values in verdict(config, real_logits, fake_logits).items()}
    decoder = len(fakes) * losses.saturating_generator(fake_logits, epsilon=config.epsilon).mean()
    return Game(discriminator_error(config, metrics), decoder, metrics, stats)


Gates = Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]]


def gates(config: Config) -> Gates | None:
    """Which player moves, from the means of the verdict (VG-04)."""
    if not config.gating:
        return None
    low, high = config.equilibrium - config.margin, config.equilibrium + config.margin

    def of_metrics(metrics: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        real, fake = metrics["discriminator/real_error"], metrics["discriminator/fake_error"]
        ahead, behind = jnp.minimum(real, fake) < low, jnp.maximum(real, fake) > high
        return {"discriminator": ~ahead | behind, "decoder": ~behind | ahead}

    return of_metrics


def game_round(config: Config, phase: Phase, axis_name: str | None) -> Round:
    """Decoder and discriminator alone: a GAN."""

    def game_losses(params: Params, state: ModelState, batch: Batch, key: jax.Array, step: jax.Array) -> Losses:
        networks = Networks(config, params, state, train=True, axis_name=axis_name)
        x = training_images(config, batch, key, axis_name)
        z = gaussian.standard_normal(jax.random.fold_in(key, 4), (len(x), config.latent_size), axis_name)
        generated, decoder_stats = networks.decode(z)
        game = play(networks, x, generated)
        objectives = {"decoder": game.decoder, "discriminator": game.discriminator}
        return Losses(
            reduced(config, phase, objectives),
            {"loss": game.discriminator, **game.metrics},
            {"decoder": decoder_stats, "discriminator": game.stats},
        )

    return Round({"decoder": ("decoder",), "discriminator": ("discriminator",)}, game_losses, gates(config))


def evaluate_game(config: Config) -> Callable[..., dict[str, jax.Array]]:
    """The verdict on each image and on one sample; "loss" is the discriminator's error, which tells its overfitting."""

    def of_batch(params: Params, state: ModelState, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        networks, x = Networks(config, params, state), images.to_float(batch["image"])
        generated, _ = networks.decode(gaussian.standard_normal(key, (len(x), config.latent_size)))
        found = verdict(config, networks.discriminate(x)[0], networks.discriminate(generated)[0])
        return {"loss": discriminator_error(config, found), **found}

    return of_batch


# --- errors of reconstructions -------------------------------------------------------------------------------------


def errors(
    judge: Networks, x: jax.Array, reconstruction: jax.Array, mean: jax.Array, logvar: jax.Array
) -> dict[str, jax.Array]:
    """Terms of the variational objective in the features of the judge's discriminator, one number per example.

    "similarity", half the squared distance of Dis_l; "kl", to N(0, I); "mean_squared_error" of pixels in [0, 1]. No
    gradient flows through Dis_l of the original images.
    """
    generated, original = jnp.split(judge.features(jnp.concatenate([reconstruction, x])), 2)
    return {
        "similarity": 0.5 * losses.feature_distance(generated, lax.stop_gradient(original)),
        "kl": losses.kl_standard_normal(mean, logvar),
        "mean_squared_error": losses.squared_error(reconstruction, x) / (4 * math.prod(x.shape[1:])),
    }


def evaluate_reconstructions(config: AutoencodingConfig) -> Callable[..., dict[str, jax.Array]]:
    """The terms of each image; "loss" is what the encoder minimises, measured by the discriminator of the moment."""

    def of_batch(params: Params, state: ModelState, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        networks, x = Networks(config, params, state), images.to_float(batch["image"])
        (mean, logvar), _ = networks.encode(x)
        reconstruction, _ = networks.decode(gaussian.sample(key, mean, logvar))
        found = errors(networks, x, reconstruction, mean, logvar)
        return {"loss": found["similarity"] + found["kl"], **found}

    return of_batch


# --- the model -----------------------------------------------------------------------------------------------------


def model(
    config: Config,
    rounds: Callable[..., tuple[Round, ...]],
    evaluate: Callable[[Phase], Callable[..., dict[str, jax.Array]]],
) -> Model:
    """A model of the family from what its members differ in.

    Its `functions` take (params, model_state, images in [-1, 1]) and work in evaluation mode: discriminate(...) -> [B],
    the log odds of being real; similarity_features(...) -> [B, S', S', C'], Dis_l.
    """

    def encode(params: Params, state: ModelState, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return Networks(config, params, state).encode(x)[0]

    def decode(params: Params, state: ModelState, z: jax.Array) -> jax.Array:
        return Networks(config, params, state).decode(z)[0]

    def sample(params: Params, state: ModelState, key: jax.Array, count: int) -> jax.Array:
        return decode(params, state, gaussian.standard_normal(key, (count, config.latent_size)))

    def discriminate(params: Params, state: ModelState, x: jax.Array) -> jax.Array:
        return Networks(config, params, state).discriminate(x)[0]

    def similarity_features(params: Params, state: ModelState, x: jax.Array) -> jax.Array:
        return Networks(config, params, state).features(x)

    return Model(
        init=functools.partial(init, config),
        rounds=rounds,
        optimizers=functools.partial(optimizers, config),
        evaluate=evaluate,
        encode=encode if isinstance(config, AutoencodingConfig) else None,
        decode=decode,
        sample=sample,
        functions={"discriminate": discriminate, "similarity_features": similarity_features},
    )
