"""Random changes of pictures that leave their meaning: what a classifier should not look at.

Images are float32 [H, W, C] in [-1, 1], one at a time but for `augment` and `perturb`, which draw with one key per
example, so that the draws do not depend on how the batch is spread over devices. Results of `augment` may leave
[-1, 1].
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Strengths of random changes of images; zeros leave them as they are.

    Attributes:
        flip: probability of a mirror image, in [0, 1].
        shift: largest shift along each axis, in pixels; all up to it are equally likely.
        contrast: standard deviation of the log of the factor of all pixel values.
        colour_contrast: standard deviation of the log of a further factor of each channel.
        colour_offset: standard deviation of what is added to each channel.
        saturation: the distance from grey is multiplied by a factor uniform in 1 - saturation to 1 + saturation, at
            most 1.
        blur: largest share of the 3x3 mean in the result, in [0, 1]. Half of the images stay sharp, and the share of
            the others is uniform.
        noise: largest standard deviation of the noise of each pixel; that of an image is uniform.
    """

    flip: float = 0.5
    shift: int = 4
    contrast: float = 0.25
    colour_contrast: float = 0.1
    colour_offset: float = 0.1
    saturation: float = 0.6
    blur: float = 1.0
    noise: float = 0.06

    def __post_init__(self) -> None:
        _check_strengths(self, shares=("flip", "saturation", "blur"))


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """Strengths of random changes of photographs, of position and light; zeros leave them as they are.

    Attributes:
        flip: probability of a mirror image, in [0, 1].
        flip_batches: decide it once for all images of a batch, not for each.
        translation: standard deviation of the shift along each axis, in heights and widths of the image.
        scale: standard deviation of the factor by which the image grows, whose mean is 1.
        rotation: standard deviation of the angle, in radians.
        gamma: s, the spread of the power to which pixel values in [0, 1] are raised: exp((s^2 + s n) / log 2), where n
            is a standard normal draw.
        contrast: likewise, of saturation and value (the brightest channel) in HSV.
        hue: standard deviation of the shift of hue, in turns of the colour circle.

    Reference:
        Larsen et al., 2016, arXiv:1512.09300, released code, which moves crops of 148 pixels by a deviation of 2.
    """

    flip: float = 0.5
    flip_batches: bool = False
    translation: float = 2 / 148
    scale: float = 0.01
    rotation: float = 0.01
    gamma: float = 0.05
    contrast: float = 0.05
    hue: float = 0.01

    def __post_init__(self) -> None:
        _check_strengths(self, shares=("flip",))


def _check_strengths(strengths: Augmentation | Perturbation, shares: tuple[str, ...]) -> None:
    for name, value in dataclasses.asdict(strengths).items():
        most = 1.0 if name in shares else math.inf
        if not 0 <= value <= most:
            expected = "between 0 and 1" if name in shares else "at least 0"
            raise ValueError(f"augmentation.{name} is {value}; expected a number {expected}, and 0 for none.")


def augment(keys: jax.Array, images: jax.Array, augmentation: Augmentation) -> jax.Array:
    """Changes each image at random: flip, shift, contrast and colour, saturation, blur, noise.

    Args:
        keys: one key per example, [B], such as `random.example_keys` gives; they serve nothing else.
        images: [B, H, W, C] in [-1, 1].
        augmentation: how strongly.

    Returns:
        Images [B, H, W, C], no longer bound to [-1, 1].
    """

    def change(key: jax.Array, image: jax.Array) -> jax.Array:
        flip, by, gain, channel_gains, offsets, grey, soft, level, noise = jax.random.split(key, 9)
        channels, signed = (1, 1, image.shape[-1]), functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0)
        if augmentation.flip:
            image = jnp.where(jax.random.bernoulli(flip, augmentation.flip), image[:, ::-1], image)
        if augmentation.shift:
            image = shift(image, jax.random.randint(by, (2,), -augmentation.shift, augmentation.shift + 1))
        if augmentation.contrast or augmentation.colour_contrast or augmentation.colour_offset:
            log_gain = augmentation.contrast * jax.random.normal(gain)
            log_gains = log_gain + augmentation.colour_contrast * jax.random.normal(channel_gains, channels)
            image = image * jnp.exp(log_gains) + augmentation.colour_offset * jax.random.normal(offsets, channels)
        if augmentation.saturation:
            image = saturate(image, 1.0 + augmentation.saturation * signed(grey))
        if augmentation.blur:
            image = blur(image, augmentation.blur * jnp.maximum(0.0, signed(soft)))
        if not augmentation.noise:
            return image
        return image + augmentation.noise * jax.random.uniform(level) * jax.random.normal(noise, image.shape)

    return jax.vmap(change)(keys, images)


