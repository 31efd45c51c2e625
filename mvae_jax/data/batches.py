"""Batches of examples as a function of (seed, step), never of an iterator's position.

Examples that fit stay on the device; the host then sends only `indices_at(step)`. `batch_at(step)` gathers the
same examples on the host. Both may be called for any step in any order, so a run that was killed goes on with
exactly the batches that it would have seen, and one step can be replayed alone.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

_TYPES = {
    "image": (np.uint8, "N, H, W, C"),
    "code": (np.float32, "N, D"),
    "deviation": (np.float32, "N, D"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Examples of one split, on the host.

    Attributes:
        arrays: name -> array; all share their first axis, N. Most have "image": uint8 [N, H, W, C] in
            [0, 255], or, of examples that a trained model has encoded, "code": float32 [N, D]; beside that
            "deviation": float32 [N, D], the standard deviations of the codes' posteriors. "attributes": float32 [N, A]
            in {0, 1}, "factors": int32 [N, F], indices of the values of its generative factors, "label": int32 [N], the
            number of its class, "pose": float32 [N, 3], yaw, pitch and roll of the head in units of 30 degrees, to the
            left of the picture, up and clockwise, and "index": int32 [N], the example's number in its data set, where
            the data set has them. Other modalities have names of their own, and "present/NAME", float32 [N], is 0 where
            an example has no such value, whatever stands there, else 1.

    Raises:
        ValueError: there is no array, the arrays have several lengths, or "image", "code", "deviation" or a mask is of
            another type or shape.
    """

    arrays: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        lengths = {name: len(array) for name, array in self.arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"The arrays of a split have lengths {lengths}, expected one length for all.")
        for name, (dtype, axes) in _TYPES.items():
            if name in self.arrays and (self[name].dtype != dtype or self[name].ndim != len(axes.split(","))):
                expected = f"{np.dtype(dtype)} [{axes}]"
                raise ValueError(f"{name!r} is {self[name].dtype} of shape {self[name].shape}, expected {expected}.")
        for name, mask in self.arrays.items():
            of = name.removeprefix("present/")
            if name == of:
                continue
            if of not in self.arrays:
                raise ValueError(
                    f"{name!r} has no {of!r} beside it; expected the name of one of {sorted(self.arrays)}."
                )
            if mask.dtype != np.float32 or mask.ndim != 1 or not np.isin(mask, (0, 1)).all():
                raise ValueError(
                    f"{name!r} is {mask.dtype} of shape {mask.shape}, expected float32 [N] of 0, where the value is "
                    "missing, and 1."
                )

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def present(self, name: str) -> np.ndarray:
        """Which examples have a value of that name, bool [N], as "present/NAME" says; all without it."""
        return np.asarray(self.arrays.get(f"present/{name}", np.ones(len(self)))) != 0

    def having(self, *names: str) -> Split:
        """The examples that have a value of each of these names, without the masks that say so."""
        masks = {f"present/{name}" for name in names}
        if not masks & self.arrays.keys():
            return self
        rows = np.flatnonzero(np.all([self.present(name) for name in names], axis=0))
        return Split({name: array for name, array in self.take(rows).items() if name not in masks})

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the examples at `indices`, int [B], as name -> array [B, ...]."""
        return {name: array[indices] for name, array in self.arrays.items()}

    def first(self, count: int) -> Split:
        """The first examples, at most `count`."""
        return Split({name: array[:count] for name, array in self.arrays.items()})


class Dataset(Protocol):
    """Images and what is known of them, ready for training. `Splits` is one, and so is a pyramid."""

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the A attributes, in the order of the columns; () where there are none."""

    @property
    def validation(self) -> Split:
        """Images that are never trained on."""

    @property
    def calibration(self) -> Split:
        """Images from which thresholds are taken, disjoint from those of training and validation; it may be empty."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Origin of the data, for reports."""

    def batches(
        self, image_size: int | tuple[int, int] | None, batch_size: int, seed: int, start: int = 0, shuffle: bool = True
    ) -> Any:
        """The training images in the order in which a phase visits them, as `Batches` or streamed from a disk.

        Args:
            image_size: height and width of the phase's images in pixels, or one number for both; None of codes.
            batch_size: examples per batch.
            seed: the run's.
            start: the phase's first step.
            shuffle: otherwise the order is that of the training images.
        """

    def examples(self, split: str, image_size: int | tuple[int, int] | None) -> Examples:
        """All images of a split in their order, which need not be in memory.

        Args:
            split: "train", "validation" or "calibration".
            image_size: as for `batches`.

        Raises:
            ValueError: there is no such split, or not of such a size.
        """

    def sha256(self) -> str:
        """Returns a checksum, hexadecimal, of all images and what is known of them: a resumed run must see them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """A `Dataset` whose training images are in memory, all of one size.

    Attributes:
        train: "image", "index" and "attributes" [N, A], "factors" [N, F] or "label" [N], see `Split`.
        validation: likewise; never trained on.
        calibration: likewise, disjoint from both: thresholds are taken from it. It may be empty.
        attributes: the A names, in the order of the columns; () where the splits have none.
        provenance: origin of the data, for reports.
    """

    train: Split
    validation: Split
    calibration: Split
    attributes: tuple[str, ...]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name, split in self:
            shape = split["attributes"].shape if "attributes" in split.arrays else None
            expected = (len(split), len(self.attributes))
            if shape != expected and (self.attributes or shape is not None):
                raise ValueError(
                    f"'attributes' of the {name} split has shape {shape}, expected {expected}: a row per image and a "
                    f"column for each of {', '.join(self.attributes)}."
                )

    @classmethod
    def cut(
        cls,
        arrays: Mapping[str, np.ndarray],
        train: int,
        validation: int,
        attributes: tuple[str, ...],
        provenance: Mapping[str, Any],
    ) -> Splits:
        """Cuts arrays [N, ...] in three: the first `train` examples, the next `validation` ones, and the rest."""
        borders = (slice(train), slice(train, train + validation), slice(train + validation, None))
        first, second, third = (Split({name: array[border] for name, array in arrays.items()}) for border in borders)
        return cls(first, second, third, attributes, provenance)

    def __iter__(self) -> Iterator[tuple[str, Split]]:
        for name in ("train", "validation", "calibration"):
            yield name, getattr(self, name)

    def batches(
        self, image_size: int | tuple[int, int] | None, batch_size: int, seed: int, start: int = 0, shuffle: bool = True
    ) -> Batches:
        """The training images in the order in which a phase visits them, see `Batches`.

        Args:
            image_size: what the phase trains on, in pixels; these images have one size for all phases.
            batch_size: examples per batch.
            seed: the run's.
            start: the phase's first step.
            shuffle: otherwise the order is that of the split.
        """
        return Batches(self.train, batch_size, seed, start, shuffle)

    def examples(self, split: str, image_size: int | tuple[int, int] | None) -> Split:
        """All images of a split; of their one size, whatever is asked for. See `Dataset.examples`."""
        splits = dict(self)
        if split not in splits:
            raise ValueError(f"split is {split!r}, expected {', '.join(splits)}.")
        return splits[split]

    def sha256(self) -> str:
        """Returns a checksum, hexadecimal, of all arrays but numbers of examples and of persons.

        A resumed run must see them, and no model those numbers.
        """
        digest, first = hashlib.sha256(), ("image", "code", "deviation", "attributes", "factors", "label")
        for _, split in self:
            others = sorted(set(split.arrays) - {*first, "index", "identity"})
            for name in (*first, *others):
                if name in split.arrays:
                    digest.update(split[name].tobytes())
        return digest.hexdigest()


class Examples(Protocol):
    """Examples of a split, in memory (`Split`) or on a disk (`pyramid.stream.Records`)."""

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """All of them, name -> array [N, ...]."""

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Those at some positions, name -> array [B, ...]."""


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """Batches of one split for one phase of a run.

    Every epoch visits the examples in an order of its own. What is left of that order when no whole batch remains
    is dropped, so shapes are static; another epoch leaves out other examples.

    Attributes:
        split: the examples, N of them.
        batch_size: examples per batch over all devices, in [1, N].
        seed: not negative; the run's seed.
        start: step of the run at which the phase begins, and with it the first epoch. Phases have orders of
            their own.
        shuffle: otherwise every epoch visits the examples in the order of the split, and leaves out the same ones
            at its end.
    """

    split: Examples
    batch_size: int
    seed: int
    start: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= len(self.split):
            raise ValueError(
                f"batch_size is {self.batch_size}, expected between 1 and the {len(self.split)} examples of the "
                "split: use a smaller batch or more examples."
            )
        if self.seed < 0 or self.start < 0:
            raise ValueError(f"seed is {self.seed} and start is {self.start}, expected neither to be negative.")

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """All examples of the split, name -> array [N, ...]: what a device holds."""
        return self.split.arrays

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one epoch."""
        return len(self.split) // self.batch_size

    def epoch_at(self, step: int) -> int:
        """Returns the epoch, counted from the phase's start, to which `step` of the run belongs."""
        if step < self.start:
            raise ValueError(f"step is {step}, before these batches start at step {self.start} of the run.")
        return (step - self.start) // self.steps_per_epoch

    def indices_at(self, step: int) -> np.ndarray:
        """Returns the positions in the split, int32 [batch_size], of the batch of `step` of the run."""
        epoch = self.epoch_at(step)
        first = (step - self.start) % self.steps_per_epoch * self.batch_size
        if not self.shuffle:
            return np.arange(first, first + self.batch_size, dtype=np.int32)
        return _epoch(len(self.split), self.seed, self.start, epoch)[first : first + self.batch_size]

    def batch_at(self, step: int) -> dict[str, np.ndarray]:
        """Returns the batch of `step` of the run, name -> host array [batch_size, ...]."""
        return self.split.take(self.indices_at(step))


