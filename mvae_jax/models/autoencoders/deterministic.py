"""The autoencoder: encoder and decoder trained to give back the image, without a distribution over latents.

As a paper's baseline it comes in that paper's networks; those of Schik by default. Its error is the sum over pixels of
the mean over channels, of squares (l2) or absolute values (l1) of differences in [0, 1], means over the batch.

Groups: "encoder", "decoder".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax

from mvae_jax import images, losses, nets
from mvae_jax.models import common
from mvae_jax.models.autoencoders import networks
from mvae_jax.models.autoencoders.networks import NetworksConfig, phases
from mvae_jax.models.checks import check_choice
from mvae_jax.models.common import Training
from mvae_jax.objective import Batch, Model, ModelState, Params, Phase, Posterior

__all__ = ["AutoencoderConfig", "build", "decode", "encode", "phases", "terms"]

_ERRORS = {"l1": losses.absolute_error, "l2": losses.squared_error}
_OUTPUTS: dict[str, Callable[[jax.Array], jax.Array]] = {"linear": lambda x: x, "sigmoid": jax.nn.sigmoid}


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig(NetworksConfig):
    """The autoencoder.

    Attributes:
        error: "l2" for squared, "l1" for absolute differences.
        output: "sigmoid", which bounds the decoder's output to [0, 1] as that of a VAE is, or "linear", as released
            (SC-06).
    """

    heads: ClassVar[int] = 1
    error: str = "l2"
    output: str = "sigmoid"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "error", tuple(_ERRORS))
        check_choice(self, "output", tuple(_OUTPUTS))

    @classmethod
    def reference(cls) -> AutoencoderConfig:
        """As the released code (SC-04, SC-06)."""
        return cls(batch_statistics=False, output="linear")


def terms(config: AutoencoderConfig, output: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
    """Error of reconstructions: sums over pixels of means over channels.

    Args:
        config: the model, for its `error`.
        output: reconstructions, [B, H, W, C], in [0, 1] or not bounded.
        x: the images, [B, H, W, C] in [0, 1].

    Returns:
        "loss", [B], in squared or absolute units.
    """
    return {"loss": _ERRORS[config.error](output, x) / config.channels}


def training_terms(
    config: AutoencoderConfig, training: Training, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> common.Terms:
    """The terms in training, and new batch statistics."""
    encoder, decoder = config.encoder(config.heads, training.axis_name), config.decoder(training.axis_name)
    train = config.batch_statistics
    x = images.to_unit_interval(batch["image"])
    (z,), encoder_stats = nets.apply(encoder, params["encoder"], state["encoder"], x, train=train)
    output, decoder_stats = nets.apply(decoder, params["decoder"], state["decoder"], z, train=train)
    values = terms(config, _OUTPUTS[config.output](output), x)
    return values, {"encoder": encoder_stats, "decoder": decoder_stats}


def encode(config: AutoencoderConfig, params: Params, state: ModelState, x: jax.Array) -> Posterior:
    """Codes of images [B, H, W, C] in [-1, 1]: means without a log variance."""
    (z,) = networks.run_encoder(config, params, state, x)
    return Posterior(z, None)


def decode(config: AutoencoderConfig, params: Params, state: ModelState, z: jax.Array) -> jax.Array:
    """Images [B, H, W, C] of codes [B, D], in [-1, 1] but for a linear output, which has no bound."""
    return images.from_unit_interval(_OUTPUTS[config.output](networks.run_decoder(config, params, state, z)))


def evaluate(
    config: AutoencoderConfig, phase: Phase, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """The terms in evaluation mode, where nothing is random."""
    output = decode(config, params, state, encode(config, params, state, batch["image"]).mean)
    return terms(config, images.to_unit_interval(output), images.to_unit_interval(batch["image"]))


def build(config: AutoencoderConfig) -> Model:
    """Builds the model's pure functions.

    Returns:
        A `Model` that trains on batches {"image": uint8 [B, H, W, C]}, with the function features(params, model_state,
        images) -> the encoder's last hidden layer, [B, F]. There is no `sample`.
    """
    return common.bind(
        config,
        init=networks.init,
        rounds=common.one_round("autoencoder", training_terms),
        optimizers=networks.optimizers,
        evaluate=evaluate,
        encode=encode,
        decode=decode,
        functions={"features": networks.features},
    )
