"""Encoder and decoder of attribute vectors, as in the multimodal VAE."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mvae_jax.nets.blocks import Dense, LayerNorm


class GaussianAttributeEncoder(nn.Module):
    """Attributes to the mean and log variance of a diagonal Gaussian.

    Dense, LayerNorm, ReLU, Dense(2 D) without activation, two linear heads.

    Attributes:
        latent_size: D.
        hidden: width of the hidden layer.
        dtype: of the computation.

    Reference:
        Kim, 2024, multimodal VAE, text encoder.
    """

    latent_size: int = 256
    hidden: int = 512
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, attributes: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Attributes [B, A] in {0, 1} to (mean, logvar), each float32 [B, D]; the same in training."""
        h = Dense(self.hidden, dtype=self.dtype)(attributes)
        h = nn.relu(LayerNorm(dtype=self.dtype)(h))
        h = Dense(2 * self.latent_size, dtype=self.dtype)(h)
        mean = Dense(self.latent_size, dtype=self.dtype, name="mean")(h)
        logvar = Dense(self.latent_size, dtype=self.dtype, name="logvar")(h)
        return mean.astype(jnp.float32), logvar.astype(jnp.float32)


class AttributeDecoder(nn.Module):
    """Latents to the logits of independent binary attributes: Dense, LayerNorm, ReLU, Dense.

    Attributes:
        attributes: A, the number of attributes.
        hidden: width of the hidden layer.
        dtype: of the computation.

    Reference:
        Kim, 2024, multimodal VAE, text decoder (whose sigmoid belongs to the loss here).
    """

    attributes: int = 10
    hidden: int = 512
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array, train: bool = False) -> jax.Array:
        """Latents [B, D] to logits, float32 [B, A]; the same in training."""
        h = Dense(self.hidden, dtype=self.dtype)(z)
        h = nn.relu(LayerNorm(dtype=self.dtype)(h))
        return Dense(self.attributes, dtype=self.dtype)(h).astype(jnp.float32)
