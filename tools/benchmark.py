"""How fast a model trains, how that grows, and how it compares with the same model in PyTorch:

    python tools/benchmark.py
    python tools/benchmark.py --preset paper --against torch --torch-python torch-env/bin/python -o paper.json
    python tools/benchmark.py --preset laptop --phases adversarial --sweep batch_size=1,4,16,64
    python tools/benchmark.py --sweep devices=1,2,4,8 --set batch_size=16
    python tools/benchmark.py --model mopoe --against torch --torch-python multivae-env/bin/python
    python tools/benchmark.py --model style_alae --preset ffhq --compile-only --phases stabilise_512,stabilise_1024

Each side runs in a process of its own, on resident noise that is not augmented. They take turns: in each round every
side trains the same number of steps, so that a machine that slows down slows all of them; ratios are taken within
rounds. While other programs use more than --most-load of the processors, a round waits (--patience); a round that they
disturb is repeated, as often as there are rounds to do. Before anything is timed, the losses and gradient norms of one
step from the same parameters, batch and noise are compared.

What the columns say:
  ms/step        median over dispatches, with least and most; a step ends when its results are there
  images/s       batch size through that median
  GFLOP          of a step, by XLA's cost analysis with plain convolutions; what XLA merges counts once
  of product     GFLOP per second through the rate of a large matrix product in the same dtype, measured in each round
  compile        first step of a fresh process, from the start of tracing to its metrics on the host: with an empty
                 and with a filled compilation cache; drawing the parameters does not count
  memory         most that was held: on an accelerator its own memory, on a CPU the process's, of the process that
                 found its program in the cache
With --compile-only nothing is run or timed: GFLOP, what the compiled program needs of each device's memory, for state
and examples and besides, and its collectives.

Mistakes end with one line and status 2; sides that do not compute the same, with one line and status 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from _benchmark_worker import OF_FAMILY, SUBJECTS
from _measuring import (
    Disagreement,
    Record,
    add_flags,
    check_interpreter,
    check_least,
    finish,
    take_turns,
    used_sides,
    write,
)

_TORCH = {"torch": "2.13.0", "numpy": ""}
_MULTIVAE = {"multivae": "1.0.3", "torch": "", "numpy": ""}  # of the multimodal VAEs, whose counterparts are MultiVae's
_OURS = "jax"
_EXAMPLES = 256


class Side:
    """A process that measures one side, and is killed after so many seconds if it is given a number of them."""

    def __init__(
        self,
        command: Sequence[str],
        settings: Record,
        environment: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> None:
        self._name = Path(command[1]).name
        self._process = subprocess.Popen(
            [*command, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self._alarm = threading.Timer(seconds, self._process.kill) if seconds else None
        if self._alarm:
            self._alarm.start()
        try:
            self.greeting = self._read()
        except BaseException:
            self.__exit__()
            raise

    def ask(self, line: str) -> Record:
        """Sends a line and reads the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Record:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended with status {self._process.wait()}; see above.")
        answer = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer

    def cpu_seconds(self) -> float:
        """What the process has used of the processors, where /proc tells."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        if self._alarm:
            self._alarm.cancel()
        self._process.kill()
        self._process.communicate()


def measure(arguments: argparse.Namespace, config: Any, phase_name: str, devices: int) -> Record:
    """Measures one phase of one config on all sides."""
    subject = SUBJECTS[arguments.model]
    phase = subject.phase(config, phase_name)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        settings = {
            "model": arguments.model,
            "config": dataclasses.asdict(config),
            "phase": phase_name,
            "devices": devices,
            "shard_state": arguments.shard_state,
            "steps_per_dispatch": arguments.steps_per_dispatch,
            "examples": phase.batch_size if arguments.compile_only else max(_EXAMPLES, phase.batch_size),
            "export": f"{folder}/first_step.npz" if arguments.against else "",
            "run": not arguments.compile_only,
        }
        environment = {
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}".strip(),
            "XLA_PYTHON_CLIENT_MEM_FRACTION": os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5"),
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache",
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        if devices > 1:
            # Forced CPU devices share one pool of threads, by default one per core. Collectives block theirs, and two
            # that wait for each other's thread wait for ever.
            environment["NPROC"] = str(8 * devices)
        ours = [sys.executable, str(Path(__file__).with_name("_benchmark_worker.py"))]
        with Side(ours, settings | {"export": ""}, environment) as first:
            program = first.ask("program")
            if arguments.compile_only:
                told = {"model": arguments.model, "preset": arguments.preset, "phase": phase_name}
                return told | {"batch_size": phase.batch_size, "config": settings["config"]} | first.greeting | program
            cold = first.greeting["first_step_seconds"]
        sides = {_OURS: Side(ours, settings, environment)}
        greeting = sides[_OURS].greeting
        try:
            theirs = settings | {
                "weights": subject.terms(config, phase),
                "arrays": {name: array.shape[1:] for name, array in subject.data(config, phase, 1).items()},
                "threads": arguments.threads,
                "device": "cuda" if greeting["platform"] in ("gpu", "cuda") else "cpu",
            }
            for variant in arguments.variants.split(",") if arguments.against else ():
                command = [arguments.torch_python, str(Path(__file__).with_name("torch_peer.py"))]
                sides[f"torch {variant}"] = Side(command, theirs | {"variant": variant})
            exact = greeting["platform"] == "cpu" and arguments.dtype == "float32"
            differences = {}
            for name, side in sides.items():
                if name != _OURS:
                    losses = side.ask(f"losses {settings['export']}")["losses"]
                    # On an accelerator, and in bfloat16, products keep 8 to 11 bits.
                    differences[name] = compare(greeting["losses"], losses, name, 1e-3 if exact else 0.1)
            for side in sides.values():
                side.ask(f"steps {2 * arguments.steps_per_dispatch}")
            rounds = take_turns(
                arguments,
                {
                    name: (functools.partial(side.ask, f"steps {arguments.steps}"), side.cpu_seconds)
                    for name, side in sides.items()
                },
                lambda: {"product": sides[_OURS].ask("product")["flops_per_second"]},
            )
        finally:
            for side in sides.values():
                side.__exit__()
    batch_size, record = phase.batch_size, summarise(rounds, phase.batch_size)
    seconds, rate = record["sides"][_OURS]["median"], statistics.median(turn["product"] for turn in rounds)
    return {
        "model": arguments.model,
        "preset": arguments.preset,
        "phase": phase_name,
        "batch_size": batch_size,
        "config": dataclasses.asdict(config),
        **{name: greeting[name] for name in ("platform", "device", "devices", "versions")},
        "steps_per_dispatch": arguments.steps_per_dispatch,
        "compile_seconds": {"cold": cold, "cached": greeting["first_step_seconds"]},
        "flops": program["flops"],
        "product_flops_per_second": rate,
        "utilisation": program["flops"] / seconds / rate,
        "collectives": program["collectives"],
        "differences": differences,
        **record,
        "rounds": rounds,
    }


def compare(ours: Mapping[str, float], theirs: Mapping[str, float], peer: str, tolerance: float) -> dict[str, float]:
    """Relative differences of what the first step gave on two sides.

    Raises:
        Disagreement: a loss differs by more than the tolerance, or a gradient's norm by more than ten times as much: it
            jumps where rounding puts a unit on the other side of its kink.
    """
    differences = {name: abs(ours[name] - value) / max(abs(value), 1e-6) for name, value in theirs.items()}
    for name, difference in differences.items():
        if not difference <= (10 * tolerance if _is_norm(name) else tolerance):
            raise Disagreement(f"{name} is {ours[name]:.6g} here and {theirs[name]:.6g} in {peer}: not the same model.")
    return differences


def _is_norm(name: str) -> bool:
    return name.endswith("gradient_norm")


def summarise(rounds: Sequence[Record], batch_size: int) -> Record:
    """Times of each side, and ratios of each other side's to ours; of quiet rounds if there were any."""
    used = used_sides(rounds)
    result: Record = {"sides": {}, "quiet_rounds": sum(turn["quiet"] for turn in rounds), "used_rounds": len(used)}
    for name in used[0]:
        seconds = [value for turn in used for value in turn[name]["seconds"]]
        median = statistics.median(seconds)
        result["sides"][name] = {
            "median": median,
            "least": min(seconds),
            "most": max(seconds),
            "images_per_second": batch_size / median,
            "peak_bytes": max(turn[name]["peak_bytes"] for turn in used),
        }
        if name != _OURS:
            ratios = [
                statistics.median(turn[name]["seconds"]) / statistics.median(turn[_OURS]["seconds"]) for turn in used
            ]
            result["sides"][name] |= {"ratio": statistics.median(ratios), "ratios": ratios}
    return result


