"""Traversals: the effect of single latent dimensions on a picture."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from mvae_jax.viz import grids

_MILLISECONDS = 120  # per frame
_LEAST = 64  # pixels of height of a picture among those of several models
_WIDEST = 1250  # pixels of the models side by side: a page shows a wider sheet the smaller, and its text too


@dataclasses.dataclass(frozen=True, eq=False)
class Strips:
    """Rows of pictures, along each of which one thing changes: a sheet on paper, sliders on a page.

    Attributes:
        rows: label -> uint8 [S, H, W, C], S at least 2; the shape is the same in all.
        steps: S texts, what each step is.
        start: the step that a page shows first.
        plays: on a page the pictures move by themselves, unless its reader prefers less motion.

    Raises:
        ValueError: there is no row, the pictures are not uint8 [S, H, W, C] of one shape with S > 1 and one or three
            channels, steps are not S, or `start` is none of them.
    """

    rows: Mapping[str, npt.ArrayLike]
    steps: Sequence[str]
    start: int = 0
    plays: bool = False

    def __post_init__(self) -> None:
        shapes = {label: np.shape(pictures) for label, pictures in self.rows.items()}
        shape = next(iter(shapes.values()), ())
        fine = len(shape) == 4 and shape[3] in (1, 3) and 1 < shape[0] == len(self.steps) and 0 not in shape
        if not fine or set(shapes.values()) != {shape} or not 0 <= self.start < shape[0]:
            raise ValueError(
                f"rows have shapes {shapes} and there are {len(self.steps)} steps, of which {self.start} comes first; "
                "expected one shape [S, H, W, C] of all, with one or three channels and S > 1 steps."
            )
        for label, pictures in self.rows.items():
            if np.asarray(pictures).dtype != np.uint8:
                raise ValueError(f"pictures of {label!r} are {np.asarray(pictures).dtype}, expected uint8.")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of one picture."""
        return np.shape(next(iter(self.rows.values())))[1:3]

    def frames(self) -> Image.Image:
        """All pictures at their size, a row beneath the other, without gaps."""
        rows = [np.concatenate(list(np.asarray(pictures)), axis=1) for pictures in self.rows.values()]
        whole = np.concatenate(rows)
        return Image.fromarray(np.broadcast_to(whole, (*whole.shape[:2], 3)))

    def sheet(self) -> Image.Image:
        """All pictures, each row with its label and each column with its step."""
        return grids.comparison(self.rows, columns=len(self.steps), headings=self.steps)


def sheet(rows: Mapping[str, npt.ArrayLike], *, title: str = "", scale: int | None = None) -> Image.Image:
    """One row of pictures per dimension, along which only that dimension changes.

    Args:
        rows: label -> uint8 [V, H, W, C], the pictures of V values; V is the same in all.
        title: heading of the sheet.
        scale: enlargement; None chooses one.
    """
    return grids.comparison(rows, columns=len(next(iter(map(np.asarray, rows.values())))), title=title, scale=scale)


def by_model(
    rows: Mapping[str, Mapping[str, tuple[str, npt.ArrayLike]]], *, title: str = "", scale: int | None = None
) -> Image.Image:
    """One sheet of several models: a row per feature, a column per model, in each place a traversal from left to right.

    Models that find no room side by side follow beneath.

    Args:
        rows: feature -> model -> what the dimension is and its range, and uint8 [V, H, W, C], the pictures of V values;
            models and V are the same in all.
        title: heading of the sheet.
        scale: enlargement; None makes pictures 64 pixels high at least.

    Reference:
        Schik, overview of variational autoencoders, figure 1.
    """
    strips = {
        feature: np.stack([np.concatenate(list(np.asarray(pictures)), axis=1) for _, pictures in models.values()])
        for feature, models in rows.items()
    }
    first = next(iter(rows))
    scale = scale or -(-_LEAST // strips[first].shape[1])
    return grids.comparison(
        strips,
        columns=max(1, _WIDEST // (scale * strips[first].shape[2])),
        title=title,
        scale=scale,
        headings=list(rows[first]),
        captions={feature: [text for text, _ in models.values()] for feature, models in rows.items()},
    )


def animation(rows: Mapping[str, npt.ArrayLike], *, columns: int = 6, title: str = "") -> bytes:
    """Traversals as moving pictures, one per dimension, that go there and back for ever.

    Args:
        rows: label -> uint8 [V, H, W, C], the pictures of V values; V is the same in all.
        columns: moving pictures side by side.
        title: heading.

    Returns:
        An animated GIF.
    """
    frames = [
        grids.grid(np.stack(pictures), list(rows), columns=columns, title=title)
        for pictures in zip(*map(np.asarray, rows.values()), strict=True)
    ]
    return _gif([*frames, *frames[-2:0:-1]])


def _gif(frames: Sequence[Image.Image]) -> bytes:
    buffer = io.BytesIO()
    first, *others = (frame.quantize(128) for frame in frames)
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=_MILLISECONDS, loop=0)
    return buffer.getvalue()
