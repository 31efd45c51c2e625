"""Frechet distances of a StyleALAE over as many images as published, of which a few are in memory at a time.

Reference:
    Pidhorskyi et al., 2020, arXiv:2004.04467, table 3, and the code released with it, metrics/fid.py and fid_rec.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax.data.batches import permutation
from mvae_jax.eval import fid
from mvae_jax.eval.features import Features
from mvae_jax.images import to_float
from mvae_jax.models.alae import style as style_alae
from mvae_jax.models.alae.style import layered, shrunk

if TYPE_CHECKING:
    from mvae_jax.experiment.suites.style import Evaluator

SETS = {"training": "train", "held-out": "validation"}  # words for the splits of the data
WORDS = {"images": "images", "reference_images": "compared with images"}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Which images, and how many, the Frechet distances are of that compare with published ones.

    Attributes:
        samples: how many; 0 leaves out all of these distances.
        reference: images that samples and reconstructions are compared with, "training" or "held-out" (AL-14).
        reference_images: how many of them, at random; 0 for all.
        reconstructed: images that are reconstructed, likewise (AL-06).
        reconstructions: how many of them; 0 for all. Others than the reference's, as far as there are others.
        style_mixing: share of the samples of which layers from a random one on take another latent (AL-14).
        mirrored: share of the reference's and of the reconstructed images that are turned into mirror images (AL-14).
    """

    samples: int = 0
    reference: str = "training"
    reference_images: int = 0
    reconstructed: str = "training"
    reconstructions: int = 0
    style_mixing: float = 0.9
    mirrored: float = 0.5

    def __post_init__(self) -> None:
        for name, none in {"samples": "none", "reference_images": "all", "reconstructions": "all"}.items():
            count = getattr(self, name)
            if count < 0 or count == 1:
                raise ValueError(f"evaluation.frechet.{name} is {count}; expected at least 2, or 0 for {none}.")
        for name in ("reference", "reconstructed"):
            if getattr(self, name) not in SETS:
                known = " or ".join(map(repr, SETS))
                raise ValueError(f"evaluation.frechet.{name} is {getattr(self, name)!r}; expected {known}.")
        for name in ("style_mixing", "mirrored"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"evaluation.frechet.{name} is {getattr(self, name)}; expected from 0 to 1.")


def check(data: Any, protocol: Protocol, image_size: int) -> None:
    """Refuses a protocol for which there are too few images. The released code, too, fails there, but afterwards.

    Args:
        data: the images.
        protocol: how many of them are measured on.
        image_size: largest height and width of the model's images.

    Raises:
        ValueError: there are fewer images than a number says.
    """
    if not protocol.samples:
        return
    for chosen, name in ((protocol.reference, "reference_images"), (protocol.reconstructed, "reconstructions")):
        available, count = len(data.examples(SETS[chosen], image_size)), getattr(protocol, name)
        if available < max(2, count):
            raise ValueError(
                f"evaluation.frechet.{name} is {count}, but there are {available} {chosen} images; expected at most as "
                "many, and at least 2: give fewer, or 0 for all."
            )


@dataclasses.dataclass(frozen=True)
class Distances:
    """Frechet distances of samples and of reconstructions.

    Attributes:
        samples: numbers of the samples, by keys that the words explain; empty where nothing was measured.
        reconstructions: likewise.
        features: those in which images were compared.
        problems: sets that are too small for their features, a sentence each.
    """

    samples: Mapping[str, float | int]
    reconstructions: Mapping[str, float | int]
    features: tuple[Features, ...]
    problems: tuple[str, ...]


def measure(measured: Evaluator, pause: Callable[[], None]) -> Distances:
    """The distances of a model in the features of every network of its evaluator.

    Images at full size are never kept: each block of them becomes features, and these a mean and a covariance.

    Args:
        measured: the model, its images and what they are measured with.
        pause: called after each block; may raise, to end the work.
    """
    protocol = measured.settings.frechet
    features = tuple(origin for _, origin in measured.extractors)
    if not (protocol.samples and features):
        return Distances({}, {}, features, ())
    real = _moments(measured, reference_images(measured), pause)
    found = [
        [
            fid.frechet_distance_of_sets(a, b, features=origin, split=f"{protocol.reference} images")
            for a, b, origin in zip(_moments(measured, pictures, pause), real, features, strict=True)
        ]
        for pictures in (samples(measured), reconstructions(measured))
    ]
    problems = dict.fromkeys(problem for distances in found for distance in distances for problem in distance.problems)
    return Distances(_row(found[0]), _row(found[1]), features, tuple(problems))


