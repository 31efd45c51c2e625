"""A pyramid as the data set of an experiment: all of one size in memory, or for a model that grows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from mvae_jax.data import source
from mvae_jax.data.archive import Archive, Folder
from mvae_jax.data.batches import Batches, Dataset, Split
from mvae_jax.data.pyramid import reader
from mvae_jax.data.pyramid.reader import Pyramid
from mvae_jax.data.pyramid.stream import Records, StreamedBatches


@dataclasses.dataclass(frozen=True, eq=False)
class PyramidData:
    """Images of a pyramid for a model that grows: a `batches.Dataset` of which a phase reads the size that it needs.

    Attributes:
        pyramid: the images.
        validation: images of the largest size that the model has.
        resident_bytes: sizes of which the training images take no more stay on the devices, larger ones are streamed.
        workers: threads that read ahead, see `stream.StreamedBatches`.
        attributes: (), for there are none.
    """

    pyramid: Pyramid
    validation: Split
    resident_bytes: float
    workers: int
    attributes: tuple[str, ...] = dataclasses.field(default=(), init=False)
    _records: dict[tuple[str, int], Records] = dataclasses.field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, pyramid: Pyramid, size: int, *, held_out: int, resident_bytes: float = 2**31, workers: int = 0) -> Self:
        """The images of a pyramid up to a size, with the first held-out ones of that size read.

        Raises:
            ValueError: there is no such size, or a shard is damaged.
        """
        records = pyramid.records("validation", size)
        validation = Split(records.take(np.arange(min(held_out, len(records)))))
        return cls(pyramid, validation, resident_bytes, workers)

    @property
    def calibration(self) -> Split:
        """No images."""
        return self.validation.first(0)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Origin of the images, for reports."""
        return self.pyramid.provenance

    def batches(
        self, image_size: int | tuple[int, int] | None, batch_size: int, seed: int, start: int = 0, shuffle: bool = True
    ) -> Batches | StreamedBatches:
        """The training images of a size in the order in which a phase visits them."""
        records = self.examples("train", image_size)
        if len(records) * records.example_bytes > self.resident_bytes:
            return StreamedBatches(records, batch_size, seed, start, self.workers, shuffle)
        return Batches(records, batch_size, seed, start, shuffle)  # read when they are asked for, and once

    def examples(self, split: str, image_size: int | tuple[int, int] | None) -> Records:
        """All images of a split at a size, on the disk: of "validation" more than the `validation` that is read.

        Raises:
            ValueError: there is no such split or size.
        """
        if not isinstance(image_size, int):
            raise ValueError(f"image_size is {image_size}, expected one number: the images of a pyramid are square.")
        return self._records.setdefault((split, image_size), self.pyramid.records(split, image_size))

    def sha256(self) -> str:
        """Returns the checksum of the pyramid."""
        return self.pyramid.sha256()


# --- as a source ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config(source.Config):
    """A pyramid, of which all images are used.

    Attributes:
        source: folder that `mvae-jax data pyramid` has made.
        held_out: for a model that grows: how many held-out images are read, to validate on and to measure.
        resident_gib: for a model that grows: resolutions of which the training images take more are read from the disk
            while they are trained on; all smaller ones are read at the beginning, and stay on the devices during their
            phases.
        workers: threads that read ahead; 0 for one per core.
    """

    kind: str = dataclasses.field(init=False, default="images at every resolution")
    held_out: int = 1000
    resident_gib: float = 2.0
    workers: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.held_out >= 1 and self.resident_gib >= 0 and self.workers >= 0):
            raise ValueError(
                f"data.held_out is {self.held_out}, data.resident_gib {self.resident_gib} and data.workers "
                f"{self.workers}; expected at least 1, and neither of the others below 0."
            )


def _load(config: Config, request: source.Request) -> Dataset:
    pyramid, side = reader.load(config.source), request.side(config.kind)
    if not request.growing:
        return pyramid.splits(side)
    return PyramidData.of(
        pyramid,
        side,
        held_out=config.held_out,
        resident_bytes=config.resident_gib * 2**30,
        workers=config.workers,
    )


def _holds(place: Archive, csv: str) -> bool:
    return isinstance(place, Folder) and reader.is_pyramid(place.path)


def _verify(config: Config, attributes: tuple[str, ...] | None = None) -> Iterator[str]:
    return reader.defects(config.source)


SOURCE = source.Source(
    Config,
    _load,
    _verify,
    holds=_holds,
    looked_for=f"{reader.MANIFEST} of a pyramid, which `mvae-jax data pyramid` makes of images without attributes",
    has_attributes=False,
)
