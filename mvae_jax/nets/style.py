"""Generator and encoder of StyleALAE, resolution by resolution.

A generator block doubles its input and is modulated by two latents; an encoder block reads two latents off the
statistics of its input and halves it. `Generator` and `Encoder` run blocks up to a resolution, and blend the newest one
in. Layers are drawn for equalised learning rates, see `optimizers.equalise_learning_rates` and `GENERATOR_GAINS`.

Reference:
    Pidhorskyi et al., 2020, arXiv:2004.04467, section 4; Karras et al., 2019, arXiv:1812.04948.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mvae_jax import nets
from mvae_jax.cpu.convolution import convolution, transposed_convolution
from mvae_jax.nets.alae import EqualisedDense, equalised_normal
from mvae_jax.nets.blocks import leaky_relu

GENERATOR_GAINS = {"style": 1.0, "to_rgb": 0.03}  # by the beginning of a layer's name; all others have sqrt(2)
FUSED_FROM = 128  # pixels of the larger image; below, two small operations are cheaper than a larger kernel


# --- resampling ------------------------------------------------------------------------------------------------------


def upsample(x: jax.Array) -> jax.Array:
    """Every pixel four times, [B, H, W, C] to [B, 2 H, 2 W, C]."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def downsample(x: jax.Array) -> jax.Array:
    """Means of 2x2 pixels, [B, H, W, C] to [B, H / 2, W / 2, C]."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def blur(x: jax.Array) -> jax.Array:
    """Convolution of each channel with [1, 2, 1] x [1, 2, 1] / 16, zeros outside, [B, H, W, C]."""
    rows = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))  # the kernel is a product: rows first, then columns
    x = (rows[:, :-2] + 2.0 * rows[:, 1:-1] + rows[:, 2:]) / 4.0
    columns = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    return (columns[:, :, :-2] + 2.0 * columns[:, :, 1:-1] + columns[:, :, 2:]) / 4.0


def convolved_up(x: jax.Array, kernel: jax.Array, *, fused: bool) -> jax.Array:
    """`upsample`, then a 3x3 convolution; fused, one transposed 4x4 convolution with stride 2, which is the same."""
    if not fused:
        return convolution(upsample(x), kernel)
    # A pixel at i of the small image reaches pixel 2 i + b - 1 of the large one through taps 2 - b and 3 - b.
    return transposed_convolution(x, _overlapping(kernel[::-1, ::-1]), stride=2)


def convolved_down(x: jax.Array, kernel: jax.Array, *, fused: bool) -> jax.Array:
    """A 3x3 convolution, then `downsample`; fused, one 4x4 convolution with stride 2, which is the same."""
    if not fused:
        return downsample(convolution(x, kernel))
    return convolution(x, _overlapping(kernel) / 4.0, stride=2)


def _overlapping(kernel: jax.Array) -> jax.Array:
    """The sum of the four copies of a 3x3 kernel in a 4x4 one."""
    # Pixels of a 2x2 block are equal, or their mean is taken: their four kernels, a pixel apart, act as one.
    return sum(jnp.pad(kernel, ((top, 1 - top), (left, 1 - left), (0, 0), (0, 0))) for top in (0, 1) for left in (0, 1))  # type: ignore[return-value]


# --- layers ----------------------------------------------------------------------------------------------------------


class EqualisedConv(nn.Module):
    """Convolution without bias, kernel [k, k, C, O], drawn for equalised learning rates.

    Attributes:
        features: O.
        kernel_size: k.
        resampling: "up" doubles the images first, "down" halves them afterwards, "" does neither.
        gain: of its draw.
        dtype: of the computation.
    """

    features: int
    kernel_size: int = 3
    resampling: str = ""
    gain: float = math.sqrt(2.0)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] to [B, H', W', O]."""
        k = self.kernel_size
        kernel = self.param("kernel", equalised_normal(self.gain), (k, k, x.shape[-1], self.features))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.resampling == "up":
            return convolved_up(x, kernel, fused=2 * x.shape[1] >= FUSED_FROM)
        if self.resampling == "down":
            return convolved_down(x, kernel, fused=x.shape[1] >= FUSED_FROM)
        return convolution(x, kernel)


