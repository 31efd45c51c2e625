"""What the autoencoders of single images share: their networks, their one phase, the variational objective.

Groups: "encoder", "decoder", and "observation", the log scale of the observations where it is learned.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from mvae_jax import gaussian, images, losses, nets
from mvae_jax.models._checks import check_at_least, check_choice, check_positive, check_widths
from mvae_jax.nets import autoencoders, bigan, larsen
from mvae_jax.objective import Batch, Losses, Model, ModelState, Params, Phase, Round
from mvae_jax.optimizers import adam_with_l2, constant_then_exponential

NETWORKS = ("convolutional", "dense", "larsen", "bigan")
OPTIMIZERS = ("adam", "bigan")
LIKELIHOODS = ("gaussian", "laplace", "bernoulli")
# Schik's code for probabilistic models (SC-02, SC-04); its constant scale of .01 goes through a softplus.
RELEASED: dict[str, Any] = {
    "batch_statistics": False,
    "kl": "one_sample",
    "posterior_scale": "softplus",
    "observation_scale": math.log1p(math.exp(0.01)),
}


@dataclasses.dataclass(frozen=True)
class Config:
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
        check_choice(self, "compute_dtype", ("float32", "bfloat16"))
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
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return (self.image_size, self.image_size, self.channels)

    def encoder(self, heads: int, axis_name: str | None = None) -> nn.Module:
        """The network from images to `heads` vectors [B, D]."""
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
        """The network from latents to images [B, H, W, C], without a bound."""
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


@dataclasses.dataclass(frozen=True)
class VariationalConfig(Config):
    """A variational autoencoder's likelihood and divergence.

    Attributes:
        likelihood: of a pixel value in [0, 1] given the decoder's mean: "gaussian", "laplace" or "bernoulli".
        observation_scale: standard deviation of the Gaussian, or scale of the Laplace distribution. 1 / sqrt(2) makes
            the negative log-likelihood the sum of squared errors, up to a constant.
        learn_scale: learn one such scale for all pixels, from `observation_scale` on (sigma-VAE).
        kl: "closed_form", or "one_sample", log q(z | x) - log p(z) at the sample that is decoded, as released.
        free_bits: nats that each latent dimension may use, on average over the batch, without paying for them.
        warmup_epochs: epochs over which the weight of the divergence rises from 0 to its value.
        posterior_scale: standard deviation from the encoder's second output s: "exponential", exp(s / 2), or
            "softplus", softplus(exp(s)), which cannot fall below log 2, as released (SC-02).
    """

    likelihood: str = "gaussian"
    observation_scale: float = 2**-0.5
    learn_scale: bool = False
    kl: str = "closed_form"
    free_bits: float = 0.0
    warmup_epochs: int = 0
    posterior_scale: str = "exponential"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "likelihood", LIKELIHOODS)
        check_choice(self, "kl", ("closed_form", "one_sample"))
        check_choice(self, "posterior_scale", ("exponential", "softplus"))
        check_at_least(self, 0, "free_bits", "warmup_epochs")
        check_positive(self, "observation_scale")
        if self.learn_scale and self.likelihood == "bernoulli":
            raise ValueError("learn_scale is true, but a Bernoulli likelihood has no scale: use another likelihood.")

    def effective_weight(self, weight: float) -> float:
        """A divergence's weight as it would be were all errors and divergences means instead of sums.

        That is the weight of the divergence per latent dimension against the error per pixel value, which says how
        strong it is at any image and latent size: weight * L / (H W C), times 2 scale^2 for a Gaussian likelihood,
        whose negative logarithm is the squared error by that, and times the scale for a Laplace one; where the
        scale is learned, at the scale that it starts from.
        """
        error = {"gaussian": 2 * self.observation_scale**2, "laplace": self.observation_scale, "bernoulli": 1.0}
        return weight * error[self.likelihood] * self.latent_size / math.prod(self.image_shape)


def phases(config: Config, steps_per_epoch: int) -> tuple[Phase, ...]:
    """The one phase, "training"."""
    groups = ("encoder", "decoder", *(("observation",) if getattr(config, "learn_scale", False) else ()))
    steps, rate = config.epochs * steps_per_epoch, config.learning_rate
    return (
        Phase(
            name="training",
            steps=steps,
            batch_size=config.batch_size,
            image_size=config.image_size,
            learning_rates=dict.fromkeys(
                groups, rate if config.optimizer == "adam" else constant_then_exponential(rate, steps // 2, steps // 2)
            ),
            options={
                "warmup_steps": getattr(config, "warmup_epochs", 0) * steps_per_epoch,
                "dataset_size": steps_per_epoch * config.batch_size,  # what an epoch visits: all but a part of a batch
            },
        ),
    )


def optimizers(config: Config, phase: Phase) -> dict[str, optax.GradientTransformation]:
    """The optimiser of the config for each group, at unit rate."""
    made = {"adam": lambda: optax.adam(1.0, eps=1e-7), "bigan": lambda: adam_with_l2(0.5, 0.999, 2.5e-5)}
    return {group: made[config.optimizer]() for group in phase.learning_rates}


def init(config: Config, heads: int, key: jax.Array, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draws the parameters of encoder and decoder."""
    images.check_batch(batch, image=config.image_shape)
    keys = jax.random.split(key)
    z = jnp.zeros((len(batch["image"]), config.latent_size))
    encoder = nets.init(config.encoder(heads), keys[0], images.to_unit_interval(batch["image"]))
    decoder = nets.init(config.decoder(), keys[1], z)
    return {"encoder": encoder[0], "decoder": decoder[0]}, {"encoder": encoder[1], "decoder": decoder[1]}


