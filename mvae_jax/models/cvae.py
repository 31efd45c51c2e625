"""The attribute CVAE (Debbagh, 2023): images from attributes, and a latent code for what attributes do not say.

Minimises (1 - beta) SSE + beta KL(q(z | image, attributes) || prior), sums over pixel values in [0, 1] and over latent
dimensions in nats, means over the batch (equations 9 and 10). The prior is N(0, I), or by name the p(z | attributes)
of equation 5, which is learned (CV-01).

Groups: "encoder", "decoder", and "prior" where it is learned.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from mvae_jax import attributes as face_attributes
from mvae_jax import gaussian, images, losses, nets
from mvae_jax.models import common
from mvae_jax.models.checks import (
    check_at_least,
    check_attributes,
    check_choice,
    check_compute_dtype,
    check_positive,
    check_widths,
)
from mvae_jax.models.common import Training
from mvae_jax.nets.conditional import ConditionalDecoder, ConditionalEncoder, ConditionalPrior
from mvae_jax.objective import Batch, Model, ModelState, Params, Phase, Posterior

Gaussian = tuple[jax.Array, jax.Array]  # mean and log variance


@dataclasses.dataclass(frozen=True)
class Config:
    """The attribute CVAE; what the paper does not say is our choice: all but image sizes, attributes and beta.

    Attributes:
        image_size: height and width of the images in pixels. CelebA's 218, 178 are padded to multiples of 2 per
            stage within the networks, and cut again (CV-02).
        attributes: names of the attributes, in order.
        latent_size: dimensions of the latent space.
        widths: channels of the encoder's convolutions, each of which is followed by a pooling that halves the image;
            the decoder has them in reverse.
        prior: "standard", N(0, I), or "conditional", learned from the attributes (CV-01).
        prior_hidden: units of the hidden layer of the conditional prior.
        beta: weight of the KL divergence; the squared error has 1 - beta. The paper has 0.25, 0.5, 0.75 and 0.9.
        epochs: passes over the training images.
        batch_size: examples per step.
        learning_rate: Adam's rate.
        compute_dtype: "float32", or "bfloat16" for the networks' products and activations; parameters and losses are
            float32 with either, so that a run can be loaded with the other.
    """

    image_size: tuple[int, int] = (218, 178)
    attributes: tuple[str, ...] = face_attributes.FACE
    latent_size: int = 128
    widths: tuple[int, ...] = (32, 64)
    prior: str = "standard"
    prior_hidden: int = 256
    beta: float = 0.5
    epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 1e-3
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_choice(self, "prior", ("standard", "conditional"))
        check_compute_dtype(self)
        check_at_least(self, 1, "latent_size", "prior_hidden", "epochs", "batch_size")
        check_widths(self, "widths")
        if len(self.image_size) != 2 or min(self.image_size) < 2 ** len(self.widths):
            raise ValueError(
                f"image_size is {self.image_size}; expected height and width, each at least {2 ** len(self.widths)} "
                f"for {len(self.widths)} widths, each of which halves the image."
            )
        if not 0 < self.beta < 1:
            raise ValueError(f"beta is {self.beta}; expected between 0 and 1: the squared error is weighted 1 - beta.")
        check_positive(self, "learning_rate")
        check_attributes(self)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return (*self.image_size, 3)

    @property
    def groups(self) -> tuple[str, ...]:
        """Parameter groups, all of which are trained."""
        return ("encoder", "decoder", "prior") if self.prior == "conditional" else ("encoder", "decoder")

    @property
    def divergence_weights(self) -> dict[str, float]:
        """Weight of the divergence where the squared error has weight 1."""
        return {"kl": self.beta / (1 - self.beta)}

    def network(self, group: str) -> nn.Module:
        """Network of a group, the same in training and evaluation."""
        if group == "encoder":
            return ConditionalEncoder(self.latent_size, self.widths, self.compute_dtype)
        if group == "decoder":
            return ConditionalDecoder(self.image_shape, self.widths, self.compute_dtype)
        return ConditionalPrior(self.latent_size, self.prior_hidden, self.compute_dtype)

    def effective_weight(self, weight: float) -> float:
        """A divergence's weight were error and divergence means instead of sums: weight * L / (H W C)."""
        return weight * self.latent_size / math.prod(self.image_shape)


# --- terms of the objective ----------------------------------------------------------------------------------------


def terms(
    config: Config, output: jax.Array, x: jax.Array, posterior: Gaussian, prior: Gaussian
) -> dict[str, jax.Array]:
    """The objective of images and its terms.

    Args:
        config: the model, for its beta.
        output: reconstructions, [B, H, W, C] in [0, 1].
        x: the images, [B, H, W, C] in [0, 1].
        posterior: mean and log variance of q(z | image, attributes), each [B, D].
        prior: mean and log variance of p(z) or p(z | attributes), each [B, D].

    Returns:
        All [B]: "loss", (1 - beta) SSE + beta KL; "squared_error", the SSE, which is the paper's "MSE"; its mean
        "mean_squared_error" (CV-03); and "kl", in nats.
    """
    error = losses.squared_error(output, x)
    kl = losses.kl_diag_gaussians(*posterior, *prior)
    return {
        "loss": (1 - config.beta) * error + config.beta * kl,
        "squared_error": error,
        "mean_squared_error": error / math.prod(config.image_shape),
        "kl": kl,
    }


