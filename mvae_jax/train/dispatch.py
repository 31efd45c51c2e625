"""Keeps the device busy: steps are sent ahead, many at once, and their results looked at later."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from mvae_jax.train.program import MetricSums, Program
from mvae_jax.train.state import TrainState

_AHEAD = 2  # dispatches whose results the host has not looked at
_SECONDS = 0.2  # aimed at per dispatch: short enough to be interrupted, long enough for the host to be forgotten


class Wishes(NamedTuple):
    """What the hosts of a run tell one another; the largest of each counts for all.

    Attributes:
        exit_code: of a signal that asks the run to end; 0 without one.
        save: whether it is time for a checkpoint.
        step_seconds: measured time of a step.
    """

    exit_code: int = 0
    save: bool = False
    step_seconds: float = _SECONDS


class Result(NamedTuple):
    """What a dispatch has done.

    Attributes:
        end: steps of the run after it.
        finite: for each of its steps 1 if it was taken and 0 if it was refused, [steps].
        sums: the metrics' sums after it.
        complete: whether these sums are complete, and the next dispatch has begun new ones.
    """

    end: int
    finite: np.ndarray
    sums: MetricSums
    complete: bool


class _Flight(NamedTuple):
    end: int
    steps: int
    sums: MetricSums
    finite: jax.Array
    wishes: jax.Array
    complete: bool


class Dispatcher:
    """Sends the steps of a phase to the device and hands on their results, in order.

    Several hosts must decide alike, or they wait for each other for ever. So each tells its wishes with each dispatch,
    and `agreed` follows from results that all of them have looked at.

    Args:
        program: the compiled step.
        steps: how many to send at once; 0 for as many as fill 0.2 s.
        wish: asked for what this host wishes.
        on_result: gets the result of each dispatch.

    Attributes:
        dispatches: how often steps were sent.
        starved: how often the device had nothing left to do by then, though the host was not waiting for it.
    """

    def __init__(
        self,
        program: Program,
        steps: int,
        wish: Callable[[], Wishes],
        on_result: Callable[[Result], None],
    ) -> None:
        self.dispatches = self.starved = 0
        self._program, self._steps = program, steps
        self._wish, self._on_result = wish, on_result
        self._flights: collections.deque[_Flight] = collections.deque()
        self._sums = program.zeros
        self._step_seconds, self._settled_at = _SECONDS, time.monotonic()
        self._agreed = Wishes()

    @property
    def agreed(self) -> Wishes:
        """What all hosts know of all wishes."""
        if jax.process_count() > 1:
            return self._agreed
        return self._wish()._replace(step_seconds=self._step_seconds)

    @property
    def steps_at_once(self) -> int:
        """How many steps to send next, the same on all hosts."""
        fitting = int(_SECONDS / self.agreed.step_seconds)
        return self._steps or max(1, min(self._program.most_steps, fitting))

    def send(
        self, state: TrainState, arrays: Mapping[str, jax.Array], indices: np.ndarray, *, end: int, complete: bool
    ) -> TrainState:
        """Sends steps, and looks at the results of those sent long before.

        Args:
            state: the state before the steps, donated.
            arrays: the examples on the devices.
            indices: those of each step, int32 [steps, B].
            end: steps of the run after them.
            complete: the metrics' sums are complete with these steps, and begin anew.

        Returns:
            The state after the steps, which the device has yet to compute.
        """
        if not self._flights:
            self._settled_at = time.monotonic()
        elif self._flights[-1].finite.is_ready():  # type: ignore[attr-defined]
            self.starved += 1
        self.dispatches += 1
        wishes = np.array(self._wish()._replace(step_seconds=self._step_seconds), np.float32)
        state, sums, finite, agreed = self._program(state, self._sums, arrays, indices, wishes)
        self._flights.append(_Flight(end, len(indices), sums, finite, agreed, complete))
        self._sums = self._program.zeros if complete else sums
        self._settle(_AHEAD)
        return state

    def drain(self) -> None:
        """Waits for all that was sent; wishes that are not told again are forgotten."""
        self._settle(0)
        self._agreed = Wishes(step_seconds=self._agreed.step_seconds)

    def _settle(self, left: int) -> None:
        while len(self._flights) > left:
            flight = self._flights.popleft()
            finite, agreed = jax.device_get((flight.finite, flight.wishes))  # the host waits for the device here
            exit_code, save, step_seconds = agreed
            self._agreed = Wishes(int(exit_code), bool(save), float(step_seconds))
            now = time.monotonic()
            self._step_seconds, self._settled_at = (now - self._settled_at) / flight.steps, now
            self._on_result(Result(flight.end, finite[: flight.steps], flight.sums, flight.complete))
