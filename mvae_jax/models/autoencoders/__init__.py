"""Autoencoders of single images: the plain one, VAE, beta-VAE and beta-TCVAE.

`build` and `phases` take the config of any of them. The mathematics is in `deterministic` and in `variational`, whose
`terms`, `divergence`, `decomposition` and `log_likelihood` are also here; `networks` holds what all four share.
"""

from __future__ import annotations

from mvae_jax.models.autoencoders import deterministic, networks, variational
from mvae_jax.models.autoencoders.deterministic import AutoencoderConfig
from mvae_jax.models.autoencoders.networks import NetworksConfig
from mvae_jax.models.autoencoders.variational import (
    BetaTCVAEConfig,
    BetaVAEConfig,
    VAEConfig,
    VariationalConfig,
    decomposition,
    divergence,
    log_likelihood,
    terms,
)
from mvae_jax.objective import Model, Phase

__all__ = [
    "AutoencoderConfig",
    "BetaTCVAEConfig",
    "BetaVAEConfig",
    "NetworksConfig",
    "VAEConfig",
    "VariationalConfig",
    "build",
    "decomposition",
    "deterministic",
    "divergence",
    "log_likelihood",
    "networks",
    "phases",
    "terms",
    "variational",
]


def phases(config: AutoencoderConfig | VariationalConfig, steps_per_epoch: int) -> tuple[Phase, ...]:
    """The single phase, "training"."""
    if isinstance(config, VariationalConfig):
        return variational.phases(config, steps_per_epoch)
    return deterministic.phases(config, steps_per_epoch)


def build(config: AutoencoderConfig | VariationalConfig) -> Model:
    """Builds the model's pure functions; see `deterministic.build` and `variational.build`."""
    if isinstance(config, VariationalConfig):
        return variational.build(config)
    return deterministic.build(config)