# --- what is printed -------------------------------------------------------------------------------------------------


def describe(record: Record, point: str) -> str:
    """A few lines on one measurement."""
    lines = [
        f"{record['model']}, preset {record['preset']}, phase {record['phase']}{point and ', '}{point}: "
        f"{record['batch_size']} images, {record['devices']} x {record['device']}"
    ]
    for name, side in record["sides"].items():
        line = (
            f"  {name:14} {1e3 * side['median']:9.1f} ms/step ({1e3 * side['least']:.1f} to {1e3 * side['most']:.1f})"
            f" {side['images_per_second']:9.1f} images/s {side['peak_bytes'] / 2**20:8.0f} MiB"
        )
        if "ratio" in side:
            line += f"; takes {side['ratio']:.2f} of our time ({min(side['ratios']):.2f} to {max(side['ratios']):.2f})"
        lines.append(line)
    compiled = record["compile_seconds"]
    lines.append(
        f"  {record['flops'] / 1e9:.2f} GFLOP/step, {100 * record['utilisation']:.0f} % of the matrix product's "
        f"{record['product_flops_per_second'] / 1e9:.0f} GFLOP/s; compile {compiled['cold']:.1f} s, from the cache "
        f"{compiled['cached']:.1f} s"
    )
    for name, found in record["differences"].items():
        losses, norms = (max(found[key] for key in found if _is_norm(key) == norm) for norm in (False, True))
        lines.append(f"  same as {name}: losses to {losses:.1e}, gradient norms to {norms:.1e}")
    for kind, found in record["collectives"].items():
        lines.append(f"  {found['count']} {kind} of {found['bytes'] / 2**20:.2f} MiB")
    if not record["quiet_rounds"]:
        lines.append("  NO ROUND WAS QUIET: other programs were using the processors, these times say little")
    return "\n".join(lines)


