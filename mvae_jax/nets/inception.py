"""Inception-v3 as the Fréchet inception distance has it: TensorFlow's graph of December 2015, up to its last pooling.

Its layers are those of torchvision's Inception-v3, its weights are not. Its averages over 3x3 pixels leave the padding
out, and its last block has a maximum where the paper and other implementations have an average.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mvae_jax.cpu.convolution import Padding, convolution
from mvae_jax.nets.blocks import BatchNorm, fan_in_uniform
from mvae_jax.nets.torch_weights import read_tensors
from mvae_jax.nets.vgg import sha256_of

# What becomes of stored images before the first layer; neither way has antialiasing.
#   "tensorflow1": what the graph itself does, and with it the published distances: bilinear from the corner, see
#       `resize_bilinear`, then (x - 128) / 128, which ends below 1.
#   "pytorch_fid": what the PyTorch package of that name does: bilinear by half-pixel centres, then x / 127.5 - 1.
Preprocessing = Literal["tensorflow1", "pytorch_fid"]

_SIZE = 299
_CLASSES = 1008
_FIRST_LAYER, _FIRST_WIDTH = "Conv2d_1a_3x3.conv.weight", 32
_DIVISORS = (1, 2, 4, 8, 16)
# Our names of arrays -> what follows the name of the module in the file.
_PARTS = {"kernel": "conv.weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_MARGIN = ((0, 0), (1, 1), (1, 1), (0, 0))  # around images [B, H, W, C]
_NAMED = 4  # missing arrays in a message


def resize_bilinear(images: jax.Array, size: int, *, half_pixel_centres: bool) -> jax.Array:
    """Interpolates between the four nearest pixels, without antialiasing; outermost pixels are repeated.

    Row i of the result lies at row i H / size of the images, as in TensorFlow 1, which moves pictures towards their
    upper left corner; by half-pixel centres at (i + 0.5) H / size - 0.5, as in PyTorch. Columns likewise.

    Args:
        images: [B, H, W, C], float.
        size: rows, and columns, of the result.
        half_pixel_centres: whether coordinates are those of the centres of pixels.

    Returns:
        [B, size, size, C].
    """
    for axis in (2, 1):
        step, places = np.float32(images.shape[axis] / size), np.arange(size, dtype=np.float32)
        source = np.maximum((places + 0.5) * step - 0.5, 0.0) if half_pixel_centres else places * step
        lower = np.floor(source)
        share = jnp.asarray(np.expand_dims(source - lower, [other for other in range(4) if other != axis]))
        before, after = (jnp.take(images, lower.astype(int) + k, axis, mode="clip") for k in (0, 1))
        images = before + (after - before) * share
    return images


# --- layers -----------------------------------------------------------------------------------------------------------


class _Layer(nn.Module):
    """Convolution without bias, batch norm by running statistics, ReLU: torchvision's BasicConv2d.

    Attributes:
        channels: of the output.
        height: of the kernel.
        width: of the kernel.
        stride: in both directions.
        padding: as for `convolution`.
    """

    channels: int
    height: int
    width: int
    stride: int = 1
    padding: Padding = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] to [B, H', W', channels]."""
        shape = (self.height, self.width, x.shape[-1], self.channels)
        kernel = self.param("kernel", fan_in_uniform(math.prod(shape[:3])), shape)
        y = convolution(x, kernel, stride=self.stride, padding=self.padding)
        return nn.relu(BatchNorm(epsilon=1e-3, name="bn")(y, train=False))


def max_pool(x: jax.Array, stride: int = 1) -> jax.Array:
    """Largest of each 3x3 pixels, [B, H, W, C]; with stride 1 as many as before, with stride 2 only those inside."""
    if stride == 1:
        x = jnp.pad(x, _MARGIN, constant_values=-jnp.inf)
    return _combined(x, jnp.maximum, stride)


def average_pool(x: jax.Array) -> jax.Array:
    """Mean of those of the 3x3 pixels around each pixel that lie inside the image, [B, H, W, C] to the same."""
    inside = jnp.pad(jnp.ones((1, *x.shape[1:3], 1)), _MARGIN)
    return _combined(jnp.pad(x, _MARGIN), jnp.add) / _combined(inside, jnp.add)


def _combined(x: jax.Array, combine: Callable[[jax.Array, jax.Array], jax.Array], stride: int = 1) -> jax.Array:
    """Every 3x3 pixels inside the image combined. XLA's CPU backend is slow at windows, and fast at shifted images."""
    for axis in (1, 2):
        end = x.shape[axis] - 2
        x = functools.reduce(combine, [lax.slice_in_dim(x, k, k + end, stride, axis) for k in range(3)])
    return x


