"""The autoencoder: encoder and decoder trained to give back the image, without a distribution over latents.

As a paper's baseline it comes in that paper's networks; those of Schik by default. Its error is the sum over pixels of
the mean over channels, of squares (l2) or absolute values (l1) of differences in [0, 1], means over the batch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mvae_jax import images, losses, nets
from mvae_jax.models import _autoencoding
from mvae_jax.models._autoencoding import phases
from mvae_jax.models._checks import check_choice
from mvae_jax.objective import Batch, Losses, Model, ModelState, Params, Phase, Round

__all__ = ["Config", "build", "phases"]
_ERRORS = {"l1": losses.absolute_error, "l2": losses.squared_error}
_OUTPUTS: dict[str, Callable[[jax.Array], jax.Array]] = {"linear": lambda x: x, "sigmoid": jax.nn.sigmoid}


@dataclasses.dataclass(frozen=True)
class Config(_autoencoding.Config):
    """The autoencoder.

    Attributes:
        error: "l2" for squared, "l1" for absolute differences.
        output: "linear", or "sigmoid", which bounds the decoder's output to [0, 1].
    """

    error: str = "l2"
    output: str = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "error", tuple(_ERRORS))
        check_choice(self, "output", tuple(_OUTPUTS))

    @classmethod
    def reference(cls) -> Config:
        """As the released code (SC-04)."""
        return cls(batch_statistics=False)


def build(config: Config) -> Model:
    """Builds the model's pure functions.

    Returns:
        A `Model` that trains on batches {"image": uint8 [B, H, W, C]}. A linear output of `decode` is not bounded to
        [-1, 1]; there is no `sample`, and the log variance that `encode` returns is minus infinity.
    """

    def init(key: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
        return _autoencoding.init(config, 1, key, batch)

    def error(output: jax.Array, x: jax.Array) -> jax.Array:
        return _ERRORS[config.error](output, x) / config.channels

    def rounds(phase: Phase, axis_name: str | None = None) -> tuple[Round, ...]:
        encoder, decoder, train = config.encoder(1, axis_name), config.decoder(axis_name), config.batch_statistics

        def autoencoder_losses(
            params: Params, state: ModelState, batch: Batch, key: jax.Array, step: jax.Array
        ) -> Losses:
            x = images.to_unit_interval(batch["image"])
            (z,), encoder_stats = nets.apply(encoder, params["encoder"], state["encoder"], x, train=train)
            output, decoder_stats = nets.apply(decoder, params["decoder"], state["decoder"], z, train=train)
            loss = error(_OUTPUTS[config.output](output), x).mean()
            return Losses({"autoencoder": loss}, {"loss": loss}, {"encoder": encoder_stats, "decoder": decoder_stats})

        return (Round({"autoencoder": tuple(phase.learning_rates)}, autoencoder_losses),)

    def encode(params: Params, state: ModelState, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = images.to_unit_interval(x)
        (z,), _ = nets.apply(config.encoder(1), params["encoder"], state["encoder"], x, train=False)
        return z, jnp.full_like(z, -jnp.inf)

    def decode(params: Params, state: ModelState, z: jax.Array) -> jax.Array:
        output, _ = nets.apply(config.decoder(), params["decoder"], state["decoder"], z, train=False)
        return images.from_unit_interval(_OUTPUTS[config.output](output))

    def evaluate(phase: Phase) -> Callable[..., dict[str, jax.Array]]:
        def terms(params: Params, state: ModelState, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
            output = decode(params, state, encode(params, state, batch["image"])[0])
            return {"loss": error(images.to_unit_interval(output), images.to_unit_interval(batch["image"]))}

        return terms

    return Model(
        init=init,
        rounds=rounds,
        optimizers=functools.partial(_autoencoding.optimizers, config),
        evaluate=evaluate,
        encode=encode,
        decode=decode,
        functions={"features": functools.partial(_autoencoding.features, config, 1)},
    )
