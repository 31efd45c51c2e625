"""Perceptual path length: how much images change, to the eye, along straight paths between latents.

A number depends on the distance of images, on their size and crop, and on the space and the part of the path; results
carry all of them. With bfloat16 or TF32 the rounding of images is larger than the effect of a step: here products are
computed in float32 on every device, and functions that compute in half precision are refused.

Reference:
    Karras et al., 2019, arXiv:1812.04948, section 4.1; Pidhorskyi et al., 2020, arXiv:2004.04467, table 4.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from mvae_jax import gaussian, random
from mvae_jax.eval import _results
from mvae_jax.eval._arguments import check_finite, device_measure, measure
from mvae_jax.numerics import in_float32

SAMPLINGS = ("full", "end")
# Side of the part that is compared, as a share of the side of the image. Faces of CelebA at 128 px fill more of it.
CROPS = {"face": 4 / 8, "celeba": 4 / 8 * 2 / 1.641}
_LARGEST = 256  # pixels; beyond, means of pixels are compared


class Distance(Protocol):
    """Distance of two sets of images, such as `nets.lpips.PerceptualDistance`."""

    @property
    def name(self) -> str:
        """Name of the measure and its network."""

    @property
    def sha256(self) -> tuple[str, ...]:
        """Sums of the files that it was made from."""

    def __call__(self, images_a: jax.Array, images_b: jax.Array) -> jax.Array:
        """Distances of images [B, H, W, C], float in [-1, 1], and others; [B], near 0 like a squared difference."""


@dataclasses.dataclass(frozen=True)
class SquaredPixelDistance:
    """Squared difference of values in [0, 1], summed: for images that no perceptual network knows, such as digits.

    In it the shortest path between two images fades from one to the other.
    """

    name: str = "squared difference of pixel values in [0, 1], summed"
    sha256: tuple[str, ...] = ()

    def __call__(self, images_a: jax.Array, images_b: jax.Array) -> jax.Array:
        """Distances of images [B, H, W, C] in [-1, 1] and others, [B]."""
        return jnp.square((images_a - images_b) / 2).sum((1, 2, 3))


@dataclasses.dataclass(frozen=True)
class PerceptualPathLength(_results.Result):
    """Mean length of a path, and what it depends on.

    Attributes:
        value: mean over the pairs that were kept, of distance / epsilon^2.
        standard_error: of `value`, estimated from the spread over pairs; what other keys give differs by about as much.
        pairs: pairs of latents that were drawn.
        kept: how many of them are within the percentiles.
        percentiles: outside of which pairs were left out as outliers.
        space: "lerp", straight lines, or "slerp", arcs of great circles.
        sampling: "full", steps anywhere on the path, or "end", at its start.
        epsilon: the step, as a share of the path.
        crop: which part of the images was compared; None for all.
        pixels: height and width of what was compared.
        distance: the name of the distance of images.
        sha256: of its files.
    """

    value: float
    standard_error: float
    pairs: int
    kept: int
    percentiles: tuple[float, float]
    space: str
    sampling: str
    epsilon: float
    crop: str | None
    pixels: tuple[int, int]
    distance: str
    sha256: tuple[str, ...]


@measure()
def perceptual_path_length(
    draw: Callable[[jax.Array, jax.Array], jax.Array],
    sample_latents: Callable[[jax.Array], jax.Array],
    distance: Distance,
    *,
    key: jax.Array,
    space: str = "lerp",
    sampling: str = "full",
    epsilon: float = 1e-4,
    pairs: int = 50_000,
    batch_size: int = 16,
    crop: str | None = None,
    percentiles: tuple[float, float] = (1, 99),
) -> PerceptualPathLength:
    """Mean over pairs of latents of d(image(t), image(t + epsilon)) / epsilon^2, with t from U(0, 1) or 0.

    Both images of a pair have the same noise. Every pair has a key of its own, for latents, t and noise, so that the
    result does not depend on the batch size. (The released code shares one noise within a batch, and gives images in
    [0, 255] to a network that maps them to the same inputs; neither changes what is estimated.)

    "lerp" is for the space W that a mapping network makes, "slerp" for the Gaussian draws z before it. There both ends
    are first scaled to norm sqrt(D), the typical one of such draws; to a mapping network that begins with `pixel_norm`
    these are the published paths, on the unit sphere.

    A step is computed by itself and added to where it starts: 1e-4 of a path as the difference of two points of it, in
    float32, has a squared length that is wrong by up to 1e-3, and 2e-4 too large on average.

    Args:
        draw: (latents [B, ..., D], keys [B]) -> images [B, H, W, C], float in [-1, 1], the noise of each by its own
            key. A pure function that is called as it is: best `functools.partial(jax.jit(f), params, state)`, since
            parameters within a jitted function are compiled into it.
        sample_latents: keys [B] -> latents [B, ..., D], float32, each by its own key; likewise. For W it includes the
            mapping network.
        distance: of images.
        key: a key that serves nothing else.
        space: "lerp" or "slerp".
        sampling: "full", t from U(0, 1), or "end", t = 0.
        epsilon: the step.
        pairs: of latents, 2 at least.
        batch_size: pairs at a time; twice as many images.
        crop: part of square images that is compared: "face" is the published one for aligned faces, rows 3c to 7c and
            columns 2c to 6c with c an eighth of the side; "celeba" has its centre and a side of 4.9 c, as the released
            code for CelebA at 128 px; None compares all, as published for other images.
        percentiles: between which pairs are kept, both included; (0, 100) keeps all.

    Returns:
        The length. Images of which more than 256 pixels a side are left are compared by means of pixels.

    Raises:
        ValueError: `space`, `sampling` or `crop` is unknown; a number is out of range; a function computes in half
            precision; images are not square where they are cropped, or too small for it; a distance is not finite.

    Reference:
        Karras et al., 2019, arXiv:1812.04948, section 4.1, equations 2 and 3.
    """
    for option, choice, choices in (
        ("space", space, tuple(SPACES)),
        ("sampling", sampling, SAMPLINGS),
        ("crop", crop, (None, *CROPS)),
    ):
        if choice not in choices:
            raise ValueError(f"{option} is {choice!r}, expected one of {', '.join(map(repr, choices))}.")
    if pairs < 2 or batch_size < 1 or not 0 < epsilon < 1:
        raise ValueError(
            f"pairs is {pairs}, batch_size {batch_size} and epsilon {epsilon:g}, expected at least 2, at least 1, and "
            "between 0 and 1."
        )

    def steps(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys [B], one for a pair, to distances [B] and images [B, H, W, C]."""
        start_keys, end_keys, place_keys, noise_keys = _split(keys)
        start, end = jnp.split(sample_latents(jnp.concatenate([start_keys, end_keys])), 2)
        latents = _points(start, end, place_keys if sampling == "full" else None, SPACES[space], epsilon)
        a, b = jnp.split(comparable(draw(latents, jnp.concatenate([noise_keys, noise_keys])), crop), 2)
        return distance(a, b), a

    keys, batch_size, blocks = random.example_keys(key, pairs), min(batch_size, pairs), []
    with jax.default_matmul_precision("highest"):  # accelerators would take TF32 or bfloat16 instead
        traced, (_, image) = jax.make_jaxpr(steps, return_shape=True)(keys[:batch_size])
        halves = sorted(set(re.findall(r"\bb?f16(?=\[)", str(traced))))
        if halves:
            raise ValueError(
                f"draw, sample_latents or distance compute in {' and '.join(halves)}, whose rounding is larger than "
                "the effect of a step: build the model with compute_dtype='float32'; its parameters fit."
            )
        for first in range(0, pairs, batch_size):
            batch = np.arange(first, first + batch_size) % pairs  # the last one is filled up, so that shapes stay
            blocks.append(np.asarray(steps(keys[batch])[0], np.float64))
    distances = np.concatenate(blocks)[:pairs]
    check_finite(distances, "distances")
    value, standard_error, kept = trimmed_mean(distances / epsilon**2, percentiles)
    return PerceptualPathLength(
        value=value,
        standard_error=standard_error,
        pairs=pairs,
        kept=kept,
        percentiles=percentiles,
        space=space,
        sampling=sampling,
        epsilon=epsilon,
        crop=crop,
        pixels=image.shape[1:3],
        distance=distance.name,
        sha256=distance.sha256,
    )


