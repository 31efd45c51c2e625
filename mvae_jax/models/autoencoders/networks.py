"""Networks and training of the autoencoders: a choice of four architectures and two optimisers.

Groups: "encoder", "decoder", and "observation", the log scale of the observations where it is learned.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from mvae_jax import images, nets
from mvae_jax.models import common
from mvae_jax.models.checks import check_at_least, check_choice, check_compute_dtype, check_positive, check_widths
from mvae_jax.nets import autoencoders, bigan, larsen
from mvae_jax.objective import Batch, ModelState, Params, Phase
from mvae_jax.optimizers import adam_with_l2, constant_then_exponential

NETWORKS = ("convolutional", "dense", "larsen", "bigan")
OPTIMIZERS = ("adam", "bigan")


@dataclasses.dataclass(frozen=True)
class NetworksConfig(common.SquareImages):
    """Networks and training of an autoencoder.

    Attributes:
        image_size: height and width of the images in pixels; for the convolutional network 2 ** (stages + 1).
        channels: of the images.
        network: "convolutional" (Schik), "dense", "larsen" (VAE/GAN's encoder and decoder) or "bigan" (BiGAN's encoder
            and generator of MNIST).
        widths: channels of the convolutional encoder's stages, or units of the dense encoder's hidden layers; the
            decoder has them in reverse, but for half of the first in Larsen's networks, whose published widths are
            64, 128, 256, and whose dense layer has four times the last.
        latent_size: dimensions of the latent space.
        batch_statistics: normalise by the statistics of the batch in training. The released code never does (SC-04).
        epochs: passes over the training images.
        batch_size: examples per step.
        learning_rate: Adam's rate.
        optimizer: "adam" with Keras's epsilon and a constant rate, or "bigan": betas .5 and .999, L2 of 2.5e-5, and a
            rate that falls to a hundredth over the second half of the steps.
        compute_dtype: "float32", or "bfloat16" for the networks' products and activations; parameters, statistics
            and losses are float32 with either, so that a run can be loaded with the other.
    """

    heads: ClassVar[int]  # outputs of the encoder
    image_size: int = 64
    channels: int = 3
    network: str = "convolutional"
    widths: tuple[int, ...] = (64, 128, 128, 256, 512)
    latent_size: int = 32
    batch_statistics: bool = True
    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 1e-4
    optimizer: str = "adam"
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_choice(self, "network", NETWORKS)
        check_choice(self, "optimizer", OPTIMIZERS)
        check_compute_dtype(self)
        check_widths(self, "widths")
        check_at_least(self, 1, "image_size", "channels", "latent_size", "epochs", "batch_size")
        if self.network == "convolutional" and self.image_size != 2 ** (len(self.widths) + 1):
            raise ValueError(
                f"image_size is {self.image_size}; expected {2 ** (len(self.widths) + 1)} for {len(self.widths)} "
                "widths, each of which halves the image, down to 2 pixels: change widths or image_size."
            )
        if self.network == "larsen":
            larsen.check_image_size(self.image_size, self.widths)
        check_positive(self, "learning_rate")

    @property
    def groups(self) -> tuple[str, ...]:
        """Parameter groups that are trained."""
        return ("encoder", "decoder")

    def encoder(self, heads: int, axis_name: str | None = None) -> nn.Module:
        """Network from images to `heads` vectors [B, D]."""
        if self.network == "dense":
            return autoencoders.DenseEncoder(self.latent_size, self.widths, heads, self.compute_dtype)
        if self.network == "larsen":
            return larsen.Encoder(
                self.latent_size, self.widths, 4 * self.widths[-1], heads, axis_name, self.compute_dtype
            )
        if self.network == "bigan":
            return bigan.Encoder(self.latent_size, self.widths, heads, axis_name=axis_name, dtype=self.compute_dtype)
        return autoencoders.ConvolutionalEncoder(self.latent_size, self.widths, heads, axis_name, self.compute_dtype)

    def decoder(self, axis_name: str | None = None) -> nn.Module:
        """Network from latents to images [B, H, W, C], without a bound."""
        if self.network == "dense":
            return autoencoders.DenseDecoder(self.image_shape, self.widths, self.compute_dtype)
        if self.network == "larsen":
            widths = (*self.widths[:0:-1], max(1, self.widths[0] // 2))
            return larsen.Decoder(
                self.channels, self.image_size, widths, self.widths[-1], axis_name, self.compute_dtype
            )
        if self.network == "bigan":
            return bigan.Generator(self.image_shape, self.widths[::-1], axis_name, self.compute_dtype)
        return autoencoders.ConvolutionalDecoder(self.channels, self.widths, axis_name, self.compute_dtype)


def phases(config: NetworksConfig, steps_per_epoch: int, **fields: Any) -> tuple[Phase, ...]:
    """The single phase, "training"; `fields` are further ones of `Phase`."""
    steps, rate = config.epochs * steps_per_epoch, config.learning_rate
    schedule = rate if config.optimizer == "adam" else constant_then_exponential(rate, steps // 2, steps // 2)
    return common.training_phase(config, steps_per_epoch, dict.fromkeys(config.groups, schedule), **fields)


def optimizers(config: NetworksConfig, phase: Phase) -> dict[str, optax.GradientTransformation]:
    """Optimiser of every group, at unit rate."""
    optimizer = optax.adam(1.0, eps=1e-7) if config.optimizer == "adam" else adam_with_l2(0.5, 0.999, 2.5e-5)
    return dict.fromkeys(phase.learning_rates, optimizer)


def init(config: NetworksConfig, key: jax.Array, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draws the parameters of encoder and decoder."""
    images.check_batch(batch, image=config.image_shape)
    keys = jax.random.split(key)
    z = jnp.zeros((len(batch["image"]), config.latent_size))
    encoder = nets.init(config.encoder(config.heads), keys[0], images.to_unit_interval(batch["image"]))
    decoder = nets.init(config.decoder(), keys[1], z)
    return {"encoder": encoder[0], "decoder": decoder[0]}, {"encoder": encoder[1], "decoder": decoder[1]}


def run_encoder(config: NetworksConfig, params: Params, state: ModelState, x: jax.Array) -> tuple[jax.Array, ...]:
    """Outputs of the encoder in evaluation mode, [B, D] from each head, for images in [-1, 1]."""
    return nets.evaluate(config.encoder(config.heads), params["encoder"], state["encoder"], images.to_unit_interval(x))


def run_decoder(config: NetworksConfig, params: Params, state: ModelState, z: jax.Array) -> jax.Array:
    """Output of the decoder in evaluation mode, [B, H, W, C] without a bound."""
    return nets.evaluate(config.decoder(), params["decoder"], state["decoder"], z)


def features(config: NetworksConfig, params: Params, state: ModelState, x: jax.Array) -> jax.Array:
    """The encoder's last hidden layer, [B, F], of images [B, H, W, C] in [-1, 1]."""
    encoder = config.encoder(config.heads)
    return nets.features(encoder, params["encoder"], state["encoder"], images.to_unit_interval(x))
