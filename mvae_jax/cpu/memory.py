"""Switches of the C library's allocator, and of the threads that use it."""

from __future__ import annotations

import ctypes
import sys

import jax
from jax.sharding import Mesh


def keep_freed_memory() -> bool:
    """Has the C library keep freed memory, instead of giving it back to the system.

    On CPU, XLA allocates the temporaries of a step anew each time. Memory fresh from the system costs a page fault per
    4 KiB, which takes a fifth of the step of a narrow VAE. To be called before JAX is used and threads are started; it
    holds for the process, in which programs for one CPU device from now on run in the thread that calls them.

    Returns:
        Whether the C library has such a switch (glibc has).
    """
    # Not M_ARENA_MAX: threads that share an arena wait for each other. Compilation took 1.6 times as long, and steps of
    # narrow networks 1.4 times in a process that had compiled them itself. But only the first thread's arena keeps
    # blocks of more than 64 MiB; so that thread, which trains, also runs the programs. That takes .74 of the time of
    # ALAE's step at the paper's width, and .83 of the multimodal VAE's in the laptop preset.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    mapped, trimmed = (-4, 0), (-1, -1)  # M_MMAP_MAX, M_TRIM_THRESHOLD
    return all([_glibc("mallopt", *option) for option in (mapped, trimmed)])


def runs_inline(mesh: Mesh) -> bool:
    """Whether programs for these devices run in the thread that calls them, as `keep_freed_memory` asks for."""
    is_one_cpu = mesh.size == 1 and next(iter(mesh.devices.flat)).platform == "cpu"
    return is_one_cpu and not jax.config.values["jax_cpu_enable_async_dispatch"]


def return_freed_memory() -> None:
    """Gives freed memory back once, as after compilation, which needs much that training does not."""
    _glibc("malloc_trim", 0)


def _glibc(name: str, *arguments: int) -> int:
    """Calls a function of the C library; 0 where it does not have it."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    return function(*arguments) if function else 0
