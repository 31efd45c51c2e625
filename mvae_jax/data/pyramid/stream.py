"""Batches of a pyramid that is too large to stay on a device: read from its shards while a model trains.

`StreamedBatches` has the order of `batches.Batches`, so a run sees the same batches whether its images stream or stay.
Grain reads ahead, with threads or with processes. The order of the batches is given to it; its shuffling is not used.

Grain and ArrayRecord are imported where they are used: not every machine that trains has them. Worker processes import
this file, which is why it imports little.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mvae_jax.data.batches import Batches

CHANNELS = 3  # images are RGB

_NUMBER = np.dtype("<i4")  # the example's number in its data set, at the end of each record
_AHEAD_BYTES = 2**29  # of batches that are read before they are asked for,
_AHEAD = range(2, 65)  # and how many batches these may be
# Random access: nothing is read ahead within a shard, and no thread is kept for doing so.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_READER_BUFFER = 2**15  # bytes


class DamagedShardError(ValueError, OSError):
    """A shard cannot be read, or not what was written to it: bad input, and an error of the disk."""


# --- records -------------------------------------------------------------------------------------------------------


def record(image: np.ndarray, number: int) -> bytes:
    """Returns an example, uint8 [S, S, 3] and its number in the data set, as the bytes of a record."""
    return image.tobytes() + _NUMBER.type(number).tobytes()


def open_shard(path: Path, count: int) -> Any:
    """Opens a shard for reading at random.

    Raises:
        ValueError: the shard cannot be opened, or has not `count` records.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(path), options=_READER_OPTIONS, file_reader_buffer_size=_READER_BUFFER)
    if not reader.ok():  # of a file that is missing or cut short it says only this
        raise ValueError("it cannot be opened")
    if reader.num_records() != count:
        raise ValueError(f"it has {reader.num_records()} records, expected {count}")
    return reader


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """Examples of one size in shards: a `batches.Split` that lies on a disk.

    Attributes:
        paths: of the shards, in their order.
        counts: records in each of them.
        size: height and width of the images in pixels.
    """

    paths: tuple[Path, ...]
    counts: tuple[int, ...]
    size: int
    _readers: dict[int, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_readers": {}}  # another process opens the shards for itself
        state.pop("arrays", None)
        return state

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """All examples, read when they are first asked for."""
        return self.take(np.arange(len(self)))

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def example_bytes(self) -> int:
        """Bytes of an image."""
        return self.size**2 * CHANNELS

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Reads examples. Safe to call from several threads.

        Args:
            indices: positions, int [B].

        Returns:
            "image": uint8 [B, S, S, 3], and "index": int32 [B], the examples' numbers in their data set.

        Raises:
            IndexError: there is no such position.
            DamagedShardError: a shard is damaged; names it.
        """
        indices = np.asarray(indices)
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"positions are from {indices.min()} to {indices.max()}, expected 0 to {len(self) - 1}.")
        ends = np.cumsum(self.counts)
        shards = np.searchsorted(ends, indices, side="right")
        images = np.empty((len(indices), self.size, self.size, CHANNELS), np.uint8)
        numbers = np.empty(len(indices), np.int32)
        for shard in np.unique(shards).tolist():
            places = np.flatnonzero(shards == shard)
            data = self._read(shard, indices[places] - (ends[shard] - self.counts[shard]))
            images[places] = data[:, : self.example_bytes].reshape(-1, *images.shape[1:])
            numbers[places] = np.ascontiguousarray(data[:, self.example_bytes :]).view(_NUMBER)[:, 0]
        return {"image": images, "index": numbers}

    def _read(self, shard: int, positions: np.ndarray) -> np.ndarray:
        """Records of a shard, uint8 [n, bytes of a record]."""
        path = self.paths[shard]
        try:
            # Two threads may both open a shard; one of the readers is then used for this call alone.
            reader = self._readers.get(shard) or self._readers.setdefault(shard, open_shard(path, self.counts[shard]))
            data = b"".join(reader.read(positions.tolist()))
            return np.frombuffer(data, np.uint8).reshape(len(positions), self.example_bytes + _NUMBER.itemsize)
        except (RuntimeError, ValueError, IndexError) as error:  # what ArrayRecord and `reshape` raise
            raise DamagedShardError(
                f"{path} is damaged ({error}): the command that prepared it, given again, makes it anew."
            ) from error


# --- batches -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedBatches:
    """Batches of one split at one size for one phase of a run; see `batches.Batches`, whose batches they are.

    Attributes:
        records: the examples, N of them.
        batch_size: examples per batch over all devices, in [1, N].
        seed: not negative; the run's seed.
        start: step of the run at which the phase begins, and with it the first epoch.
        workers: processes that read ahead; 0 for threads of this one. It changes no batch. Each process imports what
            the program's main module imports, and passes its batches through shared memory (/dev/shm).
        shuffle: otherwise every epoch has the order of the split.
    """

    records: Records
    batch_size: int
    seed: int
    start: int = 0
    workers: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}, expected at least 0: processes that read ahead.")
        self._order  # noqa: B018 (raises what is wrong with batch size, seed and start)

    @functools.cached_property
    def _order(self) -> Batches:
        return Batches(self.records, self.batch_size, self.seed, self.start, self.shuffle)

    @property
    def example(self) -> dict[str, np.ndarray]:
        """One example, [1, ...], of which only shapes and types count."""
        image = np.zeros((1, self.records.size, self.records.size, CHANNELS), np.uint8)
        return {"image": image, "index": np.zeros(1, np.int32)}

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one epoch."""
        return self._order.steps_per_epoch

    def epoch_at(self, step: int) -> int:
        """Returns the epoch, counted from the phase's start, to which `step` of the run belongs."""
        return self._order.epoch_at(step)

    def indices_at(self, step: int) -> np.ndarray:
        """Returns the positions in the split, int32 [batch_size], of the batch of `step` of the run."""
        return self._order.indices_at(step)

    def batch_at(self, step: int) -> dict[str, np.ndarray]:
        """Reads the batch of `step` of the run, "image": uint8 [batch_size, S, S, 3] and "index": int32."""
        return self._order.batch_at(step)

    def stream(self, first_step: int, end_step: int, chunk: int = 1) -> Stream:
        """Reads the batches of consecutive steps ahead of their use.

        Args:
            first_step: of the run, at least `start`.
            end_step: after the last one.
            chunk: steps in what the iterator yields; the last chunk may have fewer.

        Returns:
            An iterator over chunks, whose `take` gives as many steps as the caller likes.

        Raises:
            ValueError: there are no such steps, or the chunk is empty.
        """
        self.epoch_at(first_step)  # raises if it is before the start
        if end_step < first_step or chunk < 1:
            raise ValueError(
                f"first_step is {first_step}, end_step {end_step} and chunk {chunk}, expected an end that is not "
                "before the first step, and at least one step in a chunk."
            )
        steps = _Steps(self._order, first_step, end_step, self.records.example_bytes)
        return Stream(steps, chunk, self.workers)


class Stream(Iterator[dict[str, np.ndarray]]):
    """Batches of consecutive steps, one after the other.

    Yields "image": uint8 [k * batch_size, S, S, 3] and "index": int32 [k * batch_size] for k steps in order, k being
    the chunk. It is a context manager, which ends the reading; so does `close`.

    Attributes:
        step: the next step of the run.
    """

    def __init__(self, steps: _Steps, chunk: int, workers: int) -> None:
        self.step, self._end, self._chunk = steps.first, steps.end, chunk
        self._batches = _read_ahead(steps, workers)

    def take(self, steps: int) -> dict[str, np.ndarray]:
        """Returns the batches of the next steps, one after the other.

        Args:
            steps: k, at least 1 and at most as many as are left; any number, from one call to the next.

        Returns:
            name -> host array [k * batch_size, ...].

        Raises:
            ValueError: so many steps are not left, or a shard is damaged.
        """
        if not 1 <= steps <= self._end - self.step:
            raise ValueError(f"steps is {steps}, expected 1 to the {self._end - self.step} that are left.")
        whole: dict[str, np.ndarray] = {}
        for number in range(steps):
            for name, array in next(self._batches).items():
                if not number:
                    whole[name] = np.empty((steps * len(array), *array.shape[1:]), array.dtype)
                whole[name][number * len(array) : (number + 1) * len(array)] = array  # a worker's memory is let go
            self.step += 1
        return whole

    def __next__(self) -> dict[str, np.ndarray]:
        if self.step == self._end:
            raise StopIteration
        return self.take(min(self._chunk, self._end - self.step))

    def close(self) -> None:
        """Ends the reading: no step is left after it."""
        self._end = self.step
        if self._batches is not None:
            self._batches.close()
            self._batches = None
            gc.collect()  # Grain's iterators are circular, and those of processes hold batches in shared memory

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclasses.dataclass(frozen=True, eq=False)
class _Steps:
    """Batches that Grain reads at random, one for every step from `first` to before `end`."""

    order: Batches
    first: int
    end: int
    image_bytes: int

    def __len__(self) -> int:
        return self.end - self.first

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        return self.order.batch_at(self.first + int(number))


def _read_ahead(steps: _Steps, workers: int) -> Any:
    """Grain's iterator over batches, in order, read by threads or by processes that have one thread each."""
    import grain

    batch_bytes = steps.image_bytes * steps.order.batch_size
    ahead = min(max(_AHEAD_BYTES // batch_bytes, _AHEAD[0]), _AHEAD[-1])
    if not workers:
        threads = min(os.cpu_count() or 1, ahead)
        return iter(grain.MapDataset.source(steps).to_iter_dataset(grain.ReadOptions(threads, ahead)))

    from absl import flags

    if not flags.FLAGS.is_parsed():  # outside `absl.app.run` Grain cannot read its own flags
        flags.FLAGS.mark_as_parsed()
    ahead_of_each = max(ahead // workers, 1)
    dataset = grain.MapDataset.source(steps).to_iter_dataset(grain.ReadOptions(1, 1))
    return iter(dataset.mp_prefetch(grain.MultiprocessingOptions(workers, ahead_of_each)))
