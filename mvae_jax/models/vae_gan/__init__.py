"""VAE/GAN (Larsen et al., 2016), the GAN, and the VAE with a learned similarity.

`build` and `phases` take the config of any of them. The mathematics is in `model`, the networks in `networks`.
"""

from __future__ import annotations

from mvae_jax.models.vae_gan.configs import AdversarialConfig, EncodingConfig, GANConfig, VAEDisConfig, VAEGANConfig
from mvae_jax.models.vae_gan.model import (
    adversarial_losses,
    build,
    discriminator_error,
    discriminator_terms,
    gates,
    phases,
    terms,
)
from mvae_jax.models.vae_gan.networks import Networks

__all__ = [
    "AdversarialConfig",
    "EncodingConfig",
    "GANConfig",
    "Networks",
    "VAEDisConfig",
    "VAEGANConfig",
    "adversarial_losses",
    "build",
    "discriminator_error",
    "discriminator_terms",
    "gates",
    "phases",
    "terms",
]
