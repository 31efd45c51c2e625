"""Adversarial latent autoencoders (Pidhorskyi et al., 2020): ALAE with MLPs, `mlp`, and StyleALAE, `style`.

Each has its Config, `build` and `phases`. `rounds` holds the adversarial losses and the `terms` that both share, and
`released` reads StyleALAE's published checkpoints.
"""

from __future__ import annotations

from mvae_jax.models.alae import mlp, released, rounds, style
from mvae_jax.models.alae.mlp import Config as ALAEConfig
from mvae_jax.models.alae.rounds import terms
from mvae_jax.models.alae.style import Config as StyleALAEConfig

__all__ = ["ALAEConfig", "StyleALAEConfig", "mlp", "released", "rounds", "style", "terms"]
