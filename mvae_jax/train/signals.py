"""Preemption: SIGTERM and Ctrl-C become a question that the loop asks, so that a run saves before it ends."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any


class Interrupted(SystemExit):
    """Ends the process with the status of the signal; raised once the state is saved."""


class Interruption:
    """Notes SIGTERM and SIGINT for as long as its context lives, instead of dying from them.

    Poll `requested` wherever time passes: after a step, a batch of an evaluation, a figure. Ctrl-C after the first
    signal raises `KeyboardInterrupt` at once. Python runs handlers between its own instructions, so a signal that
    arrives during a compilation is seen when that ends. Handlers belong to the main thread: entered in another one,
    the context installs none, and `requested` stays false.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler that was not installed from Python and cannot be put back from it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    @property
    def requested(self) -> bool:
        """True once a signal has asked the run to end."""
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """Exit status that stands for the first signal: 143 for SIGTERM, 130 for SIGINT; 0 without one."""
        return 0 if self._signal is None else 128 + self._signal

    def check(self) -> None:
        """Raises `Interrupted` if the run was asked to end: for code that has nothing to save."""
        if self.requested:
            raise Interrupted(self.exit_code)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is None:
            self._signal = signal.Signals(number)
            hint = " Press Ctrl-C again to stop at once." if number == signal.SIGINT else ""
            # Not print: the handler may run in the middle of another write to the same buffered stream.
            os.write(2, f"\n{self._signal.name}: stopping as soon as the state is saved.{hint}\n".encode())
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