def explain(protocol: Protocol, result: Distances) -> str:
    """How the distances were measured, in words; "" where none were asked for."""
    if not protocol.samples:
        return ""
    if not result.samples:
        return "Not measured: that takes the weights of Inception (--config.evaluation.inception)."
    return (
        f"{result.samples['images']} samples, not truncated, with noise, {protocol.style_mixing:.0%} of them of two "
        f"latents, and reconstructions of {result.reconstructions['images']} {protocol.reconstructed} images, beside "
        f"{result.samples['reference_images']} {protocol.reference} images. Of the images of the data, "
        f"{protocol.mirrored:.0%} are mirrored. Published distances are of 50,000 samples and training images, in the "
        "features of Inception."
    )


def notes(protocol: Protocol, inception: str) -> tuple[str, ...]:
    """What is not measured for want of a file, a sentence; empty if nothing is."""
    if not protocol.samples or inception:
        return ()
    return (
        "Frechet distances do not compare with published ones: give the weights of Inception, evaluation.inception.",
    )


def _row(distances: Sequence[fid.FrechetDistance]) -> dict[str, float | int]:
    values = {f"{prefix_of(item.features)}frechet_distance": item.value for item in distances}
    return {"images": distances[0].count_a, "reference_images": distances[0].count_b, **values}


def prefix_of(features: Features) -> str:
    """Of the keys of numbers in these features: a network with a file is Inception."""
    return "inception_" if features.sha256 else ""


# --- blocks of images ----------------------------------------------------------------------------------------------


def reference_images(measured: Evaluator) -> Iterator[jax.Array]:
    """Blocks of the images that others are compared with, [b, S, S, C] in [-1, 1] at the model's resolution."""
    protocol = measured.settings.frechet
    order = _order(measured, protocol.reference)
    return _images(measured, protocol.reference, order[: protocol.reference_images or None], stream=5)


def samples(measured: Evaluator) -> Iterator[jax.Array]:
    """Blocks of samples, likewise: with styles mixed and noise, not truncated."""
    protocol, run = measured.settings.frechet, measured.run
    streams = [measured.keys(stream, protocol.samples) for stream in (1, 2, 6, 7)]
    for part in _parts(measured, protocol.samples):
        latents, noise, others, layers = (keys[part] for keys in streams)
        w, other = (layered(run.map(measured.latents(keys)), measured.size) for keys in (latents, others))
        w = style_alae.mixed_at_random(w, other, layers, protocol.style_mixing)
        yield jnp.clip(run.draw(w, noise), -1, 1)


def reconstructions(measured: Evaluator) -> Iterator[jax.Array]:
    """Blocks of images from their codes, likewise, with noise."""
    protocol = measured.settings.frechet
    # From the other end of the order than the reference, so that they share as few images as can be.
    rows = _order(measured, protocol.reconstructed)[-protocol.reconstructions :]
    noise, images = measured.keys(8, len(rows)), _images(measured, protocol.reconstructed, rows, stream=9)
    for part, x in zip(_parts(measured, len(rows)), images, strict=True):
        yield measured.reconstructed(x, noise[part])


def _order(measured: Evaluator, chosen: str) -> np.ndarray:
    """A random order of a set of images, the same whenever it is asked for."""
    return permutation(len(measured.data.examples(SETS[chosen], measured.size)), measured.seed, 5)


def _images(measured: Evaluator, chosen: str, rows: np.ndarray, stream: int) -> Iterator[jax.Array]:
    """Blocks of images of the data, some of them mirrored."""
    examples, keys = measured.data.examples(SETS[chosen], measured.size), measured.keys(stream, len(rows))
    rows = np.sort(rows)  # neighbours on the disk are read together
    for part in _parts(measured, len(rows)):
        x = shrunk(to_float(jnp.asarray(examples.take(rows[part])["image"])), measured.size)
        turned = jax.vmap(lambda key: jax.random.bernoulli(key, measured.settings.frechet.mirrored))(keys[part])
        yield jnp.where(turned[:, None, None, None], x[:, :, ::-1], x)


def _parts(measured: Evaluator, count: int) -> Iterator[slice]:
    for first in range(0, count, measured.chunk):
        yield slice(first, min(first + measured.chunk, count))


def _moments(measured: Evaluator, blocks: Iterator[jax.Array], pause: Callable[[], None]) -> list[fid.RunningMoments]:
    """Mean and covariance of the features of images, for each network of features."""
    moments = [fid.RunningMoments() for _ in measured.extractors]
    for block in blocks:
        for sums, (extract, _) in zip(moments, measured.extractors, strict=True):
            sums.add(measured.features(extract, block))
        pause()
    return moments
