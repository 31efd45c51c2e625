"""Discriminator of image patches."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mvae_jax.nets.blocks import BatchNorm, Conv, leaky_relu


class PatchDiscriminator(nn.Module):
    """One logit per overlapping patch.

    One [Conv4 stride 2, BN, LeakyReLU .2] per width, the first without BN, then Conv4 of stride 1 and padding 1 to
    one channel.

    Attributes:
        widths: channels of each stage; each halves the image.
        axis_name: mapped axis over which the batch is split; None if arrays are the whole batch.
        dtype: of the computation.

    Reference:
        Isola et al., 2017, arXiv:1611.07004 (PatchGAN); Kim, 2024, multimodal VAE (whose sigmoid belongs to the
        loss here).
    """

    widths: tuple[int, ...] = (64, 128, 256)
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Images [B, H, W, 3] in [-1, 1] to logits, float32 [B, H / 8 - 1, W / 8 - 1, 1] for three widths."""
        h = images
        for stage, width in enumerate(self.widths):
            h = Conv(width, kernel_size=4, stride=2, dtype=self.dtype)(h)
            h = leaky_relu(BatchNorm(self.axis_name, dtype=self.dtype)(h, train) if stage else h)
        return Conv(1, kernel_size=4, padding=((1, 1), (1, 1)), dtype=self.dtype)(h).astype(jnp.float32)
