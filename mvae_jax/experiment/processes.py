"""Several processes of one run, such as one on each host: if one of them ends early, all do, and say why.

An error in one process leaves the others in an operation that waits for it, and at their ends they wait for each other.
So the process that fails tells them, through the store that JAX's coordinator keeps, and ends without waiting.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
from jax._src import distributed  # nothing public leads to the store

from mvae_jax import terminal
from mvae_jax.train.signals import Interrupted

_PATIENCE = 24 * 3600  # seconds that processes which are done wait for the one that measures and draws
_SILENCE = 30  # seconds without a sign of life after which a process counts as dead
_GRACE = 5  # seconds that a process has for ending by itself, once another has ended
_PAUSE = 1.0  # seconds between two looks at whether another has ended
_KEY = "mvae_jax/ended"


class Agreed(SystemExit):
    """Ends a process where all of them end, with one status."""


def join(**described: Any) -> None:
    """Joins the other processes of the run.

    Args:
        **described: of `jax.distributed.initialize`, which finds out what is not given.

    Raises:
        RuntimeError: the processes did not find each other.
    """
    jax.distributed.initialize(**described, shutdown_timeout_seconds=_PATIENCE, heartbeat_timeout_seconds=_SILENCE)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """If one of several processes ends in here by an error, a status or SIGTERM, the others end with it.

    They do so within seconds, with its status and its message. A process that is killed leaves none: it is missed by
    the next operation that needs it, or by JAX after half a minute. An end on which all have agreed is left alone.
    """
    if jax.process_count() == 1:
        yield
        return
    store = distributed.global_state.client
    _start_to_watch(store)
    # Until a run polls for signals itself. JAX has a handler of its own, with which a process lives on.
    previous = signal.signal(signal.SIGTERM, _end_by_signal)
    try:
        yield
    except BaseException as error:
        agreed = isinstance(error, Agreed) or (isinstance(error, Interrupted) and error.agreed)
        if agreed or (isinstance(error, SystemExit) and not error.code):
            raise
        _leave(store, error)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)


def _end_by_signal(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number) from InterruptedError(signal.Signals(number).name)


def _leave(store: Any, error: BaseException) -> NoReturn:
    """Ends this process for its error, unless that is the consequence of another's end."""
    ended = _told(store)
    if ended is None:
        status, reason = 1, f"{type(error).__name__}: {error}"
        if isinstance(error, Interrupted):
            status, reason = error.exit_code, signal.Signals(error.exit_code - 128).name
        elif isinstance(error, SystemExit) and isinstance(error.code, int):  # who raised it has told the user
            status, reason = error.code, str(error.__cause__ or error.__context__ or f"status {error.code}")
        else:
            traceback.print_exception(error)
        ended = {"process": jax.process_index(), "status": status, "reason": reason}
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another was quicker
            store.key_value_set(_KEY, json.dumps(ended))
    _end(_told(store) or ended)


def _start_to_watch(store: Any) -> None:
    """Watches in a thread until all processes are at their ends, where they wait for each other.

    Python aborts if it ends while a thread is in the store.
    """
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(store, done), daemon=True)
    watcher.start()

    @atexit.register
    def end_together() -> None:
        try:
            jax.distributed.shutdown()  # waits for the others
        finally:
            done.set()
            watcher.join()


def _watch(store: Any, done: threading.Event) -> None:
    """Ends this process once another has ended."""
    while (ended := _told(store)) is None:
        if done.wait(_PAUSE):
            return
    if ended["process"] != jax.process_index():
        time.sleep(_GRACE)
        _end(ended)


def _told(store: Any) -> dict[str, Any] | None:
    """Which process was the first to end, with what status, and why; None while none has."""
    try:
        return json.loads(store.key_value_try_get(_KEY))
    except jax.errors.JaxRuntimeError:  # there is no such key; or there is no store, and then JAX ends the process
        return None


def _end(ended: Any) -> NoReturn:
    if ended["process"] != jax.process_index():
        reason = " ".join(ended["reason"].split())
        terminal.echo(
            f"error: process {ended['process']} of {jax.process_count()} has ended: {reason}", stream=sys.stderr
        )
    if jax.process_index() == 0:
        time.sleep(_GRACE + 3)  # it holds the store, from which the others are to read
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended["status"])