def check_factors(factors: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
    """Returns values of generative factors as an array; name -> number of values says what they may be.

    Raises:
        ValueError: the values are not integers [N, F] in range.
    """
    factors = np.asarray(factors)
    if factors.ndim != 2 or factors.shape[1] != len(sizes) or not np.issubdtype(factors.dtype, np.integer):
        raise ValueError(
            f"factors are {factors.dtype} of shape {factors.shape}, expected integers [N, {len(sizes)}]: "
            f"{', '.join(sizes)}."
        )
    outside = (factors < 0) | (factors >= list(sizes.values()))
    if outside.any():
        row, column = np.argwhere(outside)[0]
        name, size = list(sizes.items())[column]
        raise ValueError(f"factor {name!r} of row {row} is {factors[row, column]}, expected 0 to {size - 1}.")
    return factors


def permutation(count: int, seed: int, *stream: int) -> np.ndarray:
    """Returns a random order of 0 ... count - 1 that is the same with every NumPy version.

    Sorts raw 64-bit draws of a Philox generator. NumPy promises that these draws never change, which it does not
    promise for `Generator.permutation`.

    Args:
        count: length of the order.
        seed: not negative.
        *stream: numbers, not negative, that tell independent orders of one seed apart.

    Returns:
        Read-only int32 [count].
    """
    draws = np.random.Philox(np.random.SeedSequence(seed, spawn_key=stream)).random_raw(count)
    order = np.argsort(draws, kind="stable").astype(np.int32)
    order.flags.writeable = False  # orders are cached: nobody may change them
    return order


@functools.lru_cache(maxsize=4)
def _epoch(count: int, seed: int, start: int, epoch: int) -> np.ndarray:
    return permutation(count, seed, start, epoch)
