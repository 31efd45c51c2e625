"""Five views of a digit: pictures that share the digit's class, and nothing else, drawn from digits of any source.

The protocol is that of PolyMNIST (Sutter et al., 2021, arXiv:2105.02470): each view of an example shows another digit
of the same class, before a background of its own kind. The backgrounds are drawn here, and are no photographs.
"""

from __future__ import annotations

import numpy as np

VIEWS = ("image", "stripes", "checks", "inverted", "rotated")
MOST_TURNED = np.pi / 4  # of the rotated view, either way

_CHUNK = 256  # pictures that are drawn at once: MNIST whole would take gigabytes


def five_views(digits: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Draws five views of the class of each digit.

    "image" has a digit in one colour on a dark one; "stripes" and "checks" have those in two colours behind a white
    digit; "inverted" has a black digit on a bright colour; "rotated" has a white digit turned by up to 45 degrees on a
    shade that changes from left to right. In "image" the digit is the example's own.

    Args:
        digits: bright on dark, uint8 [N, H, W].
        labels: their classes, int [N].
        seed: not negative; the same seed draws the same views.

    Returns:
        The views by name, uint8 [N, H, W, 3], and "label", int32 [N].

    Raises:
        ValueError: digits or labels are of another type or shape.
    """
    digits, labels = np.asarray(digits), np.asarray(labels)
    if digits.dtype != np.uint8 or digits.ndim != 3:
        raise ValueError(f"digits are {digits.dtype} of shape {digits.shape}; expected uint8 [N, H, W].")
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != digits.shape[:1]:
        raise ValueError(
            f"labels are {labels.dtype} of shape {labels.shape}; expected integers ({len(digits)},), the class of each."
        )
    views = {}
    for number, name in enumerate(VIEWS):
        rng = np.random.default_rng([seed, number])
        chosen = np.arange(len(digits)) if name == "image" else _of_the_same_class(rng, labels)
        angles = rng.uniform(-MOST_TURNED, MOST_TURNED, len(digits)) if name == "rotated" else None
        style = _draws(rng, len(digits))
        views[name] = np.empty((*digits.shape, 3), np.uint8)
        for start in range(0, len(digits), _CHUNK):
            part = slice(start, start + _CHUNK)
            ink = digits[chosen[part]].astype(np.float32) / 255
            if angles is not None:
                ink = _rotated(ink, angles[part])
            paper, colour = _painted(name, *ink.shape[1:], *(draw[part] for draw in style))
            shown = paper + (colour - paper) * ink[..., None]
            views[name][part] = np.clip(np.round(255 * shown), 0, 255)
    return {**views, "label": labels.astype(np.int32)}


def _of_the_same_class(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """For each example the number of one of its class: every one is taken once."""
    chosen = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        (members,) = np.nonzero(labels == label)
        chosen[members] = rng.permutation(members)
    return chosen


def _draws(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    """Two colours in [0, 1], [N, 1, 1, 3]; period in pixels, phase and angle in radians of a pattern, [N, 1, 1]."""
    first, second = rng.uniform(0, 1, (2, count, 1, 1, 3)).astype(np.float32)
    period = rng.uniform(3, 8, (count, 1, 1)).astype(np.float32)
    phase, angle = rng.uniform(0, 2 * np.pi, (2, count, 1, 1)).astype(np.float32)
    return first, second, period, phase, angle


def _painted(
    name: str,
    height: int,
    width: int,
    first: np.ndarray,
    second: np.ndarray,
    period: np.ndarray,
    phase: np.ndarray,
    angle: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Background [N, H, W, 3] and colour of the digit [N, 1, 1, 3], both in [0, 1], of what `_draws` has drawn."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    white, black = np.ones_like(first), np.zeros_like(first)
    along = np.cos(angle) * columns + np.sin(angle) * rows
    across = np.cos(angle) * rows - np.sin(angle) * columns
    share = (columns / max(width - 1, 1))[None, ..., None]
    if name == "image":
        return np.broadcast_to(0.4 * first, (len(first), height, width, 3)), 0.5 + 0.5 * second
    if name == "inverted":
        return np.broadcast_to(0.5 + 0.5 * first, (len(first), height, width, 3)), black
    if name == "stripes":
        share = (0.5 + 0.5 * np.sin(2 * np.pi * along / period + phase))[..., None]
    elif name == "checks":
        waves = np.sin(2 * np.pi * along / period + phase) * np.sin(2 * np.pi * across / period + phase)
        share = (waves > 0)[..., None].astype(np.float32)
    return 0.6 * (first + (second - first) * share), white


def _rotated(ink: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Pictures [N, H, W] turned about their centres by angles [N] in radians, anticlockwise; bilinear interpolation."""
    count, height, width = ink.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    y, x = rows - (height - 1) / 2, columns - (width - 1) / 2
    cosine, sine = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    from_x = cosine * x - sine * y + (width - 1) / 2
    from_y = sine * x + cosine * y + (height - 1) / 2
    padded = np.pad(ink, ((0, 0), (1, 1), (1, 1)))  # what is beyond the edges is dark
    left, top = np.floor(from_x), np.floor(from_y)
    result = np.zeros_like(ink)
    for down in (0, 1):
        for right in (0, 1):
            row, column = (
                np.clip(corner + step + 1, 0, side + 1).astype(int)
                for corner, step, side in ((top, down, height), (left, right, width))
            )
            weight = np.abs(1 - down - (from_y - top)) * np.abs(1 - right - (from_x - left))
            result += (weight * padded[np.arange(count)[:, None, None], row, column]).astype(ink.dtype)
    return result
