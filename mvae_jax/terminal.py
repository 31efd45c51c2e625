"""Text for a terminal: what stands in names of files and in messages cannot move its cursor or colour it."""

from __future__ import annotations

import io
import logging
import sys
import traceback
from types import TracebackType
from typing import TextIO

# Of the control characters line breaks and tabs alone pass; the others, and what is no UTF-8, are shown as escapes.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
_ESCAPES |= {code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def plain(text: object) -> str:
    """A text with control characters, also those that turn the direction of writing, as escapes."""
    return str(text).translate(_ESCAPES).encode(errors="backslashreplace").decode()


def echo(text: object = "", *, stream: TextIO | None = None) -> None:
    """Prints a plain text, by default to standard output."""
    print(plain(text), file=stream)


def escape_what_cannot_be_shown() -> None:
    r"""Has standard output write \N{...}-like escapes, as standard error does, for what its encoding lacks.

    Without it, one name that a pipe on Windows or a "C" locale cannot encode ends a program in the middle of its list.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def start_logging(level: int, line: str) -> None:
    """Log lines go to standard error as plain texts, and so do tracebacks of errors that nobody handles.

    Args:
        level: the least that is logged.
        line: format of a line, see `logging.Formatter`; the time is that of the day.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(line, "%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    sys.excepthook = _excepthook


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record))


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(plain("".join(traceback.format_exception(kind, error, trace))))