class Noise(NamedTuple):
    """Noise that is added to every layer of the generator before its bias; by default none.

    Attributes:
        keys: draw one number per pixel, which a learned weight per channel multiplies: each image by a key of its own,
            [B], or all images alike, [1]. The keys serve nothing else.
        bump: without keys, add a fixed function of the value itself, which the released code has in place of no noise
            (AL-09).
    """

    keys: jax.Array | None = None
    bump: bool = False

    def maps(self, blocks: int) -> Sequence[tuple[jax.Array, jax.Array] | None]:
        """The numbers of both layers of each block, [N, S, S, 1] each; None for each without keys.

        They are drawn at once, in the order of the blocks: a draw for each layer would take a quarter of the time in
        which a training step compiles.
        """
        if self.keys is None:
            return [None] * blocks
        sizes = [4 * 2**block for block in range(blocks)]
        count = sum(2 * size * size for size in sizes)
        numbers, maps = jax.vmap(lambda key: jax.random.normal(key, (count,)))(self.keys), []
        for size in sizes:
            of_block, numbers = numbers[:, : 2 * size * size], numbers[:, 2 * size * size :]
            first, second = jnp.split(of_block.reshape(-1, 2 * size, size, 1), 2, axis=1)
            maps.append((first, second))
        return maps


NO_NOISE = Noise()


def _rectified(x: jax.Array, bias: jax.Array) -> jax.Array:
    """LeakyReLU of x + bias, float32: the gradient of a bias is a sum over all pixels, which bfloat16 would stop."""
    return leaky_relu(x.astype(jnp.float32) + bias[None, None, None])


