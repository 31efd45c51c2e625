"""Encoder, decoder and discriminator of VAE/GAN: 5x5 convolutions, batch norm and ReLU throughout."""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mvae_jax.nets import keep_features
from mvae_jax.nets.blocks import BatchNorm, Conv, ConvTranspose, Dense, fan_in_uniform

HEADS = ("mean", "logvar")  # names of the encoder's last layers


def _narrow_uniform(key: jax.Array, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
    """U(-s, s) with s = 1 / sqrt(3 fan_in), that is a standard deviation of 1 / (3 sqrt(fan_in))."""
    return fan_in_uniform(3 * math.prod(shape[:-1]))(key, shape, dtype)


def _narrow_uniform_transposed(
    key: jax.Array, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None
) -> jax.Array:
    """`_narrow_uniform` for a transposed convolution, whose fan-in was published as that of its adjoint: k k O."""
    return fan_in_uniform(3 * math.prod(shape) // shape[-2])(key, shape, dtype)


_zeros = nn.initializers.zeros
_conv = functools.partial(Conv, kernel_size=5, kernel_init=_narrow_uniform, bias_init=_zeros)
_conv_transpose = functools.partial(
    ConvTranspose, kernel_size=5, stride=2, use_bias=False, kernel_init=_narrow_uniform_transposed
)
_dense = functools.partial(Dense, kernel_init=_narrow_uniform, bias_init=_zeros)


class Encoder(nn.Module):
    """Images to one or more vectors: strided convolutions, a hidden layer, then a linear head for each.

    Attributes:
        latent_size: D, length of each vector.
        widths: channels of the convolutions, each of which halves the image.
        hidden: units of the dense layer in front of the heads.
        heads: 1 for one vector, 2 for a mean and a log variance.
        axis_name: mapped axis over which the batch is split; None if arrays are the whole batch.
        dtype: of the computation.

    Reference:
        Larsen et al., 2016, arXiv:1512.09300, section 4, in the released sizes.
    """

    latent_size: int = 128
    widths: tuple[int, ...] = (64, 128, 256)
    hidden: int = 1024
    heads: int = 2
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        """Images [B, S, S, C] to vectors, each float32 [B, D]."""
        h = images
        for width in self.widths:
            h = _conv(width, stride=2, use_bias=False, dtype=self.dtype)(h)
            h = nn.relu(_normalised(self, h, train))
        h = _dense(self.hidden, use_bias=False, dtype=self.dtype)(h.reshape(h.shape[0], -1))
        h = nn.relu(_normalised(self, h, train))
        keep_features(self, h)
        return tuple(
            _dense(self.latent_size, dtype=self.dtype, name=name)(h).astype(jnp.float32) for name in HEADS[: self.heads]
        )


class Decoder(nn.Module):
    """Latents to images: a dense layer to a grid of pixels, transposed convolutions, and a last convolution.

    Attributes:
        channels: C of the images.
        image_size: S, height and width of the images in pixels; a multiple of 2 for each of `widths`.
        widths: channels of the transposed convolutions, each of which doubles the grid.
        grid_width: channels of the first grid, of S / 2 ** len(widths) pixels in each direction.
        axis_name: mapped axis over which the batch is split; None if arrays are the whole batch.
        dtype: of the computation.

    Reference:
        Larsen et al., 2016, arXiv:1512.09300, section 4, in the released sizes.
    """

    channels: int = 3
    image_size: int = 64
    widths: tuple[int, ...] = (256, 128, 32)
    grid_width: int = 256
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array, train: bool) -> jax.Array:
        """Latents [B, D] to float32 [B, S, S, C], without a bound."""
        check_image_size(self.image_size, self.widths)
        grid = self.image_size // 2 ** len(self.widths)
        h = _dense(grid * grid * self.grid_width, use_bias=False, dtype=self.dtype)(z)
        # Each unit of the grid has statistics of its own: they are taken before the units become pixels.
        h = nn.relu(_normalised(self, h, train)).reshape(h.shape[0], grid, grid, self.grid_width)
        for width in self.widths:
            h = nn.relu(_normalised(self, _conv_transpose(width, dtype=self.dtype)(h), train))
        return _conv(self.channels, dtype=self.dtype)(h).astype(jnp.float32)


class Discriminator(nn.Module):
    """Images to a logit, positive for "real", and to the features in which VAE/GAN compares images.

    The features are what the last convolution puts out, in front of its batch norm: Dis_l of the paper.

    Attributes:
        widths: channels of the convolutions; all but the first halve the image.
        hidden: units of the dense layer in front of the logit.
        features_only: stop at the features and return them alone; the parameters of the layers behind them are
            neither made nor asked for.
        axis_name: mapped axis over which the batch is split; None if arrays are the whole batch.
        dtype: of the computation.

    Reference:
        Larsen et al., 2016, arXiv:1512.09300, sections 2.3 and 4, in the released sizes.
    """

    widths: tuple[int, ...] = (32, 128, 256, 256)
    hidden: int = 512
    features_only: bool = False
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array] | jax.Array:
        """Images [B, S, S, C] to logits [B] and features [B, S', S', C'], both float32."""
        first, *others = self.widths
        h = nn.relu(_conv(first, dtype=self.dtype)(images))
        for width in others[:-1]:
            h = _conv(width, stride=2, use_bias=False, dtype=self.dtype)(h)
            h = nn.relu(_normalised(self, h, train))
        h = _conv(others[-1], stride=2, use_bias=False, dtype=self.dtype)(h)
        features = h.astype(jnp.float32)
        if self.features_only:
            return features
        h = nn.relu(_normalised(self, h, train)).reshape(h.shape[0], -1)
        h = nn.relu(_normalised(self, _dense(self.hidden, use_bias=False, dtype=self.dtype)(h), train))
        return _dense(1, dtype=self.dtype)(h)[:, 0].astype(jnp.float32), features


def check_image_size(image_size: int, widths: tuple[int, ...]) -> None:
    """Refuses an image size that the decoder's widths cannot make.

    Raises:
        ValueError: `image_size` is not a multiple of 2 to the power of the number of widths.
    """
    factor = 2 ** len(widths)
    if image_size < 1 or image_size % factor:
        raise ValueError(
            f"image_size is {image_size}; expected a multiple of {factor} for the decoder's {len(widths)} widths, each "
            "of which doubles the image: change widths or image_size."
        )


def _normalised(net: Encoder | Decoder | Discriminator, h: jax.Array, train: bool) -> jax.Array:
    epsilon = 1e-6 if h.ndim == 4 else 1e-5
    return BatchNorm(net.axis_name, momentum=0.9, epsilon=epsilon, dtype=net.dtype)(h, train)
