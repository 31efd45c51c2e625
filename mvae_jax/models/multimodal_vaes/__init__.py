"""Multimodal VAEs of any number of modalities, of which any may be missing in any example.

MVAE (Wu and Goodman, 2018), MMVAE (Shi et al., 2019), MoPoE-VAE (Sutter et al., 2021), MVTCAE (Hwang et al., 2021),
MMVAE+ (Palumbo et al., 2023), JMVAE (Suzuki et al., 2016) and CADA-VAE (Schönfeld et al., 2019) have the same encoders
and decoders, and differ in the posterior of several modalities and in their objective: `objectives` has these as pure
functions.
"""

from __future__ import annotations

from mvae_jax.models.multimodal_vaes import objectives
from mvae_jax.models.multimodal_vaes.config import (
    CADAVAEConfig,
    Config,
    JMVAEConfig,
    MMVAEConfig,
    MMVAEPlusConfig,
    MoPoEConfig,
    MVAEConfig,
    MVTCAEConfig,
)
from mvae_jax.models.multimodal_vaes.modality import Modality
from mvae_jax.models.multimodal_vaes.model import build, phases, terms
from mvae_jax.models.multimodal_vaes.networks import check_data

__all__ = [
    "CADAVAEConfig",
    "Config",
    "JMVAEConfig",
    "MMVAEConfig",
    "MMVAEPlusConfig",
    "MVAEConfig",
    "MVTCAEConfig",
    "MoPoEConfig",
    "Modality",
    "build",
    "check_data",
    "objectives",
    "phases",
    "terms",
]
