"""Options of XLA that were measured to be best on CPU."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

# YNNPACK for matrix products and sums, but not for convolutions, which it slows down by a tenth.
_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,"
    "LIBRARY_FUSION_TYPE_REDUCE"
}
# XLA's own choice is 256 bits. On a Xeon with AMX, steps at the paper's widths take .74 to .93 of the time with 512,
# those of narrow networks the same; on a Zen 5 nothing was gained.
_OF_WIDE_VECTORS = {"xla_cpu_prefer_vector_width": 512}
# Code that is quick to generate: drawing the parameters compiles in .15 (VAE) to .9 (multimodal VAE) of the time, with
# the same bits. Steps would be slower.
_QUICK = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}
# Independent collectives in any order may wait for each other for ever, as devices share a pool of threads.
_OF_MANY_DEVICES = {"xla_cpu_enable_concurrency_optimized_scheduler": False}


def compile_lowered(lowered: Any, mesh: Mesh, *, runs_once: bool = False) -> Any:
    """Compiles a lowered program, on CPU with these options, but for those that this version of XLA lacks.

    Args:
        lowered: what `jax.jit(...).lower(...)` returns.
        mesh: the devices that the program is for.
        runs_once: whether compiling takes longer than running, as where parameters are drawn.
    """
    options: dict[str, Any] = {}
    if next(iter(mesh.devices.flat)).platform == "cpu":
        options = dict(_QUICK if runs_once else _OPTIONS)
        if mesh.size > 1:
            options |= _OF_MANY_DEVICES
        if _has_amx() and not runs_once:
            options |= _OF_WIDE_VECTORS
    while True:
        try:
            return lowered.compile(options)
        except jax.errors.JaxRuntimeError as error:
            accepted = {name: value for name, value in options.items() if name not in str(error)}
            if "compile option" not in str(error) or accepted == options:
                raise
            options = accepted


@functools.cache
def _has_amx() -> bool:
    """Whether this is an Intel processor since Sapphire Rapids; False where the system does not say."""
    try:
        return "amx_tile" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
