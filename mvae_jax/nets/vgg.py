"""The convolutions of VGG, as a frozen measure of similarity between images."""

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

# Convolutions of VGG-16 in order, and their places in torchvision's `features`. Blocks from 2 on begin with a pool.
_NAMES = ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2", "4_3", "5_1", "5_2", "5_3")
_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
LAYERS = dict(zip(_NAMES, _PLACES, strict=True))
_FIRST_END = "3_1"
_SHARED_END = "3_3"
# Where VGG-19 has conv3_4 and VGG-16 conv4_1; the other has no parameters there. Further on places coincide again.
_ONLY_IN = {"VGG-19": "features.16.bias", "VGG-16": "features.17.bias"}

# Of ImageNet, for RGB in [0, 1].
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class VGGFeatures(nn.Module):
    """Activations of VGG-16 after its ReLUs; up to relu3_3, where it ends by default, VGG-19 has the same layers.

    Attributes:
        widths: output channels of each convolution; their number, 13 at most, decides where the network ends.
        normalise: map [-1, 1] to the statistics of ImageNet, which the weights expect; otherwise feed the images as
            they are, as the multimodal VAE's released code does.
        dtype: of the computation.

    Reference:
        Simonyan and Zisserman, 2014, arXiv:1409.1556, table 1, columns D and E.
    """

    widths: tuple[int, ...] = (64, 64, 128, 128, 256, 256, 256)
    normalise: bool = True
    dtype: DTypeLike = jnp.float32

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images [B, H, W, 3] in [-1, 1] to features after the last ReLU, float32 [B, H', W', C]; the same in training.

        H' is H / 4 up to relu3_3, H / 8 in block 4 and H / 16 in block 5.
        """
        return list(self.activations(images).values())[-1]

    @nn.compact
    def activations(self, images: jax.Array) -> dict[str, jax.Array]:
        """Images [B, H, W, 3] in [-1, 1] to what follows each ReLU, {"relu1_1": float32 [B, H, W, C], ...} in order."""
        if len(self.widths) > len(LAYERS):
            raise ValueError(f"{len(self.widths)} widths, expected at most {len(LAYERS)}, for {', '.join(LAYERS)}.")
        h = images
        if self.normalise:
            mean, std = (jnp.asarray(values, jnp.float32).reshape(1, 1, 1, 3) for values in (_MEAN, _STD))
            h = ((h + 1.0) / 2.0 - mean) / std
        activations = {}
        for layer, width in zip(LAYERS, self.widths, strict=False):
            if layer.endswith("_1") and layer != "1_1":
                h = max_pool(h)
            h = nn.relu(Conv(width, dtype=self.dtype, name=f"conv{layer}")(h))
            activations[f"relu{layer}"] = h.astype(jnp.float32)
        return activations


@dataclasses.dataclass(frozen=True)
class VGGDescription:
    """Contents of a weight file.

    Attributes:
        sha256: of the file.
        last_layer: where the convolutions that were read end, such as "relu3_3".
        widths: output channels of each convolution: `VGGFeatures(widths=...)`.
        network: "VGG-16" or "VGG-19"; "VGG" if the file ends before the two differ.
    """

    sha256: str
    last_layer: str
    widths: tuple[int, ...]
    network: str = "VGG"


def load_vgg(path: str | Path, up_to: str = "relu3_3") -> tuple[dict[str, Any], VGGDescription]:
    """Reads weights with torchvision's names, features.0.weight and so on, for `VGGFeatures`.

    The two networks have the same layers up to relu3_3. Further on only those of VGG-16 are read: a file of VGG-19 ends
    at relu3_3.

    Args:
        path: `.pth` (its pickle is not run) or `.safetensors` of VGG-16 or VGG-19 without batch norm, whole or cut
            anywhere after conv3_1.
        up_to: the last layer to read, if the file has it: from "relu3_1" to "relu5_3". What follows is ignored.

    Returns:
        (params, description): `VGGFeatures(widths=description.widths)` takes these params.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, layers are missing, their shapes do not follow one another, or `up_to` is
            no layer of VGG.
    """
    layers = list(LAYERS)
    ends = [f"relu{layer}" for layer in layers[layers.index(_FIRST_END) :]]
    if up_to not in ends:
        raise ValueError(f"up_to is {up_to!r}, expected one of {', '.join(ends)}.")
    path = Path(path).expanduser()
    chosen = layers[: layers.index(up_to.removeprefix("relu")) + 1]
    names = {f"features.{LAYERS[layer]}.{part}" for layer in chosen for part in ("weight", "bias")}
    tensors = read_tensors(path, (names | set(_ONLY_IN.values())).__contains__)
    network = next((network for network, name in _ONLY_IN.items() if name in tensors), "VGG")
    if network == "VGG-19":
        chosen = chosen[: layers.index(_SHARED_END) + 1]
    held = [layer for layer in chosen if f"features.{LAYERS[layer]}.weight" in tensors]
    needed = chosen[: max(layers.index(layer) for layer in (*held, _FIRST_END)) + 1]
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
    return params, VGGDescription(sha256_of(path), f"relu{needed[-1]}", widths, network)


def sha256_of(path: Path) -> str:
    """Digest of a weight file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