@measure()
def lengths_of_both_spaces(
    draw: Callable[[jax.Array, jax.Array], jax.Array],
    to_w: Callable[[jax.Array], jax.Array],
    sample_z: Callable[[jax.Array], jax.Array],
    distance: Distance,
    **options: Any,
) -> dict[str, PerceptualPathLength]:
    """Path lengths of a generator with a mapping network: in Z along arcs, in W along lines, whole and at the start.

    All four are of the same pairs of z. Where W is the less entangled space, its paths are the shorter ones.

    Args:
        draw: (w [B, D], keys [B]) -> images [B, H, W, C], as for `perceptual_path_length`.
        to_w: the mapping network, z [B, D] -> w [B, D].
        sample_z: keys [B] -> z [B, D].
        distance: of images.
        **options: further ones of `perceptual_path_length`.

    Returns:
        "z_full", "z_end", "w_full" and "w_end" -> the length.

    Raises:
        ValueError: as `perceptual_path_length`.

    Reference:
        Karras et al., 2019, arXiv:1812.04948, table 3; Pidhorskyi et al., 2020, arXiv:2004.04467, table 4.
    """
    spaces: dict[str, tuple[str, Callable[..., Any], Callable[..., Any]]] = {
        "z": ("slerp", lambda z, keys: draw(to_w(z), keys), sample_z),
        "w": ("lerp", draw, lambda keys: to_w(sample_z(keys))),
    }
    return {
        f"{name}_{sampling}": perceptual_path_length(
            decode, sample, distance, space=space, sampling=sampling, **options
        )
        for name, (space, decode, sample) in spaces.items()
        for sampling in SAMPLINGS
    }


