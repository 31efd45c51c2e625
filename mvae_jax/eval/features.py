"""Features in which sets of images are compared, and what every such comparison depends on.

No distance of two sets is comparable across networks, numbers of examples or ways of resizing images. So results are
frozen dataclasses that carry what they depend on (`Comparison`); their `to_dict()` gives plain numbers and strings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from mvae_jax.eval import _results
from mvae_jax.eval._arguments import check_finite, measure
from mvae_jax.images import to_uint8
from mvae_jax.nets.inception import InceptionV3, Preprocessing, load_inception


@dataclasses.dataclass(frozen=True)
class Features:
    """Origin of features: a network, its weights, and the preparation of its images.

    Attributes:
        network: which one, and which layer of it.
        sha256: of the file of its weights; None for a network that has no file, such as one trained within the run.
        preprocessing: how images were resized and scaled for it; None if they were not.
        accuracy: of a network trained within the run, on images that it was not trained on, in [0, 1]; None otherwise.
            A distance in the features of a network that has learnt little says little.
    """

    network: str
    sha256: str | None = None
    preprocessing: str | None = None
    accuracy: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison(_results.Result):
    """Conditions of a comparison of two sets of images.

    Attributes:
        features: their origin.
        split: which images they are, in the caller's words.
        dimensions: F, numbers per image.
        count_a: images of the first set.
        count_b: images of the second set.
    """

    features: Features
    split: str
    dimensions: int
    count_a: int
    count_b: int

    @classmethod
    def of(cls, a: np.ndarray, b: np.ndarray, features: Features, split: str, **values: Any) -> Self:
        """A result, with what it depends on.

        Args:
            a: [N, F].
            b: [M, F].
            features: what made them.
            split: which images they are.
            **values: the fields that the class adds.
        """
        return cls(features=features, split=split, dimensions=a.shape[1], count_a=len(a), count_b=len(b), **values)


@measure()
def check_features(features: npt.ArrayLike, least: int = 2) -> np.ndarray:
    """Features as an array [N, F].

    Raises:
        ValueError: `features` are not [N, F], N is below `least`, or a feature is not finite.
    """
    features = np.asarray(features)
    if features.ndim != 2 or len(features) < least or not features.size:
        raise ValueError(f"features have shape {features.shape}, expected [N, F] with at least {least} examples.")
    return features


@measure()
def check_pair(features_a: npt.ArrayLike, features_b: npt.ArrayLike, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of features as arrays [N, F] and [M, F].

    Raises:
        ValueError: a set is not a matrix, F differs, N or M is below `least`, or a feature is not finite.
    """
    a, b = check_features(features_a, least), check_features(features_b, least)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"features have shapes {a.shape} and {b.shape}, expected as many per example: give both the output of one "
            "network."
        )
    return a, b


def inception_features(
    path: str | Path, *, preprocessing: Preprocessing = "tensorflow1", chunk: int = 50
) -> tuple[Callable[[npt.ArrayLike], np.ndarray], Features]:
    """The function from images to the features of the Fréchet inception distance.

    Float images are first rounded to the nearest of 256 values, as if they had been stored: a generator is compared by
    the pictures that it would save. (Released code of ALAE truncates, which darkens them by half a value.)

    Args:
        path: weights, as for `nets.inception.load_inception`.
        preprocessing: "tensorflow1" as published distances have it, "pytorch_fid" as that package; see
            `nets.inception.Preprocessing`. Numbers of the two do not compare.
        chunk: images at a time.

    Returns:
        (extract, features): `extract` maps images [N, H, W, 3] of any size, uint8 or float in [-1, 1], to features
        float32 [N, 2048]; `features` describes them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not of this network, `preprocessing` is unknown, or `chunk` is below 1. `extract` raises
            it where images are not [N, H, W, 3], of another type, or not finite.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}, expected at least one image at a time.")
    variables, description = load_inception(path)
    network = jax.jit(InceptionV3(preprocessing, description.divisor).apply)

    def extract(images: npt.ArrayLike) -> np.ndarray:
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] != 3 or not images.size:
            raise ValueError(
                f"images have shape {images.shape}, expected [N, H, W, 3]; grey ones need their channel three times."
            )
        if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(f"images are {images.dtype}, expected uint8, or float in [-1, 1].")
        check_finite(images, "images")
        size = min(chunk, len(images))
        blocks = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            stored = part if part.dtype == np.uint8 else np.asarray(to_uint8(jnp.asarray(part, jnp.float32)))
            # Filled up to the size of the others: another size would be compiled anew.
            filled = np.concatenate([stored, np.zeros((size - len(part), *part.shape[1:]), np.uint8)])
            blocks.append(np.asarray(network(variables, filled))[: len(part)])
        return np.concatenate(blocks)

    return extract, Features("Inception-v3 of 2015-12-05, pool_3", description.sha256, preprocessing)
