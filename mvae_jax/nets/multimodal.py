"""Networks of the multimodal VAE: image encoder and decoder, attribute encoder and decoder, patch discriminator."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mvae_jax.nets.blocks import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    LayerNorm,
    ResidualBlock,
    ResidualDense,
    SelfAttention,
    icnr,
    leaky_relu,
)


class GaussianImageEncoder(nn.Module):
    """Images to the mean and log variance of a diagonal Gaussian.

    One [Conv4 stride 2, BN, LeakyReLU .2] per width, then two linear heads on all remaining pixels.

    Attributes:
        latent_size: D.
        widths: channels of each stage; each halves the image.
        coarse_size: the heads also see the image at this height and width, by means over blocks; 0 is the paper.
        initial_logvar: added to the log variances.
        axis_name: mapped axis over which the batch is split; None if arrays are the whole batch.
        dtype: of the computation.

    Reference:
        Kim, 2024, multimodal VAE, image encoder.
    """

    latent_size: int = 256
    widths: tuple[int, ...] = (64, 128, 256)
    coarse_size: int = 0
    initial_logvar: float = 0.0
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Images [B, H, W, 3] in [-1, 1] to (mean, logvar), each float32 [B, D]."""
        factor = 2 ** len(self.widths)
        if images.ndim != 4 or images.shape[1] % factor or images.shape[2] % factor:
            raise ValueError(f"images have shape {images.shape}, expected [B, H, W, C], H and W multiples of {factor}.")
        h = images
        for width in self.widths:
            h = Conv(width, kernel_size=4, stride=2, dtype=self.dtype)(h)
            h = leaky_relu(BatchNorm(self.axis_name, dtype=self.dtype)(h, train))
        h = h.reshape(h.shape[0], -1)
        if self.coarse_size:
            h = jnp.concatenate([h, _pooled(images, self.coarse_size).reshape(h.shape[0], -1).astype(h.dtype)], axis=1)
        mean = Dense(self.latent_size, dtype=self.dtype, name="mean")(h)
        logvar = Dense(self.latent_size, dtype=self.dtype, name="logvar")(h)
        return mean.astype(jnp.float32), logvar.astype(jnp.float32) + self.initial_logvar


def _pooled(images: jax.Array, size: int) -> jax.Array:
    """Means over blocks, [B, H, W, C] to [B, size, size, C]."""
    b, h, w, c = images.shape
    return images.reshape(b, size, h // size, size, w // size, c).mean((2, 4))


class AttentionImageDecoder(nn.Module):
    """Latents to images.

    Dense(hidden), a residual dense block, Dense to a small grid, self-attention over its pixels (with a residual,
    no norm), then one [ConvTranspose4 stride 2, BN, LeakyReLU .2, ResidualBlock] per width, Conv3, tanh. The
    number of stages is the same for every image size; the grid grows instead (4x4 for 64 pixels and four widths).

    Attributes:
        image_size: height and width of the images; a multiple of 2 ** len(widths).
        widths: channels of the grid and the first stage, then of each further stage.
        hidden: width of the dense layers.
        attention: use self-attention on the grid (MM-09).
        heads: attention heads; divides widths[0].
        coarse_size: a linear map of z to an image of this height and width, enlarged, is added before the tanh, so that
            colours and light need not pass through the stages; 0 is the paper.
        icnr: transposed convolutions start as upsampling and a convolution; the paper's from independent weights.
        axis_name: mapped axis over which the batch is split; None if arrays are the whole batch.
        dtype: of the computation.

    Reference:
        Kim, 2024, multimodal VAE, image decoder.
    """

    image_size: int = 64
    widths: tuple[int, ...] = (512, 256, 128, 64)
    hidden: int = 2048
    attention: bool = True
    heads: int = 8
    coarse_size: int = 0
    icnr: bool = False
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array, train: bool) -> jax.Array:
        """Latents [B, D] to images, float32 [B, image_size, image_size, 3] in [-1, 1]."""
        grid, remainder = divmod(self.image_size, 2 ** len(self.widths))
        if remainder or not grid:
            raise ValueError(
                f"image_size is {self.image_size}, expected a multiple of {2 ** len(self.widths)} "
                f"for {len(self.widths)} widths."
            )
        h = leaky_relu(Dense(self.hidden, dtype=self.dtype)(z))
        h = ResidualDense(dtype=self.dtype)(h)
        h = leaky_relu(Dense(grid * grid * self.widths[0], dtype=self.dtype)(h))
        h = h.reshape(-1, grid * grid, self.widths[0])
        if self.attention:
            h = h + SelfAttention(self.heads, dtype=self.dtype)(h)
        h = h.reshape(-1, grid, grid, self.widths[0])
        for width in self.widths:
            h = ConvTranspose(width, kernel_init=icnr if self.icnr else None, dtype=self.dtype)(h)
            h = BatchNorm(self.axis_name, dtype=self.dtype)(h, train)
            h = leaky_relu(h)
            h = ResidualBlock(self.axis_name, self.dtype)(h, train)
        y = Conv(3, dtype=self.dtype)(h)
        if self.coarse_size:
            # From zeros: what no latent dimension has learned yet draws nothing.
            small = Dense(3 * self.coarse_size**2, kernel_init=nn.initializers.zeros, dtype=self.dtype)(z)
            small = small.reshape(-1, self.coarse_size, self.coarse_size, 3)
            y = y + jax.image.resize(small, y.shape, "linear")
        return jnp.tanh(y.astype(jnp.float32))


class GaussianAttributeEncoder(nn.Module):
    """Attributes to the mean and log variance of a diagonal Gaussian.

    Dense, LayerNorm, ReLU, Dense(2 D) without activation, two linear heads.

    Attributes:
        latent_size: D.
        hidden: width of the hidden layer.
        initial_logvar: added to the log variances.
        dtype: of the computation.

    Reference:
        Kim, 2024, multimodal VAE, text encoder.
    """

    latent_size: int = 256
    hidden: int = 512
    initial_logvar: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, attributes: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Attributes [B, A] in {0, 1} to (mean, logvar), each float32 [B, D]; the same in training."""
        h = Dense(self.hidden, dtype=self.dtype)(attributes)
        h = nn.relu(LayerNorm(dtype=self.dtype)(h))
        h = Dense(2 * self.latent_size, dtype=self.dtype)(h)
        mean = Dense(self.latent_size, dtype=self.dtype, name="mean")(h)
        logvar = Dense(self.latent_size, dtype=self.dtype, name="logvar")(h)
        return mean.astype(jnp.float32), logvar.astype(jnp.float32) + self.initial_logvar


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
