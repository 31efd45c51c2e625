"""Perceptual distance of two images: LPIPS, or the plain distance of VGG's activations that it calibrates.

At each pixel of some layers, activations are scaled to unit norm over their channels; the distance sums, over channels
and layers, their weighted squared differences, each layer averaged over its pixels. LPIPS learned the weights from
people's judgements. With weights of 1 a layer gives 2 - 2 cos of the angle between the activations, in [0, 2]; where
all are 0 on one side, 1.

With other weights, layers or files it is another measure: `PerceptualDistance` tells them apart by name and hash.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax.nets.torch_weights import read_tensors
from mvae_jax.nets.vgg import VGGFeatures, load_vgg, sha256_of

LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")  # the last of each block of VGG-16
_EPSILON = 1e-10  # added to norms


def activation_distance(
    activations_a: Mapping[str, jax.Array], activations_b: Mapping[str, jax.Array], weights: Mapping[str, jax.Array]
) -> jax.Array:
    """Sum over layers l of the mean over pixels of sum_c w_lc (a_lc / |a_l| - b_lc / |b_l|)^2.

    Args:
        activations_a: by layer, [B, H_l, W_l, C_l]; layers that have no weights are ignored.
        activations_b: the same shapes.
        weights: by layer, [C_l], not negative.

    Returns:
        One distance per example, [B], from 0.

    Reference:
        Zhang et al., 2018, arXiv:1801.03924, equation 1.
    """

    def term(layer: str) -> jax.Array:
        a, b = activations_a[layer], activations_b[layer]
        chex.assert_equal_shape([a, b])
        return (jnp.square(_normalised(a) - _normalised(b)) * weights[layer].reshape(1, 1, 1, -1)).sum(-1).mean((1, 2))

    return jnp.stack([term(layer) for layer in weights]).sum(0)


def _normalised(h: jax.Array) -> jax.Array:
    """Scales activations to unit norm over the last axis; zeros stay."""
    square = jnp.square(h).sum(-1, keepdims=True)
    norm = jnp.sqrt(jnp.where(square > 0, square, 1.0))  # the root has no finite gradient at 0
    return h / (norm + _EPSILON)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PerceptualDistance:
    """A distance of images that is ready to use: distance(images_a, images_b) -> [B]. A pytree, and differentiable.

    Attributes:
        params: of `VGGFeatures`.
        weights: by layer, [C].
        name: what it is.
        sha256: of the files that it was made from: VGG's, and that of the linear weights if there is one.
    """

    params: dict[str, Any]
    weights: dict[str, jax.Array]
    name: str = dataclasses.field(metadata={"static": True})
    sha256: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    def __call__(self, images_a: jax.Array, images_b: jax.Array) -> jax.Array:
        """Distances of images [B, H, W, 3], float in [-1, 1], and others of that shape; float32 [B].

        ImageNet's normalisation of [0, 1] is what LPIPS calls its scaling layer: (x - shift) / scale with shift (-.030,
        -.088, -.188) and scale (.458, .448, .450) of x in [-1, 1]. Images in [0, 255] that other versions map likewise
        have the same distances.

        Raises:
            ValueError: the images are too small for the network's pools.
        """
        chex.assert_rank([images_a, images_b], 4)
        chex.assert_equal_shape([images_a, images_b])
        chex.assert_type([images_a, images_b], float)
        return _distance(self, images_a, images_b)


@jax.jit
def _distance(distance: PerceptualDistance, images_a: jax.Array, images_b: jax.Array) -> jax.Array:
    net = VGGFeatures(tuple(layer["bias"].size for layer in distance.params.values()))
    last = max(distance.weights)
    smallest = 2 ** (int(last.removeprefix("relu")[0]) - 1)  # one pool between two blocks
    if min(images_a.shape[1:3]) < smallest:
        raise ValueError(
            f"images have shape {images_a.shape[1:]}, expected at least {smallest} x {smallest} pixels, of which "
            f"{last} makes one: enlarge them, or take a distance that ends earlier."
        )

    def activations(images: jax.Array) -> Any:
        return net.apply({"params": distance.params}, images, method="activations")

    return activation_distance(activations(images_a), activations(images_b), distance.weights)


def load_perceptual_distance(vgg_path: str | Path, lpips_path: str | Path | None = None) -> PerceptualDistance:
    """Reads LPIPS with VGG-16; without its linear weights, the distance of VGG's activations with weights of 1.

    Without them any file will do that `load_vgg` reads: the distance is then at the last ReLU that the file has of each
    block. With VGG-16 whole it is the baseline that LPIPS was compared with.

    Args:
        vgg_path: as for `load_vgg`: torchvision's `vgg16-397923af.pth`, or what is at hand.
        lpips_path: `lpips/weights/v0.1/vgg.pth` of the authors' package, with lin0.model.1.weight to
            lin4.model.1.weight, [1, C, 1, 1]; or the state of their whole model.

    Returns:
        The distance.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file cannot be read; or there is a `lpips_path` and the other file is not of VGG-16 up to conv5_3,
            or the linear weights are missing, of another network, negative or not finite.

    Reference:
        Zhang et al., 2018, arXiv:1801.03924, section 3.
    """
    params, vgg = load_vgg(vgg_path, LAYERS[-1])
    widths = {f"relu{name.removeprefix('conv')}": int(layer["bias"].size) for name, layer in params.items()}
    if lpips_path is None:
        last_of_block = {layer.split("_")[0]: layer for layer in widths}
        weights = {layer: jnp.ones(widths[layer]) for layer in last_of_block.values()}
        return PerceptualDistance(
            params, weights, f"{vgg.network} {', '.join(weights)}, uniform weights", (vgg.sha256,)
        )
    if vgg.last_layer != LAYERS[-1]:
        raise ValueError(
            f"{vgg_path} gives {vgg.network} up to {vgg.last_layer}, expected VGG-16 up to {LAYERS[-1]}, for which the "
            "weights of LPIPS were learned. Without them (lpips_path=None) its activations make another distance."
        )
    weights, sha256 = _linear_weights(Path(lpips_path).expanduser(), {layer: widths[layer] for layer in LAYERS})
    return PerceptualDistance(params, weights, "LPIPS, VGG-16", (vgg.sha256, sha256))


def _linear_weights(path: Path, widths: Mapping[str, int]) -> tuple[dict[str, jax.Array], str]:
    """(weights by layer [C], sha256 of the file)."""
    names = {layer: f"lin{place}.model.1.weight" for place, layer in enumerate(widths)}
    tensors = read_tensors(path, set(names.values()).__contains__)
    weights = {}
    for layer, width in widths.items():
        weight = tensors.get(names[layer])
        if weight is None or weight.shape != (1, width, 1, 1):
            content = "no such array" if weight is None else f"shape {weight.shape}"
            raise ValueError(
                f"{path}: {names[layer]} has {content}, expected (1, {width}, 1, 1): the linear weights for VGG-16, "
                "lpips/weights/v0.1/vgg.pth."
            )
        if not (np.isfinite(weight) & (weight >= 0)).all():
            raise ValueError(
                f"{path}: {names[layer]} has values that are negative or not finite, expected weights of squares: "
                "the file is damaged, or of another measure."
            )
        weights[layer] = jnp.asarray(weight.reshape(width), jnp.float32)
    return weights, sha256_of(path)
