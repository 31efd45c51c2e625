"""From a command to a trained model on the disk: ours, pythae and Flax as their users write it, in turns:

    python tools/whole_runs.py --pythae-python pythae-env/bin/python
    python tools/whole_runs.py --pythae-python pythae-env/bin/python --preset paper --markdown -o paper.json
    python tools/whole_runs.py --sides ours,flax

Trains the VAE of experiments/celeba_vae.py. In each round every side is a process of its own, from an empty folder:

  ours, cold     `runs.train` (`_our_run.py`), with no compiled program at hand
  ours, cached   the same again, which finds the programs of the run before
  pythae         its VAE and `TrainingPipeline` (`_pythae_run.py`), given the same networks in PyTorch
  flax           nn.Conv, nn.ConvTranspose, nn.BatchNorm, optax and a jitted step (`_plain_flax.py`); nothing cached

All take as many steps on images from one file, by Adam at one rate, and validate after each epoch on a tenth of the
images. All minimise half of the squared errors plus the divergence, summed over an image: pythae's VAE has no other
loss, and ours has it with an observation scale of 1. Kernels begin with draws from one distribution.

What differs: which images are validated on, orders and draws. Ours and pythae keep the parameters that validate best,
ours on the disk, where it also saves the optimiser, logs and the sums that tell damage; Flax saves once, with the
optimiser. Ours keeps freed memory and compiled programs, as its README says; others start as they come, without flags
from the environment.

Before anything is timed, each side counts its parameters, without running statistics: they must be as many. In the end
the training losses of the last epoch must lie within a factor of two.

What the columns say, medians over rounds in which other programs did little (--most-load, --patience):
  whole run      seconds from the start of the process to its end
  images/s       trained after the first epoch, by the time since its end: with validation, without compilation
  memory         most that the process held
  loss           of training, in the last epoch

Mistakes end with one line and status 2; sides that do not compute the same, with one line and status 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _benchmark_worker import SUBJECTS
from _measuring import (
    Disagreement,
    Record,
    add_flags,
    check_interpreter,
    check_least,
    finish,
    resident_bytes,
    take_turns,
    used_sides,
    write,
)

_PYTHAE = {"torch": "2.13.0", "pythae": "0.1.2"}
_SCRIPTS = {"ours": "_our_run.py", "pythae": "_pythae_run.py", "flax": "_plain_flax.py"}
_COLD, _CACHED = "ours, cold", "ours, cached"
# They would give the cold side programs, the others our cache, or all of them flags of XLA.
_LEFT_OUT = ("JAX_COMPILATION_CACHE", "JAX_ENABLE_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE", "XLA_FLAGS")


def settings_of(config: Any, images: int, folder: Path) -> Record:
    """What the sides are told; writes the images, coloured squares in noise, to the folder.

    Args:
        config: the model's.
        images: to train on; as many more as make whole batches are drawn, so that all sides take the same steps.
        folder: of the images.
    """
    train = -(-images // config.batch_size) * config.batch_size
    held_out = max(1, train // 9)  # a tenth of all, which `runs.train` sets aside
    size, generator = config.image_size, np.random.default_rng(0)
    squares = generator.integers(0, 224, (train + held_out, 4, 4, config.channels), np.uint8)
    squares = squares.repeat(size // 4, 1).repeat(size // 4, 2)
    np.savez(folder / "images.npz", image=squares + generator.integers(0, 32, squares.shape, np.uint8))
    return {"config": dataclasses.asdict(config), "images": str(folder / "images.npz"), "train": train}


def run_side(python: str, script: str, settings: Mapping[str, Any]) -> Record:
    """Runs a side's script in an empty folder, from the start of its process to the end.

    Returns:
        What it answers, with seconds and peak_bytes; the latter are at least what this process holds.

    Raises:
        RuntimeError: it failed; the message ends with what it printed last.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_LEFT_OUT)}
    with tempfile.TemporaryDirectory(prefix="whole-run-") as folder, open(f"{folder}/printed", "wb") as printed:
        command = [python, str(Path(__file__).with_name(script)), json.dumps({**settings, "folder": folder})]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)  # lest it is waited for again
        if process.returncode:
            last = Path(printed.name).read_text(errors="replace").strip()[-1000:]
            raise RuntimeError(f"{script} ended with status {process.returncode}:\n{last}")
        answer: Record = json.loads(Path(folder, "answer.json").read_text())
    return answer | {"seconds": seconds, "peak_bytes": resident_bytes(usage)}


def check_counts(counts: Mapping[str, int]) -> int:
    """The number of parameters, which must be that of every side."""
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise Disagreement(f"the sides have {listed} parameters: not the same model.")
    return next(iter(counts.values()))


def check_losses(losses: Mapping[str, float]) -> None:
    """Refuses training losses that are further apart than chance explains."""
    values = losses.values()
    if not all(one <= 2 * other for one in values for other in values):  # nor is any so that is not a number
        listed = ", ".join(f"{name} {loss:.4g}" for name, loss in losses.items())
        raise Disagreement(f"the training losses are {listed}; expected all within a factor of two.")


