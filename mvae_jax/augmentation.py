"""Random changes of pictures that leave their meaning: what a classifier should not look at.

Images are float32 [H, W, C] in [-1, 1], one at a time but for `augment`, which draws with one key per example, so
that the draws do not depend on how the batch is spread over devices. Results may leave [-1, 1].
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How strongly images are changed; zeros leave them as they are.

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
        for name, value in dataclasses.asdict(self).items():
            most = 1.0 if name in ("flip", "saturation", "blur") else float("inf")
            if not 0 <= value <= most:
                expected = "at least 0" if most > 1 else "between 0 and 1"
                raise ValueError(f"augmentation.{name} is {value}; expected a number {expected}, and 0 for none.")


def augment(keys: jax.Array, images: jax.Array, augmentation: Augmentation) -> jax.Array:
    """Changes each image at random: flip, shift, contrast and colour, saturation, blur, noise.

    Args:
        keys: one key per example, [B], such as `gaussian.example_keys` gives; they serve nothing else.
        images: [B, H, W, C] in [-1, 1].
        augmentation: how strongly.

    Returns:
        Images [B, H, W, C], no longer bound to [-1, 1].
    """

    def change(key: jax.Array, image: jax.Array) -> jax.Array:
        flip, by, gain, channel_gains, offsets, grey, soft, level, noise = jax.random.split(key, 9)
        channels, signed = (1, 1, image.shape[-1]), functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0)
        image = jnp.where(jax.random.bernoulli(flip, augmentation.flip), image[:, ::-1], image)
        image = shift(image, jax.random.randint(by, (2,), -augmentation.shift, augmentation.shift + 1))
        log_gain = augmentation.contrast * jax.random.normal(gain)
        log_gains = log_gain + augmentation.colour_contrast * jax.random.normal(channel_gains, channels)
        image = image * jnp.exp(log_gains) + augmentation.colour_offset * jax.random.normal(offsets, channels)
        image = saturate(image, 1.0 + augmentation.saturation * signed(grey))
        image = blur(image, augmentation.blur * jnp.maximum(0.0, signed(soft)))
        return image + augmentation.noise * jax.random.uniform(level) * jax.random.normal(noise, image.shape)

    return jax.vmap(change)(keys, images)


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
