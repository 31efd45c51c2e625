"""Encoders and decoders of single images; which of them a model takes is a field of its Config."""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mvae_jax.nets import keep_features
from mvae_jax.nets.blocks import BatchNorm, Conv, ConvTranspose, Dense

# The defaults of Keras, with which the published networks were built.
_glorot = nn.initializers.glorot_uniform()
_zeros = nn.initializers.zeros
_dense = functools.partial(Dense, kernel_init=_glorot, bias_init=_zeros)


class ConvolutionalEncoder(nn.Module):
    """Images to one or more vectors: strided convolutions down to a single pixel, then a linear head for each.

    One [Conv4 stride 2, BN, LeakyReLU .3] per width halves the image to 2x2, another convolution to 1x1.

    Attributes:
        latent_size: D, length of each vector.
        widths: channels of the stages; images have 2 ** (stages + 1) pixels in each direction.
        heads: 1 for one vector, 2 for a mean and a log variance.
        axis_name: mapped axis over which the batch is split; None if arrays are the whole batch.
        dtype: of the computation.

    Reference:
        Schik, overview of variational autoencoders, encoder.
    """

    latent_size: int = 32
    widths: tuple[int, ...] = (64, 128, 128, 256, 512)
    heads: int = 2
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        """Images [B, S, S, C] to vectors, each float32 [B, D]."""
        h = images
        conv = functools.partial(Conv, kernel_size=4, stride=2, use_bias=False, kernel_init=_glorot, dtype=self.dtype)
        for width in self.widths:
            h = _activated(self, conv(width)(h), train)
        h = conv(self.latent_size)(h).reshape(h.shape[0], -1)
        return _heads(self, h)


class ConvolutionalDecoder(nn.Module):
    """Latents to images: the encoder's stages in reverse, and a last 5x5 convolution.

    As published, the stage that has the image's channels is normalised and rectified as well (SC-04, SC-05).

    Attributes:
        channels: C of the images.
        widths: channels of the *encoder's* stages.
        axis_name: mapped axis over which the batch is split; None if arrays are the whole batch.
        dtype: of the computation.

    Reference:
        Schik, overview of variational autoencoders, decoder.
    """

    channels: int = 3
    widths: tuple[int, ...] = (64, 128, 128, 256, 512)
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array, train: bool) -> jax.Array:
        """Latents [B, D] to float32 [B, S, S, C], without a bound."""
        h = z[:, None, None, :]
        widths = (*self.widths[::-1], self.channels)
        for stage, width in enumerate(widths):
            h = ConvTranspose(
                width,
                kernel_size=4 if stage else 1,
                stride=2 if stage > 1 else 1,
                padding="SAME" if stage > 1 else "VALID",
                use_bias=stage == len(widths) - 2,  # only this one has a bias as published
                kernel_init=_glorot,
                bias_init=_zeros,
                dtype=self.dtype,
            )(h)
            h = _activated(self, h, train)
        h = Conv(self.channels, kernel_size=5, use_bias=False, kernel_init=_glorot, dtype=self.dtype)(h)
        return h.astype(jnp.float32)


class DenseEncoder(nn.Module):
    """Images to one or more vectors by dense layers with ReLU.

    Attributes:
        latent_size: D, length of each vector.
        widths: units of the hidden layers.
        heads: 1 or 2, as in `ConvolutionalEncoder`.
        dtype: of the computation.
    """

    latent_size: int = 32
    widths: tuple[int, ...] = (512, 256)
    heads: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Images [B, H, W, C] to vectors, each float32 [B, D]; the same in training."""
        h = images.reshape(images.shape[0], -1)
        for width in self.widths:
            h = nn.relu(_dense(width, dtype=self.dtype)(h))
        return _heads(self, h)


class DenseDecoder(nn.Module):
    """Latents to images by dense layers with ReLU.

    Attributes:
        shape: (H, W, C) of the images, or that of other values.
        widths: units of the *encoder's* hidden layers.
        dtype: of the computation.
    """

    shape: tuple[int, ...] = (64, 64, 3)
    widths: tuple[int, ...] = (512, 256)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array, train: bool = False) -> jax.Array:
        """Latents [B, D] to float32 [B, H, W, C], without a bound; the same in training."""
        h = z
        for width in self.widths[::-1]:
            h = nn.relu(_dense(width, dtype=self.dtype)(h))
        return _dense(math.prod(self.shape), dtype=self.dtype)(h).reshape(-1, *self.shape).astype(jnp.float32)


def _heads(net: ConvolutionalEncoder | DenseEncoder, h: jax.Array) -> tuple[jax.Array, ...]:
    keep_features(net, h)
    dense = functools.partial(_dense, net.latent_size, dtype=net.dtype)
    return tuple(dense(name=name)(h).astype(jnp.float32) for name in ("mean", "logvar")[: net.heads])


def _activated(net: ConvolutionalEncoder | ConvolutionalDecoder, h: jax.Array, train: bool) -> jax.Array:
    h = BatchNorm(net.axis_name, momentum=0.99, epsilon=1e-3, dtype=net.dtype)(h, train)
    return nn.leaky_relu(h, 0.3)