def measure(arguments: argparse.Namespace, config: Any, pythons: Mapping[str, str]) -> Record:
    """Counts parameters, then takes turns; `pythons` has the interpreter of each side."""
    with tempfile.TemporaryDirectory(prefix="whole-runs-") as folder:
        programs = Path(folder, "programs")
        settings = settings_of(config, arguments.images, Path(folder)) | {"programs": str(programs)}

        def run(side: str, count_only: bool = False) -> Record:
            answer = run_side(pythons[side], _SCRIPTS[side], settings | {"count_only": count_only})
            if not count_only:  # what is known should others take long, or fail
                print(f"{side}: {answer['seconds']:.1f} s, {answer['peak_bytes'] / 2**20:.0f} MiB", flush=True)
            return answer

        def cold() -> Record:
            shutil.rmtree(programs, ignore_errors=True)
            return run("ours")

        # This also reads the files of the libraries, for which the first side would have to wait.
        parameters = check_counts({side: run(side, count_only=True)["parameters"] for side in pythons})
        work: dict[str, Callable[[], Record]] = {side: functools.partial(run, side) for side in pythons}
        if "ours" in work:
            work = {_COLD: cold, _CACHED: work.pop("ours"), **work}
        rounds = take_turns(arguments, {side: (does, _cpu_seconds_of_children) for side, does in work.items()})
    record = summarise(rounds, settings["train"])
    check_losses({name: side["loss"] for name, side in record["sides"].items()})
    setup = {"config": settings["config"], "images": settings["train"], "parameters": parameters}
    return setup | record | {"rounds": rounds}


def _cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def summarise(rounds: Sequence[Record], images: int) -> Record:
    """Medians of each side, and ratios of its whole run to ours within rounds."""
    used = used_sides(rounds)
    result: Record = {"sides": {}, "quiet_rounds": sum(turn["quiet"] for turn in rounds), "used_rounds": len(used)}
    for name in used[0]:
        runs = [turn[name] for turn in used]
        seconds = [run["seconds"] for run in runs]
        rates = [images * (len(ends) - 1) / (ends[-1] - ends[0]) for ends in (run["epoch_ends"] for run in runs)]
        result["sides"][name] = {
            "median": statistics.median(seconds),
            "least": min(seconds),
            "most": max(seconds),
            "images_per_second": statistics.median(rates),
            "peak_bytes": max(run["peak_bytes"] for run in runs),
            "loss": statistics.median(run["losses"][-1] for run in runs),
            "ratios": {
                ours: statistics.median(turn[name]["seconds"] / turn[ours]["seconds"] for turn in used)
                for ours in (_COLD, _CACHED)
                if ours in used[0]
            },
        }
    return result


def markdown(record: Record) -> Iterator[str]:
    """Rows of a table."""
    heads = ["side", "whole run (s)", "images/s", "memory (MiB)", "loss"]
    heads += [f"of {ours}" for ours in next(iter(record["sides"].values()))["ratios"]]
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for name, side in record["sides"].items():
        cells = [name, f"{side['median']:.1f} ({side['least']:.1f} to {side['most']:.1f})"]
        cells += [f"{side['images_per_second']:.1f}", f"{side['peak_bytes'] / 2**20:.0f}", f"{side['loss']:.1f}"]
        yield f"| {' | '.join([*cells, *(f'{ratio:.2f}' for ratio in side['ratios'].values())])} |"


def describe(record: Record) -> Iterator[str]:
    """A few lines for reading."""
    config, quiet, used = record["config"], record["quiet_rounds"], record["used_rounds"]
    yield (
        f"vae, {record['parameters']:,} parameters, {config['epochs']} epochs of {record['images']} images of "
        f"{config['image_size']} px in batches of {config['batch_size']}; {used} rounds, {quiet} of them quiet"
    )
    for name, side in record["sides"].items():
        line = (
            f"  {name:12} {side['median']:7.1f} s ({side['least']:.1f} to {side['most']:.1f}) "
            f"{side['images_per_second']:8.1f} images/s {side['peak_bytes'] / 2**20:6.0f} MiB, loss {side['loss']:.1f}"
        )
        ratios = [f"{ratio:.2f} of {ours}" for ours, ratio in side["ratios"].items() if ours != name]
        yield line + (f"; takes {', '.join(ratios)}" if ratios else "")


# --- the command line ------------------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> None:
    """Measures, prints and writes."""
    check_least(arguments, {"rounds": 1, "images": 1, "epochs": 2})
    names = arguments.sides.split(",")
    if unknown := [name for name in names if name not in _SCRIPTS]:
        raise ValueError(f"--sides has {unknown[0]!r}; choose of {', '.join(_SCRIPTS)}.")
    pythons, theirs = dict.fromkeys(names, sys.executable), {}
    if "pythae" in pythons:
        pythons["pythae"] = arguments.pythae_python
        theirs = check_interpreter(arguments.pythae_python, "--pythae-python", "the side pythae", _PYTHAE)
    preset = SUBJECTS["vae"].presets()[arguments.preset]
    # The loss of pythae's VAE, which has no other: half of the squared errors.
    config = dataclasses.replace(preset, epochs=arguments.epochs, observation_scale=1.0)
    record = measure(arguments, config, pythons)
    print(*describe(record), sep="\n")
    if arguments.markdown:
        print("", *markdown(record), sep="\n")
    if arguments.output:
        write(arguments.output, {"preset": arguments.preset, "theirs": theirs, **record})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    # The third one trains without batch statistics, which the networks in PyTorch have not.
    add("--preset", choices=("laptop", "paper"), default="laptop", help="widths and batch (default: %(default)s)")
    add("--images", type=int, default=1000, metavar="N", help="to train on, filled up to whole batches (default: 1000)")
    add("--epochs", type=int, default=2, metavar="N", help="at least 2, the first of which compiles (default: 2)")
    add("--sides", default=",".join(_SCRIPTS), metavar="NAME,...", help="who trains (default: %(default)s)")
    add("--pythae-python", default="", metavar="PATH", help="an interpreter that has PyTorch and pythae")
    add_flags(parser, rounds=3)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the comparison."""
    finish(run, _parser().parse_args(argv))


if __name__ == "__main__":
    main()
