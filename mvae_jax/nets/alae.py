"""Networks of the adversarial latent autoencoder: maps between latents, and its encoder and generator as MLPs.

Layers are drawn for equalised learning rates, see `optimizers.equalise_learning_rates`.
"""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mvae_jax.nets import keep_features
from mvae_jax.nets.blocks import Dense, leaky_relu


def equalised_normal(gain: float = math.sqrt(2.0)) -> jax.nn.initializers.Initializer:
    """N(0, gain^2 / fan-in) for kernels [..., C, O]."""
    return nn.initializers.variance_scaling(gain**2, "fan_in", "normal")


EqualisedDense = functools.partial(Dense, kernel_init=equalised_normal(), bias_init=nn.initializers.zeros)


def pixel_norm(z: jax.Array) -> jax.Array:
    """Divides vectors [..., D] by the root of their mean square, to which 1e-8 is added."""
    return z * jax.lax.rsqrt(jnp.square(z).mean(-1, keepdims=True) + 1e-8)


class Mapping(nn.Module):
    """F: draws z from N(0, I) to latents w. Pixel norm, then [Dense, LeakyReLU .2] per layer, the last one too.

    Attributes:
        features: D, of z, of w and of every layer.
        layers: number of layers.
        dtype: of the computation.

    Reference:
        Pidhorskyi et al., 2020, arXiv:2004.04467, section 3; Karras et al., 2019, arXiv:1812.04948, section 2.
    """

    features: int = 50
    layers: int = 6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array, train: bool = False) -> jax.Array:
        """Draws [B, D] to latents, float32 [B, D]; the same in training."""
        h = pixel_norm(z)
        for _ in range(self.layers):
            h = leaky_relu(EqualisedDense(self.features, dtype=self.dtype)(h))
        return h.astype(jnp.float32)


class LatentDiscriminator(nn.Module):
    """D: latents to one logit each, by dense layers. As published they have no activation, so D is affine (AL-03).

    The last layer has `outputs` units of which the middle one is the logit, as released for images with styles.

    Attributes:
        features: units of the hidden layers.
        layers: number of layers.
        activation: "none" as published, or "leaky_relu" between the layers.
        outputs: units of the last layer; all but one are idle.
        dtype: of the computation.

    Reference:
        Pidhorskyi et al., 2020, arXiv:2004.04467, section 3.
    """

    features: int = 50
    layers: int = 3
    activation: str = "none"
    outputs: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, w: jax.Array, train: bool = False) -> jax.Array:
        """Latents [B, D] to logits, float32 [B]; the same in training."""
        h = w
        for layer in range(self.layers):
            if layer and self.activation == "leaky_relu":
                h = leaky_relu(h)
            width = self.features if layer < self.layers - 1 else self.outputs
            h = EqualisedDense(width, dtype=self.dtype)(h)
        return h[:, self.outputs // 2].astype(jnp.float32)


class DenseEncoder(nn.Module):
    """E: images to latents by [Dense, LeakyReLU] layers, the last one too.

    Attributes:
        latent_size: D.
        widths: units of the hidden layers.
        slopes: negative slope after each layer, of which there is one more than widths.
        dtype: of the computation.
    """

    latent_size: int = 50
    widths: tuple[int, ...] = (1024, 1024)
    slopes: tuple[float, ...] = (0.2, 0.2, 0.01)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images [B, H, W, C] to latents, float32 [B, D]; the same in training."""
        *hidden, w = _stack(
            images.reshape(images.shape[0], -1), (*self.widths, self.latent_size), self.slopes, self.dtype
        )
        keep_features(self, hidden[-1])
        return w.astype(jnp.float32)


class DenseGenerator(nn.Module):
    """G: latents to images by [Dense, LeakyReLU] layers and a linear one.

    Attributes:
        shape: (H, W, C) of the images.
        widths: units of the hidden layers.
        slopes: negative slope after each of them.
        dtype: of the computation.
    """

    shape: tuple[int, int, int] = (28, 28, 1)
    widths: tuple[int, ...] = (1024, 1024)
    slopes: tuple[float, ...] = (0.01, 0.01)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, w: jax.Array, train: bool = False) -> jax.Array:
        """Latents [B, D] to images, float32 [B, H, W, C], without a bound; the same in training."""
        h = _stack(w, self.widths, self.slopes, self.dtype)[-1]
        return EqualisedDense(math.prod(self.shape), dtype=self.dtype)(h).reshape(-1, *self.shape).astype(jnp.float32)


def _stack(h: jax.Array, widths: tuple[int, ...], slopes: tuple[float, ...], dtype: DTypeLike) -> list[jax.Array]:
    activations = []
    for width, slope in zip(widths, slopes, strict=True):
        h = nn.leaky_relu(EqualisedDense(width, dtype=dtype)(h), slope)
        activations.append(h)
    return activations
