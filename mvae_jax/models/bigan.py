"""BiGAN (Donahue et al., 2017; ALI, Dumoulin et al., 2017): a discriminator of pairs of image and latent.

It tells (x, E(x)) from (G(z), z); encoder and generator together minimise the same error with the labels exchanged.
"""

from __future__ import annotations

import dataclasses

from mvae_jax.models import _bigan
from mvae_jax.models._bigan import phases
from mvae_jax.models._checks import check_choice
from mvae_jax.objective import Model

__all__ = ["Config", "build", "phases"]


@dataclasses.dataclass(frozen=True)
class Config(_bigan.Config):
    """BiGAN.

    Attributes:
        encoder: "deterministic", or "gaussian": the encoder gives mean and log variance of a Gaussian, as in ALI.
    """

    encoder: str = "deterministic"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "encoder", ("deterministic", "gaussian"))


def build(config: Config) -> Model:
    """Builds the model's pure functions; see `Model`."""
    return _bigan.build(config, joint=True, stochastic=config.encoder == "gaussian")