# --- blocks -----------------------------------------------------------------------------------------------------------

# branch(x, name, *layers): layers one after another, given as (channels, height, width) of the kernel, stride, padding.
_Branch = Callable[..., jax.Array]
_Layout = Callable[[jax.Array, _Branch], list[jax.Array]]
_STRIDED = (3, 3, 2, "VALID")


def _mixed_35(x: jax.Array, branch: _Branch, *, pooled: int) -> list[jax.Array]:
    return [
        branch(x, "branch1x1", (64, 1, 1)),
        branch(x, "branch5x5", (48, 1, 1), (64, 5, 5)),
        branch(x, "branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3)),
        branch(average_pool(x), "branch_pool", (pooled, 1, 1)),
    ]


def _shrink_35(x: jax.Array, branch: _Branch) -> list[jax.Array]:
    return [
        branch(x, "branch3x3", (384, *_STRIDED)),
        branch(x, "branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, *_STRIDED)),
        max_pool(x, stride=2),
    ]


def _mixed_17(x: jax.Array, branch: _Branch, *, inner: int) -> list[jax.Array]:
    across, down = (inner, 1, 7), (inner, 7, 1)
    return [
        branch(x, "branch1x1", (192, 1, 1)),
        branch(x, "branch7x7", (inner, 1, 1), across, (192, 7, 1)),
        branch(x, "branch7x7dbl", (inner, 1, 1), down, across, down, (192, 1, 7)),
        branch(average_pool(x), "branch_pool", (192, 1, 1)),
    ]


def _shrink_17(x: jax.Array, branch: _Branch) -> list[jax.Array]:
    return [
        branch(x, "branch3x3", (192, 1, 1), (320, *_STRIDED)),
        branch(x, "branch7x7x3", (192, 1, 1), (192, 1, 7), (192, 7, 1), (192, *_STRIDED)),
        max_pool(x, stride=2),
    ]


def _mixed_8(x: jax.Array, branch: _Branch, *, pool: Callable[[jax.Array], jax.Array]) -> list[jax.Array]:
    single = branch(x, "branch3x3_1", (384, 1, 1))
    double = branch(x, "branch3x3dbl", (448, 1, 1), (384, 3, 3))
    return [
        branch(x, "branch1x1", (320, 1, 1)),
        branch(single, "branch3x3_2a", (384, 1, 3)),
        branch(single, "branch3x3_2b", (384, 3, 1)),
        branch(double, "branch3x3dbl_3a", (384, 1, 3)),
        branch(double, "branch3x3dbl_3b", (384, 3, 1)),
        branch(pool(x), "branch_pool", (192, 1, 1)),
    ]


# In order, by torchvision's names.
BLOCKS: Mapping[str, _Layout] = {
    "Mixed_5b": functools.partial(_mixed_35, pooled=32),
    "Mixed_5c": functools.partial(_mixed_35, pooled=64),
    "Mixed_5d": functools.partial(_mixed_35, pooled=64),
    "Mixed_6a": _shrink_35,
    "Mixed_6b": functools.partial(_mixed_17, inner=128),
    "Mixed_6c": functools.partial(_mixed_17, inner=160),
    "Mixed_6d": functools.partial(_mixed_17, inner=160),
    "Mixed_6e": functools.partial(_mixed_17, inner=192),
    "Mixed_7a": _shrink_17,
    "Mixed_7b": functools.partial(_mixed_8, pool=average_pool),
    "Mixed_7c": functools.partial(_mixed_8, pool=max_pool),
}


class Block(nn.Module):
    """Branches side by side, their channels one after another.

    Attributes:
        layout: of the branches, from `BLOCKS`.
        divisor: of all widths.
    """

    layout: _Layout
    divisor: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] to [B, H', W', C']."""

        def branch(x: jax.Array, name: str, *layers: tuple[Any, ...]) -> jax.Array:
            for number, (channels, *geometry) in enumerate(layers, 1):
                layer = name if len(layers) == 1 else f"{name}_{number}"
                x = _Layer(channels // self.divisor, *geometry, name=layer)(x)
            return x

        return jnp.concatenate(self.layout(x, branch), axis=-1)


class InceptionV3(nn.Module):
    """Stored images to the 2048 averages that follow the last block ("pool_3").

    Attributes:
        preprocessing: how images are resized and scaled; a part of what the features are.
        divisor: of all widths, 1, 2, 4, 8 or 16: a small network with the same layers.

    Reference:
        Szegedy et al., 2015, arXiv:1512.00567; Heusel et al., 2017, arXiv:1706.08500.
    """

    preprocessing: Preprocessing = "tensorflow1"
    divisor: int = 1

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images uint8 [B, H, W, 3] of any size to features, float32 [B, 2048 / divisor]; the same in training.

        Products are those of full float32 on every device, for a distance must not depend on it.
        """
        if self.preprocessing not in get_args(Preprocessing):
            raise ValueError(
                f"preprocessing is {self.preprocessing!r}, expected one of {', '.join(get_args(Preprocessing))}."
            )
        if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images are {images.dtype} {images.shape}, expected uint8 [B, H, W, 3].")
        original = self.preprocessing == "tensorflow1"
        h = resize_bilinear(images.astype(jnp.float32), _SIZE, half_pixel_centres=not original)
        h = (h - 128.0) / 128.0 if original else h / 127.5 - 1.0

        def layer(h: jax.Array, name: str, channels: int, *geometry: Any) -> jax.Array:
            return _Layer(channels // self.divisor, *geometry, name=name)(h)

        with jax.default_matmul_precision("highest"):
            h = layer(h, "Conv2d_1a_3x3", _FIRST_WIDTH, *_STRIDED)
            h = layer(h, "Conv2d_2a_3x3", 32, 3, 3, 1, "VALID")
            h = layer(h, "Conv2d_2b_3x3", 64, 3, 3)
            h = max_pool(h, stride=2)
            h = layer(h, "Conv2d_3b_1x1", 80, 1, 1)
            h = layer(h, "Conv2d_4a_3x3", 192, 3, 3, 1, "VALID")
            h = max_pool(h, stride=2)
            for name, layout in BLOCKS.items():
                h = Block(layout, self.divisor, name=name)(h)
        return h.mean(axis=(1, 2))


# --- weights ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class InceptionDescription:
    """Contents of a weight file.

    Attributes:
        sha256: of the file; that of pt_inception-2015-12-05-6726825d.pth begins as its name says.
        divisor: of all widths: `InceptionV3(divisor=...)`; 1 for the published file.
    """

    sha256: str
    divisor: int


def load_inception(path: str | Path) -> tuple[dict[str, Any], InceptionDescription]:
    """Reads the weights of TensorFlow's graph from the PyTorch port of them, for `InceptionV3`.

    Args:
        path: pt_inception-2015-12-05-6726825d.pth (its pickle is not run), of the package pytorch-fid, or a
            `.safetensors` with the same names: torchvision's.

    Returns:
        (variables, description): `InceptionV3(divisor=description.divisor)` takes these variables.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, layers are missing or have other shapes, or it is torchvision's network.
    """
    path = Path(path).expanduser()
    tensors = read_tensors(path, lambda name: not name.endswith("num_batches_tracked"))
    rows = tensors[_FIRST_LAYER].shape[:1] if _FIRST_LAYER in tensors else ()
    divisor = next((divisor for divisor in _DIVISORS if rows == (_FIRST_WIDTH // divisor,)), 1)
    net = InceptionV3(divisor=divisor)
    expected = jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, _SIZE, _SIZE, 3), jnp.uint8))
    missing = [name for keys, _ in jax.tree.leaves_with_path(expected) if (name := _torch_name(keys)) not in tensors]
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise ValueError(
            f"{path} has no {', '.join(missing[:_NAMED])}{more}: expected the layers of Inception-v3 by torchvision's "
            "names, as in pt_inception-2015-12-05-6726825d.pth."
        )

    def read(keys: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = _torch_name(keys)
        kernel = len(leaf.shape) == 4
        shape = tuple(leaf.shape[axis] for axis in (3, 2, 0, 1)) if kernel else leaf.shape
        if tensors[name].shape != shape:
            raise ValueError(f"{path}: {name} has shape {tensors[name].shape}, expected {shape}.")
        return jnp.asarray(tensors[name].transpose(2, 3, 1, 0) if kernel else tensors[name], jnp.float32)

    variables = jax.tree.map_with_path(read, expected)
    classes = tensors["fc.bias"].size if "fc.bias" in tensors else 0
    if classes != _CLASSES:
        raise ValueError(
            f"{path} tells {classes} classes apart (fc.bias), expected {_CLASSES}, those of TensorFlow's graph. "
            "Torchvision's own Inception-v3, of 1000, has other weights, and no published distance compares with its "
            "ones: give pt_inception-2015-12-05-6726825d.pth."
        )
    return variables, InceptionDescription(sha256_of(path), divisor)


def _torch_name(keys: Any) -> str:
    """The file's name of the array at a path of keys, of which the first names the collection."""
    *modules, part = (key.key for key in keys[1:])
    return ".".join([*modules, _PARTS[part]])
