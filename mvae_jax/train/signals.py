"""Preemption: SIGTERM, SIGHUP and Ctrl-C end a run at once, or as soon as what it has in memory is saved."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PATIENCE = 1.0  # seconds from the moment at which nothing is held to that at which the process ends without the thread
_STOP = 0  # to the thread that watches; no signal has this number

# A forked child has no thread that watches, and its signals are not its parent's.
os.register_at_fork(after_in_child=functools.partial(signal.set_wakeup_fd, -1))


class Interrupted(SystemExit):
    """Ends the process with the status of the signal; raised where all that counts is saved.

    Args:
        exit_code: the status.
        agreed: whether all processes of the run end so, of which only some may have the signal.
    """

    def __init__(self, exit_code: int, *, agreed: bool = False) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code
        self.agreed = agreed


class Interruption:
    """Has SIGTERM, SIGHUP and SIGINT end the process for as long as its context lives, and nothing be lost by that.

    A signal raises `Interrupted` at once, in the main thread. Python does so between its own instructions: if that
    thread is in a compilation, or in another call of a library, the process ends without it a second later, as by a
    kill. Both are put off while something is `held`, such as a state that is only in memory: then poll `requested`
    wherever time passes, save, and raise `Interrupted`. Ctrl-C after the first signal ends the process at once,
    whatever is held.

    Handlers belong to the main thread: entered in another one, the context installs none, and `requested` stays false.
    A program that was started with nohup goes on without its terminal: it ignores SIGHUP.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._raised = False
        self._held: set[object] = set()
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            # The system writes the number of a signal into the pipe whatever the main thread does.
            reader, self._pipe = os.pipe()
            os.set_blocking(self._pipe, False)
            self._watcher = threading.Thread(target=self._watch, args=(reader,), name="signals", daemon=True)
            self._watcher.start()
            self._previous_pipe = signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
            for number in _SIGNALS:
                if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._previous:
            return
        for number, handler in self._previous.items():
            # None stands for a handler that was not installed from Python and cannot be put back from it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()
        signal.set_wakeup_fd(self._previous_pipe)
        os.write(self._pipe, bytes([_STOP]))
        self._watcher.join()
        os.close(self._pipe)

    @property
    def requested(self) -> bool:
        """True once a signal has asked the run to end."""
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """Exit status that stands for the first signal: 143 for SIGTERM, 130 for SIGINT, 129 for SIGHUP; 0 without."""
        return 0 if self._signal is None else 128 + self._signal

    def check(self) -> None:
        """Raises `Interrupted` if the run was asked to end: for code that has nothing to save."""
        if self.requested:
            raise Interrupted(self.exit_code)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Puts the end off while the context lives; leaving it without an error calls `check`."""
        token = object()
        self._held.add(token)
        try:
            yield
        finally:
            self._held.discard(token)
        self.check()

    def hold_until(self, done: Future[Any]) -> None:
        """Puts the end off until what another thread does is done, such as the writing of a checkpoint."""
        self._held.add(done)
        done.add_done_callback(self._held.discard)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """In the main thread, between two instructions."""
        self._note(number)
        if not self._held and not self._raised:
            self._raised = True  # once: what follows is cleaning up
            raise Interrupted(self.exit_code)

    def _note(self, number: int) -> None:
        """In the thread that comes first."""
        if self._signal is None:
            self._how = "stopping as soon as the state is saved" if self._held else "stopping; what is trained is saved"
            self._signal = signal.Signals(number)

    def _watch(self, reader: int) -> None:
        """In a thread of its own: announces signals, and ends the process where the main thread does not."""
        seen, deadline = 0, math.inf
        while True:
            ready, _, _ = select.select([reader], [], [], 0.05 if seen else None)
            for number in os.read(reader, 64) if ready else b"":
                if number == _STOP:
                    os.close(reader)
                    return
                if number not in _SIGNALS:
                    continue
                self._note(number)
                if seen and number == signal.SIGINT:
                    os._exit(128 + number)
                if not seen:
                    self._announce()
                seen += 1
            waiting = not seen or self._held
            deadline = math.inf if waiting else min(deadline, time.monotonic() + _PATIENCE)
            if time.monotonic() >= deadline:
                os._exit(self.exit_code)

    def _announce(self) -> None:
        assert self._signal is not None
        again = " Ctrl-C again stops at once." if self._signal == signal.SIGINT else ""
        # Not print, whose lock the main thread may hold; and after SIGHUP there may be no terminal to write to.
        with contextlib.suppress(OSError):
            os.write(2, f"\n{self._signal.name}: {self._how}, and the same command goes on.{again}\n".encode())