def perturb(keys: jax.Array, images: jax.Array, perturbation: Perturbation, batch_key: jax.Array) -> jax.Array:
    """Changes each image at random: place, size and angle, then gamma, contrast and hue, then perhaps a mirror image.

    Args:
        keys: one key per example, [B], such as `random.example_keys` gives; they serve nothing else.
        images: [B, H, W, C] in [-1, 1]; of 3 channels, red, green and blue, unless contrast and hue are 0.
        perturbation: how strongly.
        batch_key: one key for the whole batch, the same on all devices, for `flip_batches`; it serves nothing else.

    Returns:
        Images [B, H, W, C] in [-1, 1].
    """
    moves = perturbation.translation or perturbation.scale or perturbation.rotation
    recolours = perturbation.contrast or perturbation.hue

    def power(key: jax.Array, spread: float) -> jax.Array:
        return jnp.exp((spread**2 + spread * jax.random.normal(key)) / math.log(2.0))

    def change(key: jax.Array, image: jax.Array) -> jax.Array:
        place, size, angle, light, colour, turn, flip = jax.random.split(key, 7)
        if moves:
            offset = perturbation.translation * jnp.array(image.shape[:2]) * jax.random.normal(place, (2,))
            factor = 1.0 + perturbation.scale * jax.random.normal(size)
            image = warp(image, offset, factor, perturbation.rotation * jax.random.normal(angle))
        if perturbation.gamma or recolours:
            image = jnp.clip(0.5 * image + 0.5, 0.0, 1.0)  # rounding below 0 would become NaN
            image = image ** power(light, perturbation.gamma)
            if recolours:
                exponent = power(colour, perturbation.contrast)
                hue, saturation, value = to_hsv(image)
                hue = hue + perturbation.hue * jax.random.normal(turn)
                image = from_hsv(hue, saturation**exponent, value**exponent)
            image = 2.0 * image - 1.0
        flips = jax.random.bernoulli(batch_key if perturbation.flip_batches else flip, perturbation.flip)
        return jnp.where(flips, image[:, ::-1], image)

    return jax.vmap(change)(keys, images)


def warp(
    image: jax.Array, offset: jax.Array, factor: jax.Array | float = 1.0, angle: jax.Array | float = 0.0
) -> jax.Array:
    """Enlarges, turns and moves an image, interpolates between its pixels, and repeats its border outside.

    Args:
        image: [H, W, C].
        offset: shift down and to the right in pixels, [2].
        factor: by which the image grows around its centre, above 0.
        angle: by which it turns around its centre, counter-clockwise, in radians.
    """
    height, width = image.shape[:2]
    # Where each pixel comes from: the inverse motion.
    rows = jnp.arange(height)[:, None] - (height - 1) / 2 - offset[0]
    columns = jnp.arange(width)[None] - (width - 1) / 2 - offset[1]
    cosine, sine = jnp.cos(angle) / factor, jnp.sin(angle) / factor
    row = jnp.clip(cosine * rows + sine * columns + (height - 1) / 2, 0, height - 1)
    column = jnp.clip(cosine * columns - sine * rows + (width - 1) / 2, 0, width - 1)
    top, left = jnp.floor(row), jnp.floor(column)
    # Each pixel beside its right, lower and lower right neighbours, so that one gather fetches all four.
    padded = jnp.pad(image, ((0, 1), (0, 1), (0, 0)), "edge")
    corners = jnp.concatenate([padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]], -1)
    indices = top.astype(jnp.int32), left.astype(jnp.int32)
    fetched = jnp.split(corners.at[indices].get(mode="promise_in_bounds"), 4, -1)
    down, right = (row - top)[..., None], (column - left)[..., None]
    upper, lower = (start + right * (end - start) for start, end in (fetched[:2], fetched[2:]))
    return upper + down * (lower - upper)


def to_hsv(image: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Hue in turns, in [0, 1] and 0 for grey, saturation and value, each [H, W], of RGB in [0, 1], [H, W, 3]."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    divisor = jnp.where(chroma > 0, chroma, 1.0)
    sixths = jnp.where(
        value == red,
        (green - blue) / divisor % 6.0,
        jnp.where(value == green, (blue - red) / divisor + 2.0, (red - green) / divisor + 4.0),
    )
    return sixths / 6.0, chroma / jnp.where(value > 0, value, 1.0), value


def from_hsv(hue: jax.Array, saturation: jax.Array, value: jax.Array) -> jax.Array:
    """The inverse of `to_hsv`; hue may be any number of turns."""

    def channel(first: float) -> jax.Array:
        sixths = (6.0 * hue + first) % 6.0
        return value - value * saturation * jnp.clip(jnp.minimum(sixths, 4.0 - sixths), 0.0, 1.0)

    return jnp.stack([channel(first) for first in (5.0, 3.0, 1.0)], -1)


def shift(image: jax.Array, offset: jax.Array) -> jax.Array:
    """Moves an image by `offset` pixels, int [2]: down and to the right; the border is repeated where it leaves."""
    rows, columns = (jnp.clip(jnp.arange(n) - by, 0, n - 1) for n, by in zip(image.shape[:2], offset, strict=True))
    return image[rows][:, columns]


def saturate(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Multiplies the distance from grey, the mean of the channels, by `factor`: 1 keeps the image, 0 leaves grey."""
    return image + (1.0 - factor) * (image.mean(-1, keepdims=True) - image)


def blur(image: jax.Array, share: jax.Array | float) -> jax.Array:
    """Mixes an image with its 3x3 mean, whose share is `share`, in [0, 1]; the border is repeated outside."""
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), "edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    mean = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9.0
    return image + share * (mean - image)
