"""Latent regressor: an ordinary GAN, and an encoder that regresses the latents of its images (Donahue et al., 2017)."""

from __future__ import annotations

import dataclasses

from mvae_jax.models import _bigan
from mvae_jax.models._bigan import phases
from mvae_jax.objective import Model

__all__ = ["Config", "build", "phases"]


@dataclasses.dataclass(frozen=True)
class Config(_bigan.Config):
    """The latent regressor."""


def build(config: Config) -> Model:
    """Builds the model's pure functions; see `Model`."""
    return _bigan.build(config, joint=False)