# --- training ------------------------------------------------------------------------------------------------------


def phases(config: Config, steps_per_epoch: int) -> tuple[Phase, ...]:
    """The single phase, "training"."""
    return common.training_phase(config, steps_per_epoch, dict.fromkeys(config.groups, config.learning_rate))


def optimizers(config: Config, phase: Phase) -> dict[str, optax.GradientTransformation]:
    """Adam for every group, at unit rate."""
    return dict.fromkeys(phase.learning_rates, optax.adam(1.0))


def init(config: Config, key: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
    """Draws the parameters of all networks."""
    images.check_batch(batch, image=config.image_shape, attributes=(len(config.attributes),))
    keys, a = jax.random.split(key, 3), batch["attributes"]
    x, z = images.to_unit_interval(batch["image"]), jnp.zeros((len(a), config.latent_size))
    inputs = {"encoder": (x, a), "decoder": (z, a), "prior": (a,)}
    params = {
        group: nets.init(config.network(group), key, *inputs[group])[0]
        for group, key in zip(config.groups, keys, strict=False)
    }
    return params, {group: {} for group in params}


def batch_terms(
    config: Config, axis_name: str | None, params: Params, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """The terms of a batch, for one sample of each posterior; training and evaluation run the networks alike."""
    x, a = images.to_unit_interval(batch["image"]), batch["attributes"]
    mean, logvar = _run(config, "encoder", params, images.to_unit_interval(batch["image"]), a)
    output = _decode(config, params, gaussian.sample(key, mean, logvar, axis_name), a)
    return terms(config, output, x, (mean, logvar), _prior(config, params, a))


def training_terms(
    config: Config, training: Training, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> common.Terms:
    """The terms in training."""
    return batch_terms(config, training.axis_name, params, batch, jax.random.fold_in(key, 1)), {}


def evaluate(
    config: Config, phase: Phase, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """The terms of validation."""
    return batch_terms(config, None, params, batch, key)


# --- the trained model ---------------------------------------------------------------------------------------------


def encode(config: Config, params: Params, state: ModelState, x: jax.Array, attributes: jax.Array) -> Posterior:
    """Posteriors q(z | image, attributes) of images [B, H, W, C] in [-1, 1] and attributes [B, A] in [0, 1]."""
    return Posterior(*_run(config, "encoder", params, images.to_unit_interval(x), attributes))


def prior(config: Config, params: Params, state: ModelState, attributes: jax.Array) -> Posterior:
    """The prior of latents given attributes [B, A] in [0, 1]."""
    return Posterior(*_prior(config, params, attributes))


def decode(config: Config, params: Params, state: ModelState, z: jax.Array, attributes: jax.Array) -> jax.Array:
    """Images [B, H, W, C] in [-1, 1] of latents [B, D] and attributes [B, A] in [0, 1]."""
    return images.from_unit_interval(_decode(config, params, z, attributes))


def sample(config: Config, params: Params, state: ModelState, key: jax.Array, attributes: jax.Array) -> jax.Array:
    """One image, in [-1, 1], for each row of attributes [B, A] in [0, 1], of a latent from the prior."""
    z = gaussian.sample(key, *_prior(config, params, attributes))
    return decode(config, params, state, z, attributes)


def build(config: Config) -> Model:
    """Builds the model's pure functions.

    Returns:
        A conditional `Model` that trains on batches {"image": uint8 [B, H, W, 3], "attributes": float32 [B, A]}: its
        encode, decode and sample take attributes, float [B, A] in [0, 1]. To edit an image, decode its mean with other
        attributes. Further function: prior(params, model_state, attributes) -> `Posterior`.
    """
    return common.bind(
        config,
        init=init,
        rounds=common.one_round("cvae", training_terms),
        optimizers=optimizers,
        evaluate=evaluate,
        encode=encode,
        decode=decode,
        sample=sample,
        functions={"prior": prior},
    )


def _run(config: Config, group: str, params: Params, *inputs: jax.Array) -> Any:
    return nets.evaluate(config.network(group), params[group], {}, *inputs)


def _prior(config: Config, params: Params, attributes: jax.Array) -> Gaussian:
    if config.prior == "conditional":
        return _run(config, "prior", params, attributes)
    zeros = jnp.zeros((attributes.shape[0], config.latent_size))
    return zeros, zeros


def _decode(config: Config, params: Params, z: jax.Array, attributes: jax.Array) -> jax.Array:
    """Images in [0, 1]."""
    return jax.nn.sigmoid(_run(config, "decoder", params, z, attributes))
