"""Convolutions whose gradients, and gradients of gradients, stay fast on XLA's CPU backend.

Images are NHWC and kernels HWIO. For a fixed stride and padding, an image x, a kernel k and an output y define one
trilinear form,

    <convolution(x, k), y> = <x, adjoint(k, y)> = <k, correlation(x, y)>,

so the derivative of each of these three maps consists of the other two, and derivatives of every order need nothing
else. XLA's CPU backend is 15 to 80 times slower than necessary where autodiff would leave them to it: in the kernel
gradient of a transposed convolution, and in every gradient inside `scan`, `while` or `cond`, whose bodies keep
whatever layout autodiff chose. Here each map is a forward convolution in canonical layout, with its transposes
written out, and a custom derivative ties the three together. Other backends get plain XLA convolutions.
The custom derivative serves reverse mode (`grad`, `vjp`, and `linearize` followed by `linear_transpose`) and
refuses forward mode (`jvp`).
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mvae_jax import meshes

Padding = Literal["SAME", "VALID"] | Sequence[tuple[int, int]]
Formulation = Literal["canonical", "plain", "both"]

_Map = Callable[..., jax.Array]
_NHWC = ("NHWC", "HWIO", "NHWC")
# Above so many output channels, rearranging the kernel was measured to cost more than multiplying by zeros.
_SUBPIXEL_CHANNELS = 256
# Size of a square kernel -> most channels on either side, and most input times output channels, with which blocks of
# 2x2 pixels were measured to be faster, forward and backward together. 5x5: from 3 to 3 channels 4.4 times, 8 to 8 1.5,
# 16 to 1 1.1, but 64 to 1 .9. 3x3: from 3 to 3 1.9 times, 8 to 3 1.9, 8 to 1 1.2, but 8 to 8 .7 and 16 to 1 .7.
_FEW_CHANNELS = {3: (8, 24), 5: (16, 64)}


_EVERYWHERE = contextvars.ContextVar("everywhere", default=False)


@contextlib.contextmanager
def for_every_platform() -> Iterator[None]:
    """Within it, what is traced is to run on any platform: both formulations are in it, and XLA keeps one of them."""
    token = _EVERYWHERE.set(True)
    try:
        yield
    finally:
        _EVERYWHERE.reset(token)


def default_formulation() -> Formulation:
    """The formulation for the default backend, or for all: the one place that decides."""
    if _EVERYWHERE.get():
        return "both"
    return "canonical" if jax.default_backend() == "cpu" else "plain"


def _formulated(formulation: Formulation | None, canonical: _Map, plain: _Map) -> _Map:
    """The one of two maps of (first, second, geometry) that is asked for, or one that leaves it to the platform."""
    chosen = formulation or default_formulation()
    if chosen != "both":
        return canonical if chosen == "canonical" else plain

    def either(first: jax.Array, second: jax.Array, geometry: _Geometry) -> jax.Array:
        forms = (functools.partial(lambda form, *arrays: form(*arrays, geometry), form) for form in (canonical, plain))
        return lax.platform_dependent(first, second, **dict(zip(("cpu", "default"), forms, strict=True)))

    return either


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    padding: Padding = "SAME",
    formulation: Formulation | None = None,
) -> jax.Array:
    """Cross-correlates images with a kernel, as every deep-learning library's "convolution".

    y[n, i, j, o] = sum_{a, b, c} x[n, s i + a - p, s j + b - q, c] kernel[a, b, c, o], zeros outside the image.

    Args:
        x: images, [B, H, W, C].
        kernel: [kh, kw, C, O], in the dtype of `x`.
        stride: s, the same in both directions, at least 1.
        padding: "SAME" (ceil(H / s) rows; an odd total pads one more at the end), "VALID", or pairs
            ((top, bottom), (left, right)).
        formulation: "canonical", "plain" XLA, or "both", of which the platform chooses; None chooses by the backend.

    Returns:
        [B, H', W', O] in the dtype of `x`.
    """
    _check(x, kernel, stride, padding)
    geometry = _Geometry.of(x.shape[1:3], kernel.shape[:2], stride, padding)
    if min(geometry.output_size) < 1:
        raise ValueError(
            f"padding {padding} makes images of {x.shape[1:3]} pixels smaller than the kernel, {kernel.shape[:2]}: "
            "use larger images or more padding."
        )
    canonical = _in_blocks if _pays_in_blocks(x, kernel, geometry) else _convolution
    function = _formulated(formulation, canonical, _plain_convolution)
    return meshes.automatic(function, x, kernel, geometry, batch=x)


def transposed_convolution(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 2,
    padding: Padding = "SAME",
    formulation: Formulation | None = None,
) -> jax.Array:
    """Adjoint of `convolution` with the same stride and padding: paints a scaled copy of the kernel at every pixel.

    y[n, s i + a - p, s j + b - q, o] += x[n, i, j, c] kernel[a, b, c, o]. The kernel is not flipped, so
    <convolution(u, k), x> = <u, transposed_convolution(x, k.swapaxes(2, 3))>. PyTorch's ConvTranspose2d with kernel
    4, stride 2, padding 1 is `padding="SAME"`, or ((1, 1), (1, 1)), and kernel = weight.transpose(2, 3, 0, 1) for
    its weight [C, O, kh, kw]; Keras' Conv2DTranspose stores [kh, kw, O, C].

    Args:
        x: images, [B, H, W, C].
        kernel: [kh, kw, C, O]: input channels before output channels, as in a convolution.
        stride: s, the factor by which images grow.
        padding: that of the adjoint convolution. "SAME" gives s H rows, "VALID" s (H - 1) + kh, pairs
            ((top, bottom), (left, right)) give s (H - 1) + kh - top - bottom.
        formulation: "canonical", "plain" XLA, or "both", of which the platform chooses; None chooses by the backend.

    Returns:
        [B, H', W', O] in the dtype of `x`.
    """
    _check(x, kernel, stride, padding)
    # All pixels that some copy of the kernel reaches; the padding says which of them to crop.
    painted = tuple(stride * (n - 1) + k for n, k in zip(x.shape[1:3], kernel.shape[:2], strict=True))
    if padding == "SAME":
        size = tuple(stride * n for n in x.shape[1:3])
    elif padding == "VALID":
        size = painted
    else:
        size = tuple(n - lo - hi for n, (lo, hi) in zip(painted, padding, strict=True))
    if min(size) < 1:
        raise ValueError(f"padding {padding} crops away all of the {painted} painted pixels: use less padding.")
    geometry = _Geometry.of(size, kernel.shape[:2], stride, padding)
    kernel = kernel.swapaxes(2, 3)  # as that of the convolution whose adjoint this is
    function = _formulated(formulation, _adjoint, _plain_adjoint)
    return meshes.automatic(function, kernel, x, geometry, batch=x)


@dataclasses.dataclass(frozen=True)
class _Geometry:
    """Geometry that the three maps share: sizes (H, W) of image and kernel, stride and padding of the convolution."""

    image_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: int
    padding: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, image_size: tuple[int, ...], kernel_size: tuple[int, ...], stride: int, padding: Padding) -> _Geometry:
        if isinstance(padding, str):
            padding = lax.padtype_to_pads(image_size, kernel_size, (stride, stride), padding)
        (top, bottom), (left, right) = padding
        return cls(image_size, kernel_size, stride, ((top, bottom), (left, right)))

    @property
    def output_size(self) -> tuple[int, ...]:
        sizes = zip(self.image_size, self.kernel_size, self.padding, strict=True)
        return tuple((n + sum(pads) - k) // self.stride + 1 for n, k, pads in sizes)

    def axes(self) -> Iterator[tuple[int, int, int, int]]:
        """(image size, kernel size, output size, leading padding) of each spatial axis."""
        leading = (lo for lo, _ in self.padding)
        return zip(self.image_size, self.kernel_size, self.output_size, leading, strict=True)


def _check(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> None:
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2]:
        raise ValueError(f"expected images [B, H, W, C] and a kernel [kh, kw, C, O], got {x.shape} and {kernel.shape}.")
    if stride < 1:
        raise ValueError(f"stride is {stride}, expected at least 1.")
    if isinstance(padding, str) and padding not in ("SAME", "VALID"):
        raise ValueError(f'padding is "{padding}", expected "SAME", "VALID" or ((top, bottom), (left, right)).')


# --- plain XLA -------------------------------------------------------------------------------------------------


def _plain_convolution(x: jax.Array, kernel: jax.Array, geometry: _Geometry) -> jax.Array:
    strides = (geometry.stride,) * 2
    return lax.conv_general_dilated(x, kernel, strides, geometry.padding, dimension_numbers=_NHWC)


def _plain_adjoint(kernel: jax.Array, y: jax.Array, geometry: _Geometry) -> jax.Array:
    """sum_{i, a: s i + a - p = u} y[i] kernel[a]^T: y spread out by the stride, under the flipped kernel."""
    padding = []
    for n, k, m, lo in geometry.axes():
        # A flipped kernel begins k - 1 pixels before its image; what the convolution padded there is left out. After
        # it as much as is missing for n pixels, whose last ones a stride may have passed over.
        before = k - 1 - lo
        padding.append((before, n + k - 2 - (m - 1) * geometry.stride - before))
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    dilation = (geometry.stride,) * 2
    return lax.conv_general_dilated(y, flipped, (1, 1), padding, lhs_dilation=dilation, dimension_numbers=_NHWC)


# --- canonical form --------------------------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolution(x: jax.Array, kernel: jax.Array, geometry: _Geometry) -> jax.Array:
    return _plain_convolution(x, kernel, geometry)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _adjoint(kernel: jax.Array, y: jax.Array, geometry: _Geometry) -> jax.Array:
    if geometry.stride > 1 and kernel.shape[2] <= _SUBPIXEL_CHANNELS:
        return _subpixel_adjoint(kernel, y, geometry)
    return _plain_adjoint(kernel, y, geometry)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _correlation(x: jax.Array, y: jax.Array, geometry: _Geometry) -> jax.Array:
    """sum_{n, i} x[n, s i + a - p] y[n, i], as a convolution in which channels and batch have changed places."""
    s, axes = geometry.stride, list(geometry.axes())
    if s == 1 and (math.prod(geometry.output_size), x.shape[3]) > (math.prod(geometry.image_size), y.shape[3]):
        # The images of a convolution are cut into kernel-sized patches. Cutting up the side with fewer channels takes
        # 3.5 ms rather than 17 for a 3x3 kernel from 64 channels to 3 colours, on one core. But a kernel of more
        # pixels than the images leaves the fast path: XLA lets them change places, and multiplies in plain loops.
        padding = [(k - 1 - lo, n - m + lo) for n, k, m, lo in axes]
        return _sum_over_batch(y, x, s, padding)[::-1, ::-1].swapaxes(2, 3)
    # y takes the kernel's place, with its pixels s apart. The image ends where the last copy of the kernel does.
    return _sum_over_batch(x, y, s, [(lo, k + (m - 1) * s - n - lo) for n, k, m, lo in axes])


def _pays_in_blocks(x: jax.Array, kernel: jax.Array, geometry: _Geometry) -> bool:
    kh, kw, channels, features = kernel.shape
    even = geometry.output_size == geometry.image_size and not any(n % 2 for n in geometry.image_size)
    most, most_products = _FEW_CHANNELS.get(kh, (0, 0))
    few = kh == kw and max(channels, features) <= most and channels * features <= most_products
    return few and even and geometry.stride == 1


def _in_blocks(x: jax.Array, kernel: jax.Array, geometry: _Geometry) -> jax.Array:
    """The unstrided convolution of 2x2 pixels that have become channels, four times as many.

    Few channels leave most of a vector unit idle. Pixel 2 Q + r of the result takes pixel 2 (Q + t) + s of the image by
    the kernel's tap a = 2 t + s - r + p, where it has one: more products than before, most of them with zeros, and
    faster nevertheless.
    """
    taps, padding = [], []
    for _, k, _, lo in geometry.axes():
        first, last = -lo // 2, (k - lo) // 2  # blocks that the taps of r = 0 and r = 1 reach
        t, s, r, a = np.ogrid[first : last + 1, :2, :2, :k]
        taps.append(jnp.asarray(2 * t + s == r + a - lo, kernel.dtype))
        padding.append((-first, last))
    blocks = jnp.einsum("tsra,uvqb,abco->tusvcrqo", *taps, kernel)
    (b, h, w, c), (th, tw), o = x.shape, (len(axis) for axis in taps), kernel.shape[3]
    x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)
    y = _convolution(x, blocks.reshape(th, tw, 4 * c, 4 * o), _Geometry((h // 2, w // 2), (th, tw), 1, tuple(padding)))
    return y.reshape(b, h // 2, w // 2, 2, 2, o).transpose(0, 1, 3, 2, 4, 5).reshape(b, h, w, o)


def _sum_over_batch(images: jax.Array, weights: jax.Array, dilation: int, padding: list[tuple[int, int]]) -> jax.Array:
    """sum_{n, i} images[n, dilation i + a] weights[n, i], [kh, kw, channels of images, channels of weights]."""
    products = lax.conv_general_dilated(
        images.transpose(3, 1, 2, 0),
        weights.transpose(1, 2, 0, 3),
        (1, 1),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=_NHWC,
    )
    return _computed_once(products.transpose(1, 2, 0, 3))


def _computed_once(x: jax.Array) -> jax.Array:
    """x, after a division by ones that XLA cannot foresee: divisions it does not repeat in every use of their result.

    Anything else that is elementwise or a transpose it does repeat, and both together run one element at a time. At
    [32, 64, 64, 64], a cotangent that comes out of batch norm takes 92 ms to transpose rather than 13, and the
    optimiser takes 12 ms rather than 3 for each of the three arrays that it makes of the gradient of a 4x4 kernel
    with 512 x 512 channels. Optimisation barriers do not help: XLA's CPU backend drops them before it fuses.
    """
    return x / jnp.where(x < jnp.inf, 1, 2).astype(x.dtype)  # half of infinity is infinity


def _subpixel_adjoint(kernel: jax.Array, y: jax.Array, geometry: _Geometry) -> jax.Array:
    """The strided adjoint as one unstrided convolution with s * s times the channels, then an interleave.

    Writing a = s t + r, pixel s q + r of the painted image is sum_t y[q - t] kernel[s t + r].
    """
    s, (kh, kw), channels = geometry.stride, geometry.kernel_size, kernel.shape[2]
    th, tw = -(-kh // s), -(-kw // s)  # taps per phase r, rounded up: the kernel is filled up with zeros
    taps = jnp.pad(kernel, ((0, s * th - kh), (0, s * tw - kw), (0, 0), (0, 0)))
    # [t, r, t', r', C, O] to [t, t', O, r, r', C]: the phases become channels. Flipped, because sums go over q - t.
    taps = taps.reshape(th, s, tw, s, channels, -1)[::-1, :, ::-1].transpose(0, 2, 5, 1, 3, 4)
    phases = lax.conv_general_dilated(
        y,
        taps.reshape(th, tw, -1, s * s * channels),
        (1, 1),
        ((th - 1, th - 1), (tw - 1, tw - 1)),
        dimension_numbers=_NHWC,
    )
    # Phase (r, r') of pixel (q, q') goes to pixel (s q + r, s q' + r').
    b, h, w, _ = phases.shape
    painted = phases.reshape(b, h, w, s, s, channels).transpose(0, 1, 3, 2, 4, 5).reshape(b, s * h, s * w, channels)
    # A negative padding crops, a positive one fills up with the zeros that no copy of the kernel reaches.
    crop = [(-lo, n + lo - size, 0) for (n, _, _, lo), size in zip(geometry.axes(), (s * h, s * w), strict=True)]
    return lax.pad(painted, jnp.zeros((), y.dtype), [(0, 0, 0), *crop, (0, 0, 0)])


def _differentiate(function, backward):
    """Ties a bilinear map to its backward rule, which gets the geometry, both arguments and a cotangent."""

    def keep(first, second, geometry):
        return function(first, second, geometry), (first, second)

    def pull_back(geometry, saved, cotangent):
        # Under `shard_map`, the gradient of an argument that all devices share is the sum of theirs: the transpose
        # of the step from the argument to one that differs between devices. Elsewhere that transpose does nothing.
        _, transpose = jax.vjp(_differ_alike, *saved)
        return transpose(backward(geometry, *saved, cotangent))

    function.defvjp(keep, pull_back)


def _differ_alike(first, second):
    zero = lax.stop_gradient(0 * first[0, 0, 0, 0] * second[0, 0, 0, 0])  # varies over devices if either one does
    return first + zero, second + zero


# The trilinear form of the module's docstring: the derivative by one argument is the map that has the other two.


def _convolution_backward(geometry, x, kernel, y):
    y = _computed_once(y)  # used twice, and transposed, as below
    return _adjoint(kernel, y, geometry), _correlation(x, y, geometry)


def _adjoint_backward(geometry, kernel, y, x):
    x = _computed_once(x)  # used twice: by a correlation, which transposes it, and by a convolution
    return _correlation(x, y, geometry), _convolution(x, kernel, geometry)


def _correlation_backward(geometry, x, y, kernel):
    return _adjoint(kernel, y, geometry), _convolution(x, kernel, geometry)


_differentiate(_convolution, _convolution_backward)
_differentiate(_adjoint, _adjoint_backward)
_differentiate(_correlation, _correlation_backward)
