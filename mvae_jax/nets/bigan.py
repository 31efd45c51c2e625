"""Networks of BiGAN on images without structure, and of the models that are compared with it.

As released, layers have no bias and norms neither gain nor bias, and the epsilon of the norms is 1e-8 (AL-12).
"""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mvae_jax.nets import keep_features
from mvae_jax.nets.blocks import BatchNorm, Dense, leaky_relu

_dense = functools.partial(Dense, use_bias=False, kernel_init=nn.initializers.normal(0.02))
_norm = functools.partial(BatchNorm, momentum=0.99, affine=False, centred=True)
EPSILON = 1e-8  # of the norms


class Generator(nn.Module):
    """Latents to images: [Dense, BN, ReLU] per width, then Dense, whose sigmoid belongs to the model.

    The latent enters the second and further hidden layers too, by a linear map that is added to their units.

    Attributes:
        shape: (H, W, C) of the images.
        widths: units of the hidden layers.
        axis_name: mapped axis over which the batch is split; None if arrays are the whole batch.
        dtype: of the computation.
        epsilon: added to the variances of the norms.

    Reference:
        Donahue et al., 2017, arXiv:1605.09782, section 4.2.
    """

    shape: tuple[int, int, int] = (28, 28, 1)
    widths: tuple[int, ...] = (1024, 1024)
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, z: jax.Array, train: bool) -> jax.Array:
        """Latents [B, D] to logits of pixels in [0, 1], float32 [B, H, W, C]."""
        h = z
        for layer, width in enumerate(self.widths):
            units = _dense(width, dtype=self.dtype)(h)
            if layer:
                units = units + _dense(width, dtype=self.dtype)(z)
            h = nn.relu(_norm(self.axis_name, epsilon=self.epsilon, dtype=self.dtype)(units, train))
        return _dense(math.prod(self.shape), dtype=self.dtype)(h).reshape(-1, *self.shape).astype(jnp.float32)


class Encoder(nn.Module):
    """Images to one or more vectors: [Dense, BN, LeakyReLU .2] per width, the first without BN, then a Dense for each.

    Attributes:
        latent_size: D, length of each vector.
        widths: units of the hidden layers.
        heads: 1 for one vector, 2 for a mean and a log variance.
        zero_heads: the last layers start at 0, as those of latent regressors do.
        axis_name: mapped axis over which the batch is split; None if arrays are the whole batch.
        dtype: of the computation.
        epsilon: added to the variances of the norms.

    Reference:
        Donahue et al., 2017, arXiv:1605.09782, section 4.2.
    """

    latent_size: int = 50
    widths: tuple[int, ...] = (1024, 1024)
    heads: int = 1
    zero_heads: bool = False
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        """Images [B, H, W, C] in [0, 1] to vectors, each float32 [B, D]."""
        h = images.reshape(images.shape[0], -1)
        for layer, width in enumerate(self.widths):
            h = _hidden(self, layer, _dense(width, dtype=self.dtype)(h), train)
        keep_features(self, h)
        dense = functools.partial(_dense, self.latent_size, dtype=self.dtype)
        if self.zero_heads:
            dense = functools.partial(dense, kernel_init=nn.initializers.zeros)
        return tuple(dense(name=name)(h).astype(jnp.float32) for name in ("mean", "logvar")[: self.heads])


class Discriminator(nn.Module):
    """Images, or pairs of image and latent, to one logit each: the encoder's layers, then Dense to one unit, from 0 on.

    A latent enters the second and further hidden layers by a linear map that is added to their units.

    Attributes:
        widths: units of the hidden layers.
        axis_name: mapped axis over which the batch is split; None if arrays are the whole batch.
        dtype: of the computation.
        epsilon: added to the variances of the norms.

    Reference:
        Donahue et al., 2017, arXiv:1605.09782, section 4.2.
    """

    widths: tuple[int, ...] = (1024, 1024)
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, images: jax.Array, z: jax.Array | None = None, *, train: bool) -> jax.Array:
        """Images [B, H, W, C] in [0, 1] and latents [B, D] to logits, float32 [B]."""
        h = images.reshape(images.shape[0], -1)
        for layer, width in enumerate(self.widths):
            h = _dense(width, dtype=self.dtype)(h)
            if layer and z is not None:
                h = h + _dense(width, dtype=self.dtype)(z)
            h = _hidden(self, layer, h, train)
        return _dense(1, kernel_init=nn.initializers.zeros, dtype=self.dtype)(h)[:, 0].astype(jnp.float32)


def _hidden(net: Encoder | Discriminator, layer: int, h: jax.Array, train: bool) -> jax.Array:
    return leaky_relu(_norm(net.axis_name, epsilon=net.epsilon, dtype=net.dtype)(h, train) if layer else h)
