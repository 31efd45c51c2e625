"""Encoder, decoder and prior of the attribute CVAE, all of which see the attributes."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mvae_jax.cpu.convolution import convolution
from mvae_jax.nets.blocks import Affine, Conv, ConvTranspose, Dense, max_pool

_kaiming = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
_zeros = nn.initializers.zeros
_conv = functools.partial(Conv, kernel_init=_kaiming, bias_init=_zeros)
# PyTorch, in which the paper's model was written, reads this fan-in off the output channels.
_kaiming_transposed = nn.initializers.variance_scaling(2.0, "fan_in", "normal", in_axis=-1, out_axis=-2)
_conv_transpose = functools.partial(ConvTranspose, kernel_init=_kaiming_transposed, bias_init=_zeros)
_dense = functools.partial(Dense, kernel_init=_kaiming, bias_init=_zeros)


class _AttributeConv(Affine):
    """`Conv` of images beside whose colours the attributes stand, the same at every pixel.

    The picture of the attributes, [B, H, W, A], is never made: a tap of the kernel adds the same number at every pixel
    where it meets the image, so that their part of the sum is one small product, spread over the pixels. At 244 px
    with 512 attributes the layer takes 24 rather than 928 ms per image, there and back, whatever A is.
    """

    kernel_size: int = 3

    @nn.compact
    def __call__(self, images: jax.Array, attributes: jax.Array, multiple: int) -> jax.Array:
        """[B, H, W, C] and [B, A] to [B, H', W', O]: zeros after both fill up the sides to multiples of `multiple`."""
        size, (channels, attribute_count) = images.shape[1:3], (images.shape[3], attributes.shape[1])
        rows, columns = (-side % multiple for side in size)
        x = jnp.pad(images, ((0, 0), (0, rows), (0, columns), (0, 0))).astype(self.dtype)
        fan_in = self.kernel_size**2 * (channels + attribute_count)
        kernel = self._kernel((*(self.kernel_size,) * 2, channels + attribute_count, self.features), fan_in)
        taps = jnp.einsum("ba,uvao->buvo", attributes.astype(self.dtype), kernel[:, :, channels:])
        meets = [self._meets(side, padded) for side, padded in zip(size, x.shape[1:3], strict=True)]
        spread = jnp.einsum("vj,bivo->bijo", meets[1], jnp.einsum("ui,buvo->bivo", meets[0], taps))
        return self._add_bias(convolution(x, kernel[:, :, :channels]) + spread, fan_in)

    def _meets(self, side: int, padded: int) -> jax.Array:
        """[k, padded]: 1 where a tap of the kernel, centred at a pixel, lies among the first `side` pixels."""
        pixel = np.arange(padded) + np.arange(self.kernel_size)[:, None] - (self.kernel_size - 1) // 2
        return jnp.asarray((pixel >= 0) & (pixel < side), self.dtype)


_attribute_conv = functools.partial(_AttributeConv, kernel_init=_kaiming, bias_init=_zeros)


class ConditionalEncoder(nn.Module):
    """Images and attributes to the mean and log variance of a diagonal Gaussian.

    The attributes are repeated at every pixel and stand beside the colours. One [Conv3, ReLU, max pooling] per width,
    then two linear heads on all remaining pixels. Images whose sides these halvings do not divide are padded with
    zeros at the bottom and on the right (CV-02).

    Attributes:
        latent_size: D.
        widths: channels of each stage; each halves the image.
        dtype: of the computation.

    Reference:
        Debbagh, 2023, arXiv:2305.00980, section 4.1.
    """

    latent_size: int = 128
    widths: tuple[int, ...] = (32, 64)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, attributes: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Images [B, H, W, C] and attributes [B, A] to (mean, logvar), float32 [B, D]; the same in training."""
        h = images
        for stage, channels in enumerate(self.widths):
            name = f"Conv_{stage}"
            if stage:
                h = _conv(channels, dtype=self.dtype, name=name)(h)
            else:
                multiple = 2 ** len(self.widths)
                h = _attribute_conv(channels, dtype=self.dtype, name=name)(h, attributes, multiple)
            h = max_pool(nn.relu(h))
        h = h.reshape(h.shape[0], -1)
        mean, logvar = (_dense(self.latent_size, dtype=self.dtype, name=name)(h) for name in ("mean", "logvar"))
        return mean.astype(jnp.float32), logvar.astype(jnp.float32)


class ConditionalDecoder(nn.Module):
    """Latents and attributes to images: Dense, then one ConvTranspose4 stride 2 per width, with ReLU in between.

    What the padding of the encoder added is cut off again (CV-02).

    Attributes:
        shape: (H, W, C) of the images.
        widths: channels of the *encoder's* stages.
        dtype: of the computation.

    Reference:
        Debbagh, 2023, arXiv:2305.00980, section 4.1.
    """

    shape: tuple[int, int, int] = (218, 178, 3)
    widths: tuple[int, ...] = (32, 64)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array, attributes: jax.Array, train: bool = False) -> jax.Array:
        """Latents [B, D] and attributes [B, A] to the logits of pixels in [0, 1], float32 [B, H, W, C]."""
        height, width, channels = self.shape
        rows, columns = (-(-side // 2 ** len(self.widths)) for side in (height, width))
        h = _dense(rows * columns * self.widths[-1], dtype=self.dtype)(jnp.concatenate([z, attributes], axis=-1))
        h = h.reshape(z.shape[0], rows, columns, self.widths[-1])
        for stage, stage_channels in enumerate((*self.widths[-2::-1], channels)):
            h = _conv_transpose(stage_channels, dtype=self.dtype)(nn.relu(h) if stage else h)
        return h[:, :height, :width].astype(jnp.float32)


class ConditionalPrior(nn.Module):
    """Attributes to the mean and log variance of p(z | attributes): Dense, ReLU, two linear heads.

    Attributes:
        latent_size: D.
        hidden: units of the hidden layer.
        dtype: of the computation.

    Reference:
        Debbagh, 2023, arXiv:2305.00980, equation 5 (whose networks are not said).
    """

    latent_size: int = 128
    hidden: int = 256
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, attributes: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Attributes [B, A] to (mean, logvar), float32 [B, D]; the same in training."""
        h = nn.relu(_dense(self.hidden, dtype=self.dtype)(attributes))
        mean, logvar = (
            Dense(self.latent_size, kernel_init=_zeros, bias_init=_zeros, dtype=self.dtype, name=name)(h)
            for name in ("mean", "logvar")
        )
        return mean.astype(jnp.float32), logvar.astype(jnp.float32)
