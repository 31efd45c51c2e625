"""Batches of a pyramid that is too large to stay on a device: read from its shards while a model trains.

`StreamedBatches` has the order of `batches.Batches`, so a run sees the same batches whether its images stream or stay.
Threads read ahead: ArrayRecord lets go of Python's lock while it reads.

ArrayRecord is imported where it is used: not every machine that trains has it.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mvae_jax.data.batches import Batches

CHANNELS = 3  # images are RGB

_NUMBER = np.dtype("<i4")  # the example's number in its data set, at the end of each record
_AHEAD = 2  # chunks that are read before they are asked for
_LARGE = 2**17  # bytes of an image
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

    def empty(self, count: int) -> dict[str, np.ndarray]:
        """Arrays for so many examples: "image", uint8 [count, S, S, 3], and "index", int32 [count]."""
        images = np.empty((count, self.size, self.size, CHANNELS), np.uint8)
        return {"image": images, "index": np.empty(count, np.int32)}

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Reads examples.

        Args:
            indices: positions, int [B].

        Returns:
            "image": uint8 [B, S, S, 3], and "index": int32 [B], the examples' numbers in their data set.

        Raises:
            IndexError: there is no such position.
            DamagedShardError: a shard is damaged; names it.
        """
        examples = self.empty(len(indices))
        self.read(indices, examples)
        return examples

    def read(self, indices: np.ndarray, into: dict[str, np.ndarray]) -> None:
        """Reads examples into arrays as `empty` makes them, see `take`. Safe to call from several threads."""
        indices = np.asarray(indices)
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"positions are from {indices.min()} to {indices.max()}, expected 0 to {len(self) - 1}.")
        ends = np.cumsum(self.counts)
        shards = np.searchsorted(ends, indices, side="right")
        for shard in np.unique(shards).tolist():
            places = np.flatnonzero(shards == shard)
            # Large records one by one, into memory that is used again: many at once take 1.5 times as long.
            for some in places[:, None] if self.example_bytes >= _LARGE else [places]:
                examples = self._read(shard, indices[some] - (ends[shard] - self.counts[shard]))
                for name, array in into.items():
                    array[some] = examples[name]

    def _read(self, shard: int, positions: np.ndarray) -> np.ndarray:
        """Records of a shard, [n] with the fields "image" and "index"."""
        path = self.paths[shard]
        layout = np.dtype([("image", np.uint8, (self.size, self.size, CHANNELS)), ("index", _NUMBER)])
        try:
            # Two threads may both open a shard; one of the readers is then used for this call alone.
            reader = self._readers.get(shard) or self._readers.setdefault(shard, open_shard(path, self.counts[shard]))
            return np.frombuffer(b"".join(reader.read(positions.tolist())), layout).reshape(len(positions))
        except (RuntimeError, ValueError, IndexError) as error:  # what ArrayRecord, `frombuffer` and `reshape` raise
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
        workers: threads that read ahead; 0 for one per core. It changes no batch.
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
            raise ValueError(f"workers is {self.workers}, expected at least 0: threads that read ahead.")
        self._order  # noqa: B018 (raises what is wrong with batch size, seed and start)

    @functools.cached_property
    def _order(self) -> Batches:
        return Batches(self.records, self.batch_size, self.seed, self.start, self.shuffle)

    @property
    def example(self) -> dict[str, np.ndarray]:
        """One example, [1, ...], of which only shapes and types count."""
        return {name: np.zeros_like(array) for name, array in self.records.empty(1).items()}

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

    def stream(
        self, first_step: int, end_step: int, chunk: int = 1, rows: np.ndarray | None = None
    ) -> contextlib.AbstractContextManager[Iterator[dict[str, np.ndarray]]]:
        """Reads the batches of consecutive steps ahead of their use.

        Args:
            first_step: of the run, at least `start`.
            end_step: after the last one.
            chunk: steps in what the iterator yields; the last chunk may have fewer.
            rows: which of a chunk's examples to read, int [n] in [0, chunk * batch_size), increasing; None for all. The
                last chunk gives those that it has.

        Returns:
            A context manager, which ends the reading. Its value is an iterator over chunks, one step after the other:
            "image", uint8 [n, S, S, 3], and "index", int32 [n].

        Raises:
            ValueError: there are no such steps, or the chunk is empty; the iterator: a shard is damaged.
        """
        self.epoch_at(first_step)  # raises if it is before the start
        if end_step < first_step or chunk < 1:
            raise ValueError(
                f"first_step is {first_step}, end_step {end_step} and chunk {chunk}, expected an end that is not "
                "before the first step, and at least one step in a chunk."
            )
        return self._read_ahead(range(first_step, end_step), chunk, rows)

    @contextlib.contextmanager
    def _read_ahead(
        self, steps: range, chunk: int, rows: np.ndarray | None
    ) -> Iterator[Iterator[dict[str, np.ndarray]]]:
        threads = self.workers or os.cpu_count() or 1
        pool = ThreadPoolExecutor(threads, thread_name_prefix="stream")

        def begin(part: range) -> tuple[dict[str, np.ndarray], list[Future[None]]]:
            """Has each thread read an equal share of a chunk."""
            indices = np.concatenate([self.indices_at(step) for step in part])
            if rows is not None:
                indices = indices[rows[rows < len(indices)]]
            examples = self.records.empty(len(indices))
            shares = itertools.starmap(slice, itertools.pairwise(np.linspace(0, len(indices), threads + 1, dtype=int)))
            return examples, [
                pool.submit(self.records.read, indices[share], {name: array[share] for name, array in examples.items()})
                for share in shares
            ]

        def chunks() -> Iterator[dict[str, np.ndarray]]:
            parts = (steps[first : first + chunk] for first in range(0, len(steps), chunk))
            begun = collections.deque(map(begin, itertools.islice(parts, _AHEAD)))
            while begun:
                begun.extend(map(begin, itertools.islice(parts, 1)))
                examples, reads = begun.popleft()
                for read in reads:
                    read.result()
                yield examples

        try:
            yield chunks()
        finally:
            pool.shutdown(cancel_futures=True)
