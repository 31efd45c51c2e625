"""How a program ends: with a status, and for what its user can mend with one message in place of a traceback.

0 is done; 1 the answer no (a mismatch, a defect), or a disk or numbers that failed while a run trained; 2 a mistake in
the command line, the data or the environment, or damaged files of a run; 129, 130 and 143 are SIGHUP, Ctrl-C and
SIGTERM; 141 is a reader of standard output who has gone, as in `| head`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

from mvae_jax import terminal

MISTAKES = (ValueError, OSError, MemoryError)  # what a user can mend before anything is trained


def fail(message: str) -> NoReturn:
    """Ends the program with one line on standard error and status 2."""
    terminal.echo(f"error: {' '.join(message.split())}", stream=sys.stderr)
    sys.exit(2)


def message(error: Exception) -> str:
    """What to tell a user of an error, with its notes.

    The system's own words name a number, and no remedy; an error of memory has often no word at all.
    """
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        remedy = "Check this path and its permissions, or choose another one."
        text = f"{error.filename} cannot be used: {error.strerror}. {remedy}"
    elif isinstance(error, MemoryError):
        text = f"there is too little memory for this: ask for fewer or smaller images. {text}".rstrip()
    return " ".join([text, *getattr(error, "__notes__", ())])


@contextlib.contextmanager
def errors(kinds: tuple[type[Exception], ...] = MISTAKES, status: int = 2) -> Iterator[None]:
    """What a user can mend ends the program with its message, its notes and a status, without traceback.

    Args:
        kinds: of errors that a user can mend.
        status: the status.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except kinds as error:
        terminal.echo(f"error: {message(error)}", stream=sys.stderr)
        sys.exit(status)


@contextlib.contextmanager
def program() -> Iterator[None]:
    """A whole program: Ctrl-C, and a reader who has had enough, end it without traceback; any name can be printed."""
    terminal.escape_what_cannot_be_shown()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still in the buffer is written when Python ends
        sys.exit(128 + signal.SIGPIPE)
