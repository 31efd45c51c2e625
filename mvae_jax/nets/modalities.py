"""Encoders and decoders of the multimodal VAEs' modalities, without batch norm: examples whose image is missing would
count in its statistics.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mvae_jax.nets import keep_features
from mvae_jax.nets.autoencoders import DenseEncoder
from mvae_jax.nets.blocks import Conv, ConvTranspose, Dense


class StridedEncoder(nn.Module):
    """Images to one or more vectors: one [Conv4 stride 2, ReLU] per width, then a linear head for each.

    Attributes:
        latent_size: D, length of each vector.
        widths: channels of the convolutions; each halves the image.
        heads: 1 for one vector, 2 for a mean and a log variance.
        dtype: of the computation.

    Reference:
        Sutter et al., 2021, arXiv:2105.02470, whose code has three such stages, with 3x3 kernels, for PolyMNIST.
    """

    latent_size: int = 64
    widths: tuple[int, ...] = (32, 64, 128)
    heads: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Images [B, H, W, C] to vectors, each float32 [B, D]; the same in training."""
        h = images
        for width in self.widths:
            h = nn.relu(Conv(width, kernel_size=4, stride=2, dtype=self.dtype)(h))
        h = h.reshape(h.shape[0], -1)
        keep_features(self, h)
        return tuple(
            Dense(self.latent_size, dtype=self.dtype, name=name)(h).astype(jnp.float32)
            for name in ("mean", "logvar")[: self.heads]
        )


class StridedDecoder(nn.Module):
    """Latents to images: Dense, ReLU, then one ConvTranspose4 stride 2 per width, with ReLU in between.

    What the stages make beyond the image's size, where that is no multiple of 2 per stage, is cut off.

    Attributes:
        shape: (H, W, C) of the images.
        widths: channels of the *encoder's* convolutions.
        dtype: of the computation.

    Reference:
        Sutter et al., 2021, arXiv:2105.02470, likewise.
    """

    shape: tuple[int, ...] = (64, 64, 3)
    widths: tuple[int, ...] = (32, 64, 128)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array, train: bool = False) -> jax.Array:
        """Latents [B, D] to float32 [B, H, W, C], without a bound; the same in training."""
        height, width, channels = self.shape
        rows, columns = (-(-side // 2 ** len(self.widths)) for side in (height, width))
        h = nn.relu(Dense(rows * columns * self.widths[-1], dtype=self.dtype)(z))
        h = h.reshape(-1, rows, columns, self.widths[-1])
        for stage, stage_width in enumerate((*self.widths[-2::-1], channels)):
            h = ConvTranspose(stage_width, dtype=self.dtype)(nn.relu(h) if stage else h)
        return h[:, :height, :width].astype(jnp.float32)


class JointEncoder(nn.Module):
    """All modalities to one posterior: an encoder for each, whose vectors stand side by side, then dense layers.

    The vector of what is missing is zero, and the dense layers are told what is there.

    Attributes:
        encoders: network of each modality, to one vector.
        latent_size: D.
        widths: units of the dense layers.
        dtype: of the computation.

    Reference:
        Suzuki et al., 2016, arXiv:1611.01891.
    """

    encoders: tuple[nn.Module, ...]
    latent_size: int = 64
    widths: tuple[int, ...] = (512, 512)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, values: Sequence[jax.Array], present: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Values, each [B, ...], and present, [B, M] in {0, 1}, to (mean, logvar), float32 [B, D]."""
        parts = [encoder(value)[0] for encoder, value in zip(self.encoders, values, strict=True)]
        parts = [jnp.where(present[:, m, None] != 0, part, 0.0) for m, part in enumerate(parts)]
        joined = jnp.concatenate([*parts, present], axis=1)
        return DenseEncoder(self.latent_size, self.widths, dtype=self.dtype, name="dense")(joined)
