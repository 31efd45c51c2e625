"""Layers and residual blocks with PyTorch's default initialisation and constants."""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from mvae_jax.cpu.convolution import Padding, convolution, transposed_convolution

Initializer = jax.nn.initializers.Initializer

leaky_relu = functools.partial(nn.leaky_relu, negative_slope=0.2)
LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-5)


def fan_in_uniform(fan_in: int) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for weights (kaiming_uniform(a=sqrt(5))) and biases."""
    bound = 1.0 / math.sqrt(fan_in)

    def draw(key: jax.Array, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        # The same numbers as a draw in this shape, but XLA compiles a flat draw five times faster.
        return jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound).reshape(shape)

    return draw


def icnr(key: jax.Array, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
    """Kernel [4, 4, C, O] of a transposed convolution that starts as nearest upsampling, then a convolution of 3 x 3.

    Neighbouring pixels of its output are alike in law, so that training does not start from a checkerboard. The kernel
    of 3 x 3, spread over the 2 x 2 copies of each pixel, is drawn from `fan_in_uniform`.

    Reference:
        Aitken et al., 2017, arXiv:1707.02937 (ICNR, there for sub-pixel convolutions).
    """
    kernel = fan_in_uniform(9 * shape[2])(key, (3, 3, *shape[2:]), dtype)
    copies = [jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for i in range(2) for j in range(2)]
    return functools.reduce(jnp.add, copies)


class Affine(nn.Module):
    """Parameters of a layer that multiplies by a kernel and adds a bias.

    Attributes:
        features: output channels O.
        use_bias: add a bias [O].
        kernel_init: None draws from `fan_in_uniform`.
        bias_init: None draws from `fan_in_uniform` with the fan-in of the kernel.
        dtype: of the computation and the output; parameters are float32.
    """

    features: int
    use_bias: bool = True
    kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    dtype: DTypeLike = jnp.float32

    def _kernel(self, shape: tuple[int, ...], fan_in: int) -> jax.Array:
        return self.param("kernel", self.kernel_init or fan_in_uniform(fan_in), shape).astype(self.dtype)

    def _add_bias(self, y: jax.Array, fan_in: int) -> jax.Array:
        if not self.use_bias:
            return y
        bias = self.param("bias", self.bias_init or fan_in_uniform(fan_in), (self.features,))
        # In float32: the gradient of the bias is a sum over all pixels, which bfloat16 would let stagnate.
        return (y + _over_last_axis(bias, y)).astype(self.dtype)


class Dense(Affine):
    """Linear map of the last axis; kernel [C, O]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] to [..., O]."""
        fan_in = x.shape[-1]
        return self._add_bias(x.astype(self.dtype) @ self._kernel((fan_in, self.features), fan_in), fan_in)


class Conv(Affine):
    """`convolution` with a square kernel [k, k, C, O]."""

    kernel_size: int = 3
    stride: int = 1
    padding: Padding = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] to [B, H', W', O]."""
        k, channels = self.kernel_size, x.shape[-1]
        kernel = self._kernel((k, k, channels, self.features), fan_in=k * k * channels)
        y = convolution(x.astype(self.dtype), kernel, stride=self.stride, padding=self.padding)
        return self._add_bias(y, fan_in=k * k * channels)


class ConvTranspose(Affine):
    """`transposed_convolution` with a square kernel [k, k, C, O]."""

    kernel_size: int = 4
    stride: int = 2
    padding: Padding = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] to [B, H', W', O]."""
        k = self.kernel_size
        # PyTorch stores this weight as [C, O, k, k] and reads the fan-in off its second axis: output channels.
        kernel = self._kernel((k, k, x.shape[-1], self.features), fan_in=k * k * self.features)
        y = transposed_convolution(x.astype(self.dtype), kernel, stride=self.stride, padding=self.padding)
        return self._add_bias(y, fan_in=k * k * self.features)


class BatchNorm(nn.Module):
    """Batch normalisation of the last axis, as PyTorch's: the running variance is the unbiased one.

    Written as one multiplication and one addition per element, its gradient takes half the time of Flax's on CPU.

    Attributes:
        axis_name: mapped axis over which the batch is split; None if arrays are the whole batch.
        momentum: weight of the old running statistics; PyTorch's `momentum` is one minus this.
        epsilon: added to the variance.
        affine: multiply by a gain and add a bias.
        centred: take the variance from deviations, by a further pass over the data. The difference of mean square and
            squared mean has no digits left where the variance is a ten-millionth of the latter, which an epsilon of
            1e-8 does not hide.
        dtype: of the output; statistics are float32.

    Reference:
        Ioffe and Szegedy, 2015, arXiv:1502.03167, algorithm 1.
    """

    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    affine: bool = True
    centred: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[..., C] to [..., C], by the statistics of this batch if `train`, else by the running ones."""
        channels = x.shape[-1]
        scale, bias = jnp.ones(()), jnp.zeros(())
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, (channels,))
            bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_variance = self.variable("batch_stats", "var", jnp.ones, (channels,))
        x = x.astype(jnp.float32)
        if train:
            axes, count = tuple(range(x.ndim - 1)), math.prod(x.shape[:-1])
            split = self.axis_name is not None and not self.is_initializing()

            def whole(parts: Any) -> Any:
                return lax.pmean(parts, self.axis_name) if split else parts

            if split:
                count *= lax.axis_size(self.axis_name)
            if self.centred:
                mean = whole(x.mean(axes))
                variance = whole(jnp.square(x - _over_last_axis(mean, x)).mean(axes))
            else:
                mean, square = whole((x.mean(axes), (x * x).mean(axes)))
                variance = jnp.maximum(square - mean * mean, 0.0)
            if not self.is_initializing():
                unbiased = variance * (count / max(count - 1, 1))
                running_mean.value = self.momentum * running_mean.value + (1.0 - self.momentum) * mean
                running_variance.value = self.momentum * running_variance.value + (1.0 - self.momentum) * unbiased
        else:
            mean, variance = running_mean.value, running_variance.value
        factor = scale * lax.rsqrt(variance + self.epsilon)
        y = x * _over_last_axis(factor, x) + _over_last_axis(bias - mean * factor, x)
        return y.astype(self.dtype)