def features(config: Config, heads: int, params: Params, state: ModelState, x: jax.Array) -> jax.Array:
    """The encoder's last hidden layer, [B, F], of images [B, H, W, C] in [-1, 1]."""
    return nets.features(config.encoder(heads), params["encoder"], state["encoder"], images.to_unit_interval(x))


Regulariser = Callable[..., tuple[jax.Array, Mapping[str, jax.Array]]]


def build(config: VariationalConfig, kl_weight: float, regulariser: Regulariser | None = None) -> Model:
    """Builds a variational autoencoder: negative log-likelihood + `kl_weight` * KL(q(z | x) || N(0, I)) + regulariser.

    Args:
        config: the model.
        kl_weight: weight of the KL divergence.
        regulariser: a further divergence, (z, mean, logvar, dataset_size, axis_name) -> ([B], metrics, each [B]),
            which `warmup_epochs` scale as they scale the KL.

    Returns:
        A `Model` that trains on batches {"image": uint8 [B, H, W, C]}. Validation's "loss" leaves the regulariser out,
        which couples examples. Besides `encode`, `decode` and `sample` it has, in evaluation mode,
        log_likelihood(params, model_state, images in [-1, 1], z) -> log p(x | z), [B] in nats of pixel values in
        [0, 1].
    """

    def networks_init(key: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
        params, state = init(config, 2, key, batch)
        if config.learn_scale:
            params["observation"] = {"log_scale": jnp.log(jnp.float32(config.observation_scale))}
        return params, state

    def log_scale(params: Params) -> jax.Array | float:
        return params["observation"]["log_scale"] if config.learn_scale else math.log(config.observation_scale)

    def posterior(outputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        mean, s = outputs
        return mean, s if config.posterior_scale == "exponential" else 2 * jnp.log(jax.nn.softplus(jnp.exp(s)))

    def negative_log_likelihood(params: Params, logits: jax.Array, x: jax.Array) -> jax.Array:
        if config.likelihood == "bernoulli":
            return losses.bernoulli_nll(logits, x)
        if config.likelihood == "laplace":
            return losses.laplace_nll(x, jax.nn.sigmoid(logits), log_scale(params))
        return losses.gaussian_nll(x, jax.nn.sigmoid(logits), 2 * log_scale(params))

    def kl_terms(z: jax.Array, mean: jax.Array, logvar: jax.Array) -> jax.Array:
        """KL(q(z | x) || N(0, I)) by dimension, [B, D]."""
        if config.kl == "closed_form":
            return gaussian.kl_divergence(mean, logvar, 0.0, 0.0)
        return gaussian.log_prob(z, mean, logvar) - gaussian.log_prob(z, 0.0, 0.0)

    def terms(params: Params, logits: jax.Array, x: jax.Array, kl: jax.Array) -> dict[str, jax.Array]:
        error = losses.squared_error(jax.nn.sigmoid(logits), x) / math.prod(config.image_shape)
        return {
            "reconstruction": negative_log_likelihood(params, logits, x),
            "mean_squared_error": error,
            "kl": kl.sum(1),
        }

    def rounds(phase: Phase, axis_name: str | None = None) -> tuple[Round, ...]:
        encoder, decoder = config.encoder(2, axis_name), config.decoder(axis_name)
        train, warmup = config.batch_statistics, phase.options["warmup_steps"]

        def vae_losses(params: Params, state: ModelState, batch: Batch, key: jax.Array, step: jax.Array) -> Losses:
            x = images.to_unit_interval(batch["image"])
            outputs, encoder_stats = nets.apply(encoder, params["encoder"], state["encoder"], x, train=train)
            mean, logvar = posterior(outputs)
            z = gaussian.sample(jax.random.fold_in(key, 1), mean, logvar, axis_name)
            logits, decoder_stats = nets.apply(decoder, params["decoder"], state["decoder"], z, train=train)
            kl = kl_terms(z, mean, logvar)
            found = terms(params, logits, x, kl)
            divergence = kl_weight * _free(kl, config.free_bits, axis_name)
            if regulariser is not None:
                extra, more = regulariser(z, mean, logvar, phase.options["dataset_size"], axis_name)
                divergence, found = divergence + extra.mean(), {**found, **more}
            if warmup:
                divergence *= jnp.minimum(1.0, step / warmup)
            loss = found["reconstruction"].mean() + divergence
            metrics = {"loss": loss, **{name: values.mean() for name, values in found.items()}}
            if config.learn_scale:
                metrics["observation_scale"] = jnp.exp(log_scale(params))
            return Losses({"vae": loss}, metrics, {"encoder": encoder_stats, "decoder": decoder_stats})

        return (Round({"vae": tuple(phase.learning_rates)}, vae_losses),)

    def encode(params: Params, state: ModelState, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = images.to_unit_interval(x)
        return posterior(nets.apply(config.encoder(2), params["encoder"], state["encoder"], x, train=False)[0])

    def logits_of(params: Params, state: ModelState, z: jax.Array) -> jax.Array:
        return nets.apply(config.decoder(), params["decoder"], state["decoder"], z, train=False)[0]

    def decode(params: Params, state: ModelState, z: jax.Array) -> jax.Array:
        return images.from_unit_interval(jax.nn.sigmoid(logits_of(params, state, z)))

    def sample(params: Params, state: ModelState, key: jax.Array, count: int) -> jax.Array:
        return decode(params, state, gaussian.standard_normal(key, (count, config.latent_size)))

    def log_likelihood(params: Params, state: ModelState, x: jax.Array, z: jax.Array) -> jax.Array:
        return -negative_log_likelihood(params, logits_of(params, state, z), images.to_unit_interval(x))

    def evaluate(phase: Phase) -> Callable[..., dict[str, jax.Array]]:
        def of_batch(params: Params, state: ModelState, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
            mean, logvar = encode(params, state, batch["image"])
            z = gaussian.sample(key, mean, logvar)
            logits = logits_of(params, state, z)
            found = terms(params, logits, images.to_unit_interval(batch["image"]), kl_terms(z, mean, logvar))
            return {"loss": found["reconstruction"] + kl_weight * found["kl"], **found}

        return of_batch

    return Model(
        init=networks_init,
        rounds=rounds,
        optimizers=functools.partial(optimizers, config),
        evaluate=evaluate,
        encode=encode,
        decode=decode,
        sample=sample,
        functions={"log_likelihood": log_likelihood, "features": functools.partial(features, config, 2)},
    )


def _free(kl: jax.Array, free_bits: float, axis_name: str | None) -> jax.Array:
    """Mean over the batch of the divergence, [B, D] to [], of which each dimension has some for free.

    Reference:
        Kingma et al., 2016, Improved variational inference with inverse autoregressive flow, equation 15.
    """
    if not free_bits:
        return kl.sum(1).mean()
    used = kl.mean(0) if axis_name is None else lax.pmean(kl.mean(0), axis_name)
    return jnp.maximum(used, free_bits).sum()
