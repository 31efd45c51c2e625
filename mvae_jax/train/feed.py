"""Examples for the steps of a phase: on the devices all the time, or brought there block by block."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from mvae_jax.train.devices import Placement, failed_anywhere

_BLOCK_BYTES = 2**26  # of examples that go to the devices in one piece


class Resident(Protocol):
    """A data set that stays on the devices, and the order in which a phase visits it."""

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The data, {name: [N, ...]}."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps per pass over the data."""

    def indices_at(self, step: int) -> np.ndarray:
        """Examples of the batch of a step of the run, int32 [B]."""


@runtime_checkable
class Streamed(Protocol):
    """A data set that is too large for that, read in the order in which a phase visits it."""

    @property
    def example(self) -> Mapping[str, np.ndarray]:
        """Arrays [1, ...] of which only shapes and types count."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps per pass over the data."""

    def stream(self, first_step: int, end_step: int, chunk: int, rows: np.ndarray) -> Any:
        """A context manager, which gives an iterator over chunks of steps; the last one may have fewer.

        Only `rows` of a chunk's examples [chunk B, ...], int [n], are read: {name: [n, ...]}, or those that it has.
        """


Source = Resident | Streamed


def arrays_like(source: Source, batch_size: int, most_steps: int) -> Mapping[str, np.ndarray]:
    """Arrays of the shapes of those that the program of a phase takes; those of a stream hold nothing.

    Args:
        source: the examples.
        batch_size: B.
        most_steps: largest number of steps in one dispatch.
    """
    if not isinstance(source, Streamed):
        return source.arrays
    batch_bytes = batch_size * sum(array.nbytes for array in source.example.values())
    rows = max(1, min(most_steps, _BLOCK_BYTES // batch_bytes)) * batch_size
    return {name: np.broadcast_to(array, (rows, *array.shape[1:])) for name, array in source.example.items()}


class Feed:
    """The examples of consecutive steps, as the program of a phase takes them; a context manager.

    A stream comes in blocks of steps: while the devices work on one, the next is read and put beside it. A host reads
    of each block what its own devices hold.

    Args:
        source: the examples.
        placement: the devices.
        batch_size: B.
        most_steps: largest number of steps in one dispatch, as for `arrays_like`.
        first_step: of the run.
        end_step: after the last one.
    """

    def __init__(
        self, source: Source, placement: Placement, batch_size: int, most_steps: int, first_step: int, end_step: int
    ) -> None:
        self._placement, self._batch_size = placement, batch_size
        self._first, self._end = first_step, end_step
        self._stack = contextlib.ExitStack()
        self._arrays: Mapping[str, jax.Array] = {}
        self._order = None if isinstance(source, Streamed) else source
        if not isinstance(source, Streamed):
            self._arrays, self._until = placement.spread(source.arrays), end_step
            return
        self._rows = len(next(iter(arrays_like(source, batch_size, most_steps).values())))
        self._here = placement.rows_here(self._rows)
        self._until = first_step
        stream = source.stream(first_step, end_step, self._rows // batch_size, self._here)
        self._stream = self._stack.enter_context(stream)
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed")
        self._stack.callback(self._reader.shutdown, cancel_futures=True)
        self._next = self._reader.submit(self._block)

    def _block(self) -> Mapping[str, jax.Array] | None:
        """The next block on the devices; the last one is filled up."""
        block = next(self._stream, None)
        if block is None:
            return None
        here = {name: _filled(array, len(self._here)) for name, array in block.items()}
        return self._placement.join(here, self._rows)

    def advance(self, step: int) -> BaseException | None:
        """Takes the next block, read meanwhile, where the one before is used up, and begins to read the one after.

        Returns:
            What the reading has failed with on this host or, in words, on another one; None if nothing has failed.
        """
        if step < self._until or step == self._end:
            return None
        failed: BaseException | None = None
        try:
            block = self._next.result()
            if block is None:
                raise RuntimeError(f"the stream of examples ended before step {step}; it should go to {self._end}.")
        except Exception as error:
            failed = error
        else:
            self._next = self._reader.submit(self._block)
            self._first, self._arrays = step, block
            self._until = min(self._end, step + self._rows // self._batch_size)
        # All hosts come here at the same steps, since they read blocks of one size.
        return failed_anywhere(failed, "the stream of examples")

    def room(self, step: int) -> int:
        """Number of steps from this one on, to which the feed has advanced, whose examples are in the same arrays."""
        return self._until - step

    def take(self, step: int, steps: int) -> tuple[Mapping[str, jax.Array], np.ndarray]:
        """Arrays, and the rows in them of some steps, int32 [steps, B]; at most `room(step)` steps."""
        if self._order is not None:
            return self._arrays, np.stack([self._order.indices_at(number) for number in range(step, step + steps)])
        # A stream is in the phase's order already: consecutive rows of the block.
        rows = np.arange((step - self._first) * self._batch_size, (step - self._first + steps) * self._batch_size)
        return self._arrays, rows.astype(np.int32).reshape(steps, self._batch_size)

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def _filled(array: np.ndarray, rows: int) -> np.ndarray:
    if len(array) == rows:
        return array
    return np.concatenate([array, np.zeros((rows - len(array), *array.shape[1:]), array.dtype)])
