"""What a GPU does with the zoo, in under eight minutes; tried on a CPU by --tiny:

    python tools/gpu_check.py -o gpu.json
    python tools/gpu_check.py --tiny -o tiny.json

Asks in this order, and stops asking when --seconds are over; what was not asked is listed. Each answer is a line, and
is written to the file at once.

  layers    forward and backward pass of the zoo's convolutions, plain and canonical: which is faster here
  model     the papers' presets phase by phase, in float32 and bfloat16: images/s, share of a matrix product's rate,
            first step with nothing cached, memory
  dispatch  several steps in one call: what the device waits for the host with one
  batch     larger batches
  bits      the state after the same steps twice, with deterministic operations and without, and what they cost

Each measurement runs in a process of its own, so that one that fails or fills the memory ends alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import benchmark
import jax
import jax.numpy as jnp
from _benchmark_worker import SUBJECTS
from _measuring import output_path

from mvae_jax.cpu.convolution import Formulation, convolution, transposed_convolution

_WORKER = [sys.executable, str(Path(__file__).with_name("_benchmark_worker.py"))]
# Images, size, input and output channels, kernel, stride; negative for a transposed convolution.
_LAYERS = (
    *((64, 64, 64, 64, 3, 1), (64, 16, 512, 512, 3, 1), (64, 64, 64, 3, 3, 1)),
    *((64, 64, 3, 64, 4, 2), (64, 32, 128, 256, 4, 2), (64, 16, 256, 128, 4, -2), (64, 64, 3, 3, 5, 1)),
)
_MODELS = (
    *(("multimodal", "adversarial"), ("multimodal", "unimodal"), ("multimodal", "alignment")),
    *(("vae", "training"), ("vae_gan", "training"), ("alae", "training"), ("beta_tcvae", "training")),
)
_REPETITIONS = 20
_Job = tuple[str, dict[str, Any]]


def jobs(tiny: bool) -> Iterator[_Job]:
    """(kind, what is asked), the most wanted first."""
    preset, models = ("laptop", _MODELS[3:4]) if tiny else ("paper", _MODELS)
    for dtype in ("float32", "bfloat16"):
        yield "layers", {"dtype": dtype, "layers": [(2, 8, 4, 4, 3, 1)] if tiny else _LAYERS}
    for dtype in ("float32", "bfloat16"):
        yield "model", _asked(models[0], preset, compute_dtype=dtype)
    for steps in (8, 64)[: 1 if tiny else 2]:
        yield "dispatch", _asked(models[0], preset) | {"steps_per_dispatch": steps}
    for batch_size in (8,) if tiny else (128, 512, 2048):
        yield "batch", _asked(models[0], preset, compute_dtype="bfloat16", batch_size=batch_size)
    for deterministic in (True, False):
        yield "bits", _asked(models[0], preset) | {"deterministic": deterministic}
    for model in models[1:]:
        for dtype in ("float32", "bfloat16"):
            yield "model", _asked(model, preset, compute_dtype=dtype)


def _asked(model: tuple[str, str], preset: str, **fields: Any) -> dict[str, Any]:
    name, phase = model
    return {"model": name, "preset": preset, "phase": phase, "fields": fields, "steps_per_dispatch": 1}


def ask(kind: str, asked: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Measures, in processes that are ended after so many seconds.

    Raises:
        RuntimeError: the process failed.
        subprocess.TimeoutExpired: it took too long.
    """
    if kind == "layers":
        done = subprocess.run(
            [sys.executable, __file__, "--layers", json.dumps(asked)], capture_output=True, text=True, timeout=seconds
        )
        if done.returncode:
            raise RuntimeError(f"it ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
        return json.loads(done.stdout)
    if kind == "bits":
        deterministic = "--xla_gpu_deterministic_ops=true" if asked["deterministic"] else ""
        flags = f"{os.environ.get('XLA_FLAGS', '')} {deterministic}".strip()
        first, second = (_train(asked, seconds / 2, {"XLA_FLAGS": flags}) for _ in range(2))
        return first | {"same_bits": first["digest"] == second["digest"]}
    return _train(asked, seconds, {})


def _train(asked: Mapping[str, Any], seconds: float, environment: Mapping[str, str]) -> dict[str, Any]:
    """Some steps of a model by the benchmark's worker."""
    subject = SUBJECTS[asked["model"]]
    config = dataclasses.replace(subject.presets()[asked["preset"]], **asked["fields"])
    phase, at_once = subject.phase(config, asked["phase"]), asked["steps_per_dispatch"]
    settings = {
        **{"model": asked["model"], "config": dataclasses.asdict(config), "phase": phase.name, "devices": 1},
        **{"shard_state": False, "steps_per_dispatch": at_once, "examples": max(256, phase.batch_size)},
        **{"export": "", "run": True},
    }
    with benchmark.Side(_WORKER, settings, {"JAX_ENABLE_COMPILATION_CACHE": "false", **environment}, seconds) as side:
        side.ask(f"steps {2 * at_once}")
        steps, product = side.ask(f"steps {max(10, 2 * at_once)}"), side.ask("product ")["flops_per_second"]
        digest, program = side.ask("digest ")["digest"], side.ask("program ")
    median = sorted(steps["seconds"])[len(steps["seconds"]) // 2]
    return {
        "milliseconds": 1e3 * median,
        "images_per_second": phase.batch_size / median,
        "of_product": program["flops"] / median / product,
        "first_step_seconds": side.greeting["first_step_seconds"],
        "peak_mib": steps["peak_bytes"] / 2**20,
        "temporary_mib": program["memory"]["temporary"] / 2**20,
        "device": side.greeting["device"],
        "digest": digest,
    }


def time_layer(layer: Sequence[int], dtype: str) -> dict[str, float]:
    """Milliseconds of forward and backward pass of a layer, by formulation."""
    images, size, channels, features, kernel_size, stride = layer
    function = convolution if stride > 0 else transposed_convolution
    x, kernel = (
        jax.random.normal(jax.random.key(0), shape, dtype)
        for shape in ((images, size, size, channels), (kernel_size, kernel_size, channels, features))
    )

    def loss(x: jax.Array, kernel: jax.Array, formulation: Formulation) -> jax.Array:
        y = function(x, kernel, stride=abs(stride), formulation=formulation)
        return jnp.square(y.astype(jnp.float32)).mean()

    milliseconds = {}
    for formulation in get_args(Formulation):
        step = jax.jit(jax.grad(functools.partial(loss, formulation=formulation), (0, 1)))
        result = jax.block_until_ready(step(x, kernel))
        start = time.perf_counter()
        for _ in range(_REPETITIONS):
            result = step(x, kernel)
        jax.block_until_ready(result)
        milliseconds[formulation] = 1e3 * (time.perf_counter() - start) / _REPETITIONS
    return milliseconds


def time_layers(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The same of several layers."""
    name = "{} images of {} px, {} to {} channels, kernel {}, stride {}".format
    found = {name(*layer): time_layer(layer, asked["dtype"]) for layer in asked["layers"]}
    return {"milliseconds": found, "device": jax.devices()[0].device_kind}


def main() -> None:
    """Asks one question after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="one small model and layer: does this script work?")
    parser.add_argument("--seconds", type=float, default=450, help="for all questions together (default: %(default)s)")
    parser.add_argument("-o", "--output", type=output_path, default="gpu_check.json", help="default: %(default)s")
    parser.add_argument("--layers", type=json.loads, help=argparse.SUPPRESS)  # the process that times layers
    arguments = parser.parse_args()
    if arguments.layers:
        print(json.dumps(time_layers(arguments.layers)))
        return
    end, answers = time.monotonic() + arguments.seconds, []
    for kind, asked in jobs(arguments.tiny):
        left = end - time.monotonic()
        try:
            answer = ask(kind, asked, left) if left > 0 else {"error": "no time left"}
        except (RuntimeError, ValueError, OSError, subprocess.TimeoutExpired) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.append({"kind": kind, "asked": asked, **answer})
        print(kind, json.dumps({**asked, **answer}), flush=True)
        arguments.output.write_text(json.dumps(answers, indent=1))


if __name__ == "__main__":
    main()