def describe_program(record: Record, point: str) -> str:
    """The same of a measurement of the program alone."""
    memory, collectives = record["memory"], record["collectives"]
    return (
        f"{record['model']}, preset {record['preset']}, phase {record['phase']}{point and ', '}{point}: "
        f"{record['batch_size']} images, {record['devices']} x {record['device']}\n"
        f"  {record['flops'] / 1e9:.1f} GFLOP/step; of each device {memory['arguments'] / 2**20:.0f} MiB for state and "
        f"examples, {memory['temporary'] / 2**20:.0f} MiB besides; compiled in {record['compile_seconds']:.0f} s"
    ) + "".join(
        f"\n  {found['count']} {kind} of {found['bytes'] / 2**20:.2f} MiB" for kind, found in collectives.items()
    )


def markdown_of_programs(records: Sequence[tuple[str, Record]]) -> Iterator[str]:
    """The same as rows of a table."""
    yield "| phase | images | devices | GFLOP per step | state and examples (MiB) | besides (MiB) | collectives |"
    yield "|" + "---|" * 7
    for point, record in records:
        found = [f"{c['count']} {kind}, {c['bytes'] / 2**20:.1f} MiB" for kind, c in record["collectives"].items()]
        cells = [f"{record['phase']}{point and ', '}{point}", record["batch_size"], record["devices"]]
        cells += [f"{record['flops'] / 1e9:.1f}", f"{record['memory']['arguments'] / 2**20:.0f}"]
        cells += [f"{record['memory']['temporary'] / 2**20:.0f}", "; ".join(found) or "none"]
        yield f"| {' | '.join(map(str, cells))} |"


def markdown(records: Sequence[tuple[str, Record]]) -> Iterator[str]:
    """The same as rows of a table."""
    peers = [name for name in records[0][1]["sides"] if name != _OURS]
    heads = ["phase", "ms per step", "images/s", "GFLOP per step", "of product", "compile, cached (s)", "memory (MiB)"]
    heads += [head for name in peers for head in (f"{name}, ms", f"{name} / ours")]
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for point, record in records:
        ours = record["sides"][_OURS]
        cells = [f"{record['phase']}{point and ', '}{point}", f"{1e3 * ours['median']:.1f}"]
        cells += [f"{ours['images_per_second']:.1f}", f"{record['flops'] / 1e9:.2f}", f"{record['utilisation']:.0%}"]
        cells.append("{cold:.1f}, {cached:.1f}".format(**record["compile_seconds"]))
        cells.append(f"{ours['peak_bytes'] / 2**20:.0f}")
        for name in peers:
            side = record["sides"][name]
            spread = f"{min(side['ratios']):.2f} to {max(side['ratios']):.2f}"
            cells += [f"{1e3 * side['median']:.1f}", f"{side['ratio']:.2f} ({spread})"]
        yield f"| {' | '.join(cells)} |"


# --- the command line ------------------------------------------------------------------------------------------------


def changed(config: Any, settings: Mapping[str, str]) -> Any:
    """A config with some fields read from text, each as the type that it had."""
    changes = {}
    for name, text in settings.items():
        if name not in {field.name for field in dataclasses.fields(config)}:
            raise ValueError(f"the model's config has no field {name!r}.")
        old = getattr(config, name)
        kind, several = (type(old[0]), True) if isinstance(old, tuple) else (type(old), False)
        try:
            if kind not in (int, float, str, bool) or (kind is bool and text not in ("true", "false")):
                raise ValueError
            values = tuple(text == "true" if kind is bool else kind(part) for part in text.split(","))
        except ValueError:
            raise ValueError(f"{name} is {text!r}; expected something like {old!r}.") from None
        changes[name] = values if several else values[0]
    return dataclasses.replace(config, **changes)


