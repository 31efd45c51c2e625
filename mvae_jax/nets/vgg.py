"""The first layers of VGG, as a frozen measure of similarity between images."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mvae_jax.nets.blocks import Conv, max_pool
from mvae_jax.nets.torch_weights import read_tensors

# Convolutions in order, and their places in torchvision's `features`. Blocks 2 and 3 begin with a pool.
LAYERS = {"1_1": 0, "1_2": 2, "2_1": 5, "2_2": 7, "3_1": 10, "3_2": 12, "3_3": 14}
_FIRST_END = "3_1"

# Of ImageNet, for RGB in [0, 1].
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class VGGFeatures(nn.Module):
    """Activations of VGG-16 (or VGG-19, the same so far) after the ReLU of its last layer here, relu3_3 by default.

    Attributes:
        widths: output channels of each convolution; their number decides where the network ends.
        normalise: map [-1, 1] to the statistics of ImageNet, which the weights expect; otherwise feed the images as
            they are, as the multimodal VAE's released code does.
        dtype: of the computation.

    Reference:
        Simonyan and Zisserman, 2014, arXiv:1409.1556, table 1, columns D and E.
    """

    widths: tuple[int, ...] = (64, 64, 128, 128, 256, 256, 256)
    normalise: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images [B, H, W, 3] in [-1, 1] to features, float32 [B, H / 4, W / 4, C]; the same in training."""
        if len(self.widths) > len(LAYERS):
            raise ValueError(f"{len(self.widths)} widths, expected at most {len(LAYERS)}, for {', '.join(LAYERS)}.")
        h = images
        if self.normalise:
            mean, std = (jnp.asarray(values, jnp.float32).reshape(1, 1, 1, 3) for values in (_MEAN, _STD))
            h = ((h + 1.0) / 2.0 - mean) / std
        for layer, width in zip(LAYERS, self.widths, strict=False):
            if layer.endswith("_1") and layer != "1_1":
                h = max_pool(h)
            h = nn.relu(Conv(width, dtype=self.dtype, name=f"conv{layer}")(h))
        return h.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class VGGDescription:
    """What a weight file turned out to hold.

    Attributes:
        sha256: of the file.
        last_layer: where its convolutions end, such as "relu3_3".
        widths: output channels of each convolution: `VGGFeatures(widths=...)`.
    """

    sha256: str
    last_layer: str
    widths: tuple[int, ...]


def load_vgg(path: str | Path) -> tuple[dict[str, Any], VGGDescription]:
    """Reads weights with torchvision's names, features.0.weight and so on, for `VGGFeatures`.

    Args:
        path: `.pth` (its pickle is not run) or `.safetensors` of VGG-16 or VGG-19 without batch norm, whole or cut
            anywhere after conv3_1. Layers after conv3_3 are ignored.

    Returns:
        (params, description): `VGGFeatures(widths=description.widths)` takes these params.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, layers are missing, or their shapes do not follow one another.
    """
    path = Path(path).expanduser()
    names = {f"features.{index}.{part}" for index in LAYERS.values() for part in ("weight", "bias")}
    tensors = read_tensors(path, names.__contains__)
    held = [layer for layer, index in LAYERS.items() if f"features.{index}.weight" in tensors]
    last = held[-1] if held else _FIRST_END
    needed = list(LAYERS)[: max(list(LAYERS).index(layer) for layer in (last, _FIRST_END)) + 1]
    expected = [f"features.{LAYERS[layer]}.{part}" for layer in needed for part in ("weight", "bias")]
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise ValueError(
            f"{path} has no {', '.join(missing)}: expected torchvision's names of VGG-16 or VGG-19 without batch "
            f"norm, at least up to conv{_FIRST_END}."
        )
    params: dict[str, Any] = {}
    channels = 3
    for layer in needed:
        weight, bias = (tensors[f"features.{LAYERS[layer]}.{part}"] for part in ("weight", "bias"))
        if weight.shape != (bias.size, channels, 3, 3) or bias.ndim != 1:
            raise ValueError(
                f"{path}: features.{LAYERS[layer]} has weight {weight.shape} and bias {bias.shape}, "
                f"expected (C, {channels}, 3, 3) and (C,)."
            )
        channels = bias.size
        params[f"conv{layer}"] = {
            "kernel": jnp.asarray(weight.transpose(2, 3, 1, 0), jnp.float32),
            "bias": jnp.asarray(bias, jnp.float32),
        }
    widths = tuple(int(layer["bias"].size) for layer in params.values())
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return params, VGGDescription(sha256, f"relu{needed[-1]}", widths)
