"""Switches of the C library's allocator."""

from __future__ import annotations

import ctypes
import sys


def keep_freed_memory() -> bool:
    """Has the C library keep freed memory, instead of giving it back to the system.

    On CPU, XLA allocates the temporaries of a step anew each time. Memory fresh from the system costs a page fault per
    4 KiB, which took as long as the arithmetic. To be called before threads are started; it holds for the process.

    Returns:
        Whether the C library has such a switch (glibc has).
    """
    arenas, mapped, trimmed = (-8, 1), (-4, 0), (-1, -1)  # M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD
    return all([_glibc("mallopt", *option) for option in (arenas, mapped, trimmed)])


def return_freed_memory() -> None:
    """Gives freed memory back once, as after compilation, which needs much that training does not."""
    _glibc("malloc_trim", 0)


def _glibc(name: str, *arguments: int) -> int:
    """Calls a function of the C library; 0 where it does not have it."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    return function(*arguments) if function else 0
