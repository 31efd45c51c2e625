"""Rendered faces with binned factors, for scores of disentanglement: those of `faces`, without attributes.

The factors are `faces.BINS`; `faces.sample_bins` draws faces with given values of them.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mvae_jax.data import source
from mvae_jax.data.batches import Splits
from mvae_jax.data.rendered import faces

RENDERED = "faces"


def load(train_size: int, validation_size: int, image_size: int = 64, seed: int = 42) -> Splits:
    """Draws the first faces of a seed; "factors" is int32 [N, len(faces.BINS)], and there are no attributes.

    Args:
        train_size: images for training.
        validation_size: the images after them, for validation.
        image_size: height and width in pixels, one of `faces.IMAGE_SIZES`.
        seed: which faces, at least 0.

    Raises:
        ValueError: an argument is out of range.
    """
    count = train_size + validation_size
    drawn = faces.sample(seed, count, image_size)
    arrays = {"image": drawn.images, "factors": faces.bins_of(drawn), "index": np.arange(count, dtype=np.int32)}
    provenance = {"source": "rendered faces", "seed": seed, "images": count}
    return Splits.cut(arrays, train_size, validation_size, (), provenance)


# --- as a source ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config(source.Factors):
    """Rendered faces with binned factors.

    Attributes:
        source: "faces".
        seed: of the faces.
    """

    source: str = RENDERED
    kind: str = dataclasses.field(init=False, default="faces with factors")


def _load(config: Config, request: source.Request) -> Splits:
    return load(config.train_size, config.validation_size, request.side(config.kind), config.seed)


SOURCE = source.Source(Config, _load, source.no_files, keywords=(RENDERED,), has_attributes=False)
