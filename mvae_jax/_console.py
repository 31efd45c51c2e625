"""Standard output of the programs: whatever a file is called, its name can be printed."""

from __future__ import annotations

import io
import sys


def escape_what_cannot_be_shown() -> None:
    r"""Has standard output write \N{...}-like escapes, as standard error does, for what its encoding lacks.

    Without it, one name that a pipe on Windows or a "C" locale cannot encode ends a program in the middle of its list.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