def points(sweep: str) -> list[tuple[str, dict[str, str]]]:
    """The values of a sweep: "batch_size=1,4" to [("batch_size=1", {"batch_size": "1"}), ...]; "" to one point."""
    if not sweep:
        return [("", {})]
    name, equals, values = sweep.partition("=")
    if not equals or not all(values.split(",")):
        raise ValueError(f"--sweep is {sweep!r}; expected FIELD=VALUE,VALUE,...")
    return [(f"{name}={value}", {name: value}) for value in values.split(",")]


def run(arguments: argparse.Namespace) -> None:
    """Measures all points and phases, and prints and writes what was found."""
    check_least(arguments, {"rounds": 1, "steps": 1, "steps_per_dispatch": 1})
    if arguments.against and arguments.compile_only:
        raise ValueError("--compile-only runs nothing, so there is nothing to compare; leave out --against.")
    if arguments.against and arguments.model == "style_alae":
        raise ValueError("--model=style_alae has no counterpart in PyTorch here; leave out --against.")
    theirs = {}
    if arguments.against:
        packages = _MULTIVAE if arguments.model in OF_FAMILY else _TORCH
        theirs = check_interpreter(arguments.torch_python, "--torch-python", "--against=torch", packages)
    if arguments.threads:
        if not hasattr(os, "sched_setaffinity"):
            raise ValueError("--threads needs Linux.")
        available = sorted(os.sched_getaffinity(0))
        if not 1 <= arguments.threads <= len(available):
            raise ValueError(f"--threads is {arguments.threads}; expected 1 to {len(available)}.")
        os.sched_setaffinity(0, available[: arguments.threads])  # the sides inherit it
    subject = SUBJECTS[arguments.model]
    presets = subject.presets()
    if arguments.preset not in presets:
        raise ValueError(f"--preset is {arguments.preset!r}; choose of {', '.join(presets)}.")
    settings = dict(pair.partition("=")[::2] for pair in arguments.set)
    if arguments.batch_size is not None:
        settings["batch_size"] = str(arguments.batch_size)
    settings["compute_dtype"] = arguments.dtype
    plan = []
    for label, values in points(arguments.sweep):
        asked = values.pop("devices", "1")
        devices = int(asked) if asked.isdecimal() else 0
        if not devices or (arguments.against and devices > 1):
            raise ValueError(f"devices={asked}: expected numbers of at least 1, and only 1 with --against.")
        config = changed(presets[arguments.preset], settings | values)
        names = arguments.phases.split(",") if arguments.phases else [p.name for p in subject.phases(config, 1)]
        plan += [(label, config, subject.phase(config, name).name, devices) for name in names]

    records = []
    for label, config, phase, devices in plan:
        records.append((label, measure(arguments, config, phase, devices)))
        print((describe_program if arguments.compile_only else describe)(records[-1][1], label), flush=True)
    if arguments.markdown:
        print("", *(markdown_of_programs if arguments.compile_only else markdown)(records), sep="\n")
    if arguments.output:
        points_of = [record | {"point": label} for label, record in records]
        write(arguments.output, {"torch": theirs.get("torch"), "peer": theirs, "records": points_of})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", choices=SUBJECTS, default="multimodal", help="what to train (default: %(default)s)")
    add("--preset", default="laptop", help="of the model's experiment (default: %(default)s)")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="another value in the model's config")
    add("--phases", default="", metavar="NAME,...", help="phases to train (default: all)")
    add("--batch-size", type=int, metavar="B", help="images per step (default: the preset's)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the networks (default: %(default)s)")
    add("--sweep", default="", metavar="FIELD=VALUE,...", help="measure for each value of a field, or of devices")
    add("--shard-state", action="store_true", help="split the state over the devices")
    add("--threads", type=int, default=0, metavar="N", help="processors that each side may use (default: all)")
    add("--steps", type=int, default=5, metavar="N", help="steps in a turn (default: %(default)s)")
    add("--steps-per-dispatch", type=int, default=1, metavar="N", help="steps of ours in one call (default: 1)")
    add("--compile-only", action="store_true", help="run nothing: what does the program need?")
    add("--against", choices=("torch",), help="compare with PyTorch")
    add(
        "--torch-python",
        default="",
        metavar="PATH",
        help="an interpreter that has PyTorch and NumPy, and of mvae, mmvae and mopoe MultiVae",
    )
    add("--variants", default="default,tuned", help="of the PyTorch side (default: %(default)s)")
    add_flags(parser, rounds=5)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    finish(run, _parser().parse_args(argv))


if __name__ == "__main__":
    main()
