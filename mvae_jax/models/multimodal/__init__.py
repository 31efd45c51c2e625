"""Multimodal VAE of faces and attribute captions (Kim, 2024): two VAEs that share one latent space.

The terms of its objective are in `objective`, its networks in `networks`; `model` puts them together.
"""

from __future__ import annotations

from mvae_jax.models.multimodal.config import Config, PhaseConfig
from mvae_jax.models.multimodal.model import build, phases, terms
from mvae_jax.models.multimodal.networks import Networks
from mvae_jax.models.multimodal.objective import (
    attribute_agreement,
    attribute_error,
    image_terms,
    inconsistency,
    posterior_terms,
    shared,
    term_weights,
)

__all__ = [
    "Config",
    "Networks",
    "PhaseConfig",
    "attribute_agreement",
    "attribute_error",
    "build",
    "image_terms",
    "inconsistency",
    "phases",
    "posterior_terms",
    "shared",
    "term_weights",
    "terms",
]