@device_measure()
def line_step(
    start: jax.Array, end: jax.Array, place: jax.Array | float, epsilon: float
) -> tuple[jax.Array, jax.Array]:
    """The points of a straight line at t and at t + epsilon, without cancellation.

    Args:
        start: [..., D].
        end: [..., D].
        place: t; scalar, or of the rank of `start` and broadcastable against it.
        epsilon: the step, as a share of the line.

    Returns:
        Two points, each [..., D].
    """
    point = gaussian.lerp(start, end, place)
    return point, point + epsilon * (end - start)


@device_measure()
def arc_step(start: jax.Array, end: jax.Array, place: jax.Array | float, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """The points of a great circle at t and at t + epsilon, without cancellation.

    Both ends are scaled to norm r = sqrt(D). With u the direction of the start, v the unit vector orthogonal to it in
    the plane of both, and w the angle between them, a point is r (cos(t w) u + sin(t w) v), and a step from it
    2 r sin(epsilon w / 2) (cos(m w) v - sin(m w) u) with m = t + epsilon / 2. Equal
    directions make no step. Arguments and results as in `line_step`.

    Reference:
        Shoemake, 1985, Animating rotation with quaternion curves.
    """
    u, to = _direction(start), _direction(end)
    cosine = (u * to).sum(-1, keepdims=True)
    across = to - cosine * u
    v = _direction(across)
    angle = jnp.arctan2(jnp.linalg.norm(across, axis=-1, keepdims=True), cosine)
    radius, middle = math.sqrt(start.shape[-1]), (place + epsilon / 2) * angle
    point = radius * (jnp.cos(place * angle) * u + jnp.sin(place * angle) * v)
    return point, point + 2 * radius * jnp.sin(epsilon * angle / 2) * (jnp.cos(middle) * v - jnp.sin(middle) * u)


def _direction(vectors: jax.Array) -> jax.Array:
    norm = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / jnp.where(norm > 0, norm, 1.0)


SPACES: Mapping[str, Callable[..., tuple[jax.Array, jax.Array]]] = {"lerp": line_step, "slerp": arc_step}


@jax.jit
def _split(keys: jax.Array) -> jax.Array:
    """Four keys of each key, [4, B]."""
    return jax.vmap(lambda key: jax.random.split(key, 4), out_axes=1)(keys)


@functools.partial(jax.jit, static_argnames=("step", "epsilon"))
def _points(
    start: jax.Array,
    end: jax.Array,
    place_keys: jax.Array | None,
    step: Callable[..., tuple[jax.Array, jax.Array]],
    epsilon: float,
) -> jax.Array:
    """Both ends of a step on each of B paths, [2B, ..., D]; at the start where there are no keys for places."""
    # In the type of the latents: the default is another one where `jax_enable_x64` is set.
    draw = functools.partial(jax.random.uniform, dtype=start.dtype)
    places = jnp.zeros(len(start), start.dtype) if place_keys is None else jax.vmap(draw)(place_keys)
    return jnp.concatenate(step(start, end, places.reshape(-1, *(1,) * (start.ndim - 1)), epsilon))


@in_float32
@functools.partial(jax.jit, static_argnames="crop")
def comparable(images: jax.Array, crop: str | None) -> jax.Array:
    """The part of images [B, H, W, C] that is compared, above 256 pixels as means of k x k pixels.

    k is the most that leaves 256 on the shorter side; rows and columns of an incomplete block are dropped. `crop` is as
    for `perceptual_path_length`.

    Raises:
        ValueError: there is a crop, and images are not square or their side is not a multiple of 8 pixels.
    """
    chex.assert_rank(images, 4)
    if crop is not None:
        side = images.shape[1]
        if images.shape[2] != side or side % 8:
            raise ValueError(
                f"images have shape {images.shape[1:]}, expected a square with a side that is a multiple of 8 pixels, "
                f"to take the part {crop!r} of; crop=None compares all of an image."
            )
        row, column, half = 5 * side // 8, side // 2, int(CROPS[crop] * side) // 2
        images = images[:, row - half : row + half, column - half : column + half]
    b, h, w, c = images.shape
    k = max(1, min(h, w) // _LARGEST)
    return images[:, : h // k * k, : w // k * k].reshape(b, h // k, k, w // k, k, c).mean((2, 4))


@measure()
def trimmed_mean(values: npt.ArrayLike, percentiles: tuple[float, float]) -> tuple[float, float, int]:
    """Mean of the values between two percentiles, its standard error, and how many values there are.

    The percentiles are values that occur, the next lower and the next higher one, and are themselves included. The
    error is estimated by s sqrt(n) / k, with k of n values kept and s the standard deviation of all after those
    outside are moved to the nearer percentile.

    Args:
        values: [N], N at least 2.
        percentiles: low and high, within [0, 100].

    Returns:
        (mean, standard error, count).

    Raises:
        ValueError: the percentiles are not in order.

    Reference:
        Tukey and McLaughlin, 1963, Less vulnerable confidence and significance procedures for location.
    """
    values, (low, high) = np.asarray(values, np.float64), percentiles
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles are {percentiles}, expected a lower and a higher one from 0 to 100.")
    lowest, highest = np.percentile(values, low, method="lower"), np.percentile(values, high, method="higher")
    kept = values[(lowest <= values) & (values <= highest)]
    deviation = np.clip(values, lowest, highest).std(ddof=1)
    return float(kept.mean()), float(deviation * math.sqrt(values.size) / kept.size), kept.size
