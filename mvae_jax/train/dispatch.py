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

_IN_FLIGHT = 2  # dispatches whose results the host has not looked at: one that runs, and one that waits behind it
_SECONDS = 0.2  # aimed at per dispatch: short enough to be interrupted, long enough for the host to be forgotten


class HostSignals(NamedTuple):
    """Signals that the hosts of a run exchange with every dispatch; the largest value of each counts for all hosts.

    Attributes:
        exit_code: of a preemption (SIGTERM, SIGINT) that asks the run to end; 0 without one.
        save: it is time for a checkpoint.
        step_seconds: measured time of a step.
    """

    exit_code: int = 0
    save: bool = False
    step_seconds: float = _SECONDS


class Result(NamedTuple):
    """Result of a dispatch, once the device has computed it.

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


class _InFlight(NamedTuple):
    """A dispatch whose results may still be computed; the arrays are on the devices."""

    end: int
    steps: int
    sums: MetricSums
    finite: jax.Array
    signals: jax.Array
    complete: bool


class Dispatcher:
    """Sends the steps of a phase to the device and hands on their results, in order.

    Several hosts must decide alike, or they wait for each other for ever. So a host sends its signals with every
    dispatch, and `agreed` follows from results that all hosts have looked at.

    Args:
        program: the compiled step.
        steps: how many to send at once; 0 for as many as fill 0.2 s.
        host_signals: returns this host's signals of now.
        on_result: gets the result of each dispatch.
        inline: whether the program runs when it is called, and its results are looked at at once: nothing is sent
            ahead, and looked at later, together with others, they would seem to have taken no time.

    Attributes:
        dispatches: how often steps were sent.
        starved: how often the device had nothing left to do by then, though the host was not waiting for it.
    """

    def __init__(
        self,
        program: Program,
        steps: int,
        host_signals: Callable[[], HostSignals],
        on_result: Callable[[Result], None],
        inline: bool = False,
    ) -> None:
        self._ahead = 0 if inline else _IN_FLIGHT
        self.dispatches = self.starved = 0
        self._program, self._steps = program, steps
        self._host_signals, self._on_result = host_signals, on_result
        self._in_flight: collections.deque[_InFlight] = collections.deque()
        self._sums = program.zeros
        self._step_seconds, self._settled_at = _SECONDS, time.monotonic()
        self._agreed = HostSignals()

    @property
    def agreed(self) -> HostSignals:
        """The signals that all hosts know of, and so may act on."""
        if jax.process_count() > 1:
            return self._agreed  # the host's own signals are two dispatches newer: the others have not seen them
        return self._host_signals()._replace(step_seconds=self._step_seconds)

    @property
    def steps_at_once(self) -> int:
        """Number of steps to send next, the same on all hosts."""
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
        if not self._in_flight:
            self._settled_at = time.monotonic()
        elif self._in_flight[-1].finite.is_ready():  # type: ignore[attr-defined]
            self.starved += 1
        self.dispatches += 1
        signals = np.array(self._host_signals()._replace(step_seconds=self._step_seconds), np.float32)
        state, sums, finite, agreed = self._program(state, self._sums, arrays, indices, signals)
        self._in_flight.append(_InFlight(end, len(indices), sums, finite, agreed, complete))
        self._sums = self._program.zeros if complete else sums
        self._settle(self._ahead)
        return state

    def drain(self) -> None:
        """Waits for all that was sent; signals that are not sent again are forgotten."""
        self._settle(0)
        self._agreed = HostSignals(step_seconds=self._agreed.step_seconds)

    def _settle(self, left: int) -> None:
        """Looks at the results of the oldest dispatches, until so many are left in flight."""
        while len(self._in_flight) > left:
            oldest = self._in_flight.popleft()
            finite, agreed = jax.device_get((oldest.finite, oldest.signals))  # the host waits for the device here
            exit_code, save, step_seconds = agreed
            self._agreed = HostSignals(int(exit_code), bool(save), float(step_seconds))
            # The device computes one dispatch after another, so from result to result is the time of one of them.
            now = time.monotonic()
            self._step_seconds, self._settled_at = (now - self._settled_at) / oldest.steps, now
            self._on_result(Result(oldest.end, finite[: oldest.steps], oldest.sums, oldest.complete))