class ResidualBlock(nn.Module):
    """x + BN(Conv3(LeakyReLU(BN(Conv3 x)))).

    Attributes:
        axis_name: mapped axis over which the batch is split; None if arrays are the whole batch.
        dtype: of the computation.
    """

    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] to [B, H, W, C]."""
        y = BatchNorm(self.axis_name, dtype=self.dtype)(Conv(x.shape[-1], dtype=self.dtype)(x), train)
        y = Conv(x.shape[-1], dtype=self.dtype)(leaky_relu(y))
        return x + BatchNorm(self.axis_name, dtype=self.dtype)(y, train)


class ResidualDense(nn.Module):
    """x + Dense(LeakyReLU(Dense x)).

    Attributes:
        dtype: of the computation.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, D] to [B, D]."""
        y = leaky_relu(Dense(x.shape[-1], dtype=self.dtype)(x))
        return x + Dense(x.shape[-1], dtype=self.dtype)(y)


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product attention of tokens to each other.

    Initialised as PyTorch's MultiheadAttention: Xavier-uniform over the joint projection to queries, keys, values.

    Attributes:
        heads: number of heads; divides C.
        dtype: of the computation.

    Reference:
        Vaswani et al., 2017, arXiv:1706.03762, section 3.2.2.
    """

    heads: int = 8
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, C] to [B, T, C]."""
        channels = x.shape[-1]
        if channels % self.heads:
            raise ValueError(f"{channels} channels do not split into {self.heads} attention heads: change either.")
        dense = functools.partial(Dense, bias_init=nn.initializers.zeros, dtype=self.dtype)
        projected = dense(3 * channels, kernel_init=nn.initializers.xavier_uniform(), name="queries_keys_values")(x)
        split = projected.reshape(*x.shape[:2], 3, self.heads, channels // self.heads)
        attended = jax.nn.dot_product_attention(split[:, :, 0], split[:, :, 1], split[:, :, 2])
        return dense(channels, name="output")(attended.reshape(x.shape))


def max_pool(x: jax.Array) -> jax.Array:
    """Largest of each 2x2 pixels, [B, H, W, C] to [B, H // 2, W // 2, C]; an odd last row or column is dropped.

    Of equal ones the first, by rows, takes the gradient, as in PyTorch. 20 times as fast on CPU as `nn.max_pool`.
    Its derivative serves reverse mode alone, as that of convolutions on CPU does.
    """
    h, w = (size // 2 * 2 for size in x.shape[1:3])
    return _pool_even(x[:, :h, :w])


@jax.custom_vjp
def _pool_even(x: jax.Array) -> jax.Array:
    return _largest_of_four(x)[0]


def _largest_of_four(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The maxima, and the number of the pixel that each was, int8."""
    b, h, w, c = x.shape
    fours = x.reshape(b, h // 2, 2, w // 2, 2, c)
    upper, lower = (jnp.maximum(fours[:, :, row, :, 0], fours[:, :, row, :, 1]) for row in (0, 1))
    in_upper, in_lower = (jnp.where(fours[:, :, row, :, 0] >= best, 0, 1) for row, best in ((0, upper), (1, lower)))
    number = jnp.where(upper >= lower, in_upper, 2 + in_lower)
    return jnp.maximum(upper, lower), number.astype(jnp.int8)


def _to_the_largest(number: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    """The gradient by x in one piece: autodiff would fill up four arrays to that size, and add them."""
    numbers = jnp.arange(4, dtype=jnp.int8).reshape(1, 1, 2, 1, 2, 1)
    fours = jnp.where(number[:, :, None, :, None] == numbers, g[:, :, None, :, None], jnp.zeros((), g.dtype))
    b, h, w, c = g.shape
    return (fours.reshape(b, 2 * h, 2 * w, c),)


_pool_even.defvjp(_largest_of_four, _to_the_largest)


def _over_last_axis(vector: jax.Array, x: jax.Array) -> jax.Array:
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))