def normalised(x: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """Instance norm of images [B, H, W, C], and mean and deviation of each channel, [B, 2 C]; all float32.

    With epsilon inside the root: that of a flat image would have no gradient (AL-B1). And of differences to one pixel:
    in a flat channel, as a new generator's constant makes it, rounding would be divided by that root.
    """
    x = x.astype(jnp.float32)  # sums over all pixels
    pixel = jax.lax.stop_gradient(x[:, :1, :1])
    offset = (x - pixel).mean((1, 2), keepdims=True)
    centred = (x - pixel) - offset
    deviation = jnp.sqrt(jnp.square(centred).mean((1, 2), keepdims=True) + epsilon)
    return centred / deviation, jnp.concatenate([pixel + offset, deviation], 3)[:, 0, 0]


# --- blocks ----------------------------------------------------------------------------------------------------------


class GeneratorBlock(nn.Module):
    """One resolution of the generator: twice [noise, bias, LeakyReLU .2, instance norm, style].

    Before it the input is doubled, convolved and blurred, or, in the first block, a learned constant; in between there
    is a convolution.

    Attributes:
        channels: C of the output.
        block: number of the block; the output has S = 4 * 2 ** block pixels in each direction.
        dtype: of the computation.
        bump: see `Noise`.
    """

    channels: int
    block: int
    dtype: DTypeLike = jnp.float32
    bump: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array | None,
        styles: Sequence[jax.Array],
        noise: Sequence[jax.Array] | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Images [B, S / 2, S / 2, C'], None for the first block, and two latents [B, D] to [B, S, S, C].

        The noise of both layers, if any, is [B or 1, S, S, 1] each.
        """
        if x is None:
            constant = self.param("constant", nn.initializers.ones, (4, 4, self.channels))
            h = jnp.broadcast_to(constant, (styles[0].shape[0], *constant.shape)).astype(self.dtype)
        else:
            h = blur(EqualisedConv(self.channels, resampling="up", dtype=self.dtype, name="conv_1")(x))
        for layer in (1, 2):
            if layer == 2:
                h = EqualisedConv(self.channels, dtype=self.dtype, name="conv_2")(h)
            # The noise's weights are drawn with or without noise, so that parameters fit either.
            weight = self.param(f"noise_{layer}", nn.initializers.zeros, (self.channels,))
            bias = self.param(f"bias_{layer}", nn.initializers.zeros, (self.channels,))
            if noise is not None:
                h = h + (weight[None, None, None] * noise[layer - 1]).astype(h.dtype)
            elif self.bump:
                s = math.sqrt(self.block + 1)
                h = h + 0.8 * s / math.sqrt(2 * math.pi) * jnp.exp(-jnp.square(h) / (2 * s * s))
            h, _ = normalised(_rectified(h, bias), 1e-8)
            # The latent's linear map gives each channel a deviation, around 1 at first, and a mean.
            style = EqualisedDense(
                2 * self.channels, kernel_init=equalised_normal(1.0), dtype=self.dtype, name=f"style_{layer}"
            )(styles[layer - 1])
            scale, shift = jnp.split(style.astype(jnp.float32)[:, None, None], 2, axis=3)
            h = (h * (scale + 1.0) + shift).astype(self.dtype)
        return h


class ToRGB(nn.Module):
    """Features to colours, without a bound.

    Attributes:
        channels: of the images.
        dtype: of the computation.
    """

    channels: int = 3
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[B, S, S, C] to float32 [B, S, S, channels]."""
        y = EqualisedConv(self.channels, 1, gain=GENERATOR_GAINS["to_rgb"], dtype=self.dtype, name="to_rgb")(x)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        return y.astype(jnp.float32) + bias[None, None, None]


class FromRGB(nn.Module):
    """Colours to features; as released, the rectifier stands twice, so that its slope is .04.

    Attributes:
        channels: C of the features.
        dtype: of the computation.
    """

    channels: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """[B, S, S, channels] to [B, S, S, C]."""
        y = EqualisedConv(self.channels, 1, dtype=self.dtype, name="from_rgb")(images)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        return leaky_relu(_rectified(y, bias)).astype(self.dtype)


class EncoderBlock(nn.Module):
    """One resolution of the encoder: twice [convolution, bias, LeakyReLU .2, instance norm], the second one halves.

    What instance norm takes away, mean and deviation of each channel, becomes a latent by a linear map.

    Attributes:
        channels: C' of the output.
        latent_size: D.
        dtype: of the computation.
    """

    channels: int
    latent_size: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Images [B, S, S, C] to [B, S / 2, S / 2, C'] and the sum of both latents, float32 [B, D]."""
        h, latent = x, jnp.zeros((x.shape[0], self.latent_size))
        for layer, (width, resampling) in enumerate(((x.shape[-1], ""), (self.channels, "down")), start=1):
            h = blur(h) if resampling else h  # before pixels are dropped: against aliasing
            h = EqualisedConv(width, resampling=resampling, dtype=self.dtype, name=f"conv_{layer}")(h)
            bias = self.param(f"bias_{layer}", nn.initializers.zeros, (width,))
            h, statistics = normalised(_rectified(h, bias), 1e-5)
            latent += EqualisedDense(self.latent_size, dtype=self.dtype, name=f"style_{layer}")(statistics)
            h = h.astype(self.dtype)
        return h, latent


# --- networks --------------------------------------------------------------------------------------------------------


def widths(levels: int, first: int, most: int) -> tuple[int, ...]:
    """Channels of each resolution from 4 pixels on: `first` at the largest, doubled with each halving up to `most`."""
    return tuple(min(most, first * 2 ** (levels - 1 - level)) for level in range(levels))


class Generator(NamedTuple):
    """G: latents to images, block by block; parameters are {"block": ..., "to_rgb": ...} of each resolution.

    Attributes:
        widths: channels of each resolution, see `widths`.
        channels: of the images.
        dtype: of the computation.
        recomputed_from: blocks of images of at least so many pixels keep no activations for a backward pass, which
            computes them again; 0 for none.
    """

    widths: tuple[int, ...]
    channels: int = 3
    dtype: DTypeLike = jnp.float32
    recomputed_from: int = 0

    def init(self, key: jax.Array, latent_size: int) -> list[dict[str, Any]]:
        """Draws the parameters of all resolutions."""
        styles, params = (jnp.zeros((1, latent_size)),) * 2, []
        for block, width in enumerate(self.widths):
            keys = jax.random.split(jax.random.fold_in(key, block))
            # Parameters do not depend on the image's size, so the smallest one serves for all resolutions.
            x = jnp.zeros((1, 4, 4, self.widths[block - 1])) if block else None
            net, to_rgb = GeneratorBlock(width, block, self.dtype), ToRGB(self.channels, self.dtype)
            params.append(
                {
                    "block": nets.init(net, keys[0], x, styles)[0],
                    "to_rgb": nets.init(to_rgb, keys[1], jnp.zeros((1, 4, 4, width)))[0],
                }
            )
        return params

    def __call__(
        self,
        params: Sequence[Any],
        w: jax.Array,
        noise: Noise = NO_NOISE,
        blend: jax.Array | float = 1.0,
    ) -> jax.Array:
        """Images of as many resolutions as there are parameters.

        Args:
            params: of each resolution, up to the one asked for.
            w: latents, [B, 2 n, D] for n resolutions.
            noise: what is added to each layer.
            blend: 1 for the newest resolution, 0 for the one before it, up-sampled.

        Returns:
            Images, float32 [B, S, S, channels], S = 4 * 2 ** (n - 1), without a bound.
        """
        h, older = None, None
        to_rgb = ToRGB(self.channels, self.dtype)
        maps = noise.maps(len(params))
        # Not strict: parameters of fewer resolutions than there are widths make smaller images.
        for block, (width, block_params) in enumerate(zip(self.widths, params, strict=False)):
            if block == len(params) - 1 and block:  # the images before the newest block, to blend with
                older = upsample(_run(to_rgb, params[block - 1]["to_rgb"], h))
            net = GeneratorBlock(width, block, self.dtype, noise.bump)
            run = _recomputed if 0 < self.recomputed_from <= 4 * 2**block else _run
            h = run(net, block_params["block"], h, (w[:, 2 * block], w[:, 2 * block + 1]), maps[block])
        images = _run(to_rgb, params[-1]["to_rgb"], h)
        return images if older is None else _blended(older, images, blend)


class Encoder(NamedTuple):
    """E: images to latents, block by block; parameters are {"block": ..., "from_rgb": ...} of each resolution.

    Attributes:
        widths: channels of each resolution, see `widths`.
        latent_size: D.
        dtype: of the computation.
        recomputed_from: blocks of images of at least so many pixels keep no activations for a backward pass, which
            computes them again; 0 for none.
    """

    widths: tuple[int, ...]
    latent_size: int
    dtype: DTypeLike = jnp.float32
    recomputed_from: int = 0

    def init(self, key: jax.Array, channels: int = 3) -> list[dict[str, Any]]:
        """Draws the parameters of all resolutions, from the smallest."""
        params = []
        for block, width in enumerate(self.widths):
            keys = jax.random.split(jax.random.fold_in(key, block))
            net, from_rgb = self._block(block), FromRGB(width, self.dtype)
            params.append(
                {
                    "block": nets.init(net, keys[0], jnp.zeros((1, 4, 4, width)))[0],
                    "from_rgb": nets.init(from_rgb, keys[1], jnp.zeros((1, 4, 4, channels)))[0],
                }
            )
        return params

    def __call__(self, params: Sequence[Any], images: jax.Array, blend: jax.Array | float = 1.0) -> jax.Array:
        """Latents of images of the last resolution that has parameters.

        Args:
            params: of each resolution, up to that of the images.
            images: [B, S, S, channels], S = 4 * 2 ** (n - 1).
            blend: 1 for the newest resolution, 0 for that of the images down-sampled through the one before it.

        Returns:
            Latents, float32 [B, D].
        """
        last, total = len(params) - 1, jnp.zeros((images.shape[0], self.latent_size))
        h = self._from_rgb(last, params, images)
        for block in range(last, -1, -1):
            run = _recomputed if 0 < self.recomputed_from <= 4 * 2**block else _run
            h, latent = run(self._block(block), params[block]["block"], h)
            if block == last and block:
                total += blend * latent
                # The next block sees both: what the newest one gives, and the smaller image read by itself.
                h = _blended(self._from_rgb(block - 1, params, downsample(images)), h, blend)
            else:
                total += latent
        return total

    def _block(self, block: int) -> EncoderBlock:
        return EncoderBlock(self.widths[max(block - 1, 0)], self.latent_size, self.dtype)

    def _from_rgb(self, block: int, params: Sequence[Any], images: jax.Array) -> jax.Array:
        return _run(FromRGB(self.widths[block], self.dtype), params[block]["from_rgb"], images)


def _blended(old: jax.Array, new: jax.Array, blend: jax.Array | float) -> jax.Array:
    return (1.0 - blend) * old + blend * new  # exact at both ends


def _run(net: nn.Module, params: Any, *inputs: Any) -> Any:
    return nets.apply(net, params, {}, *inputs, train=False)[0]


def _recomputed(net: nn.Module, params: Any, *inputs: Any) -> Any:
    return jax.checkpoint(functools.partial(_run, net))(params, *inputs)
