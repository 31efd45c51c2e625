"""What the tools that measure in turns share: other programs' load, interpreters of others, flags, ends and files."""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Work = tuple[Callable[[], Record], Callable[[], float]]  # what a side does, and the processor seconds it has used


class Disagreement(RuntimeError):  # noqa: N818
    """Two sides do not compute the same."""


# --- turns -----------------------------------------------------------------------------------------------------------


def take_turns(
    arguments: argparse.Namespace, sides: Mapping[str, Work], before: Callable[[], Record] = dict
) -> list[Record]:
    """Rounds in which every side does its work once, at most twice as many as asked for until enough were quiet.

    Returns:
        Of each round: "sides", {name: what its work returned, with "others"}; "quiet"; and what `before` returned.
    """
    rounds: list[Record] = []
    while len(rounds) < 2 * arguments.rounds and sum(turn["quiet"] for turn in rounds) < arguments.rounds:
        _wait_for_quiet(arguments)
        turn: Record = {**before(), "sides": {}}
        for name, (work, cpu_seconds) in sides.items():
            answer, others = load_of_others(work, cpu_seconds)
            turn["sides"][name] = answer | {"others": others}
        loads = [answer["others"] or 0.0 for answer in turn["sides"].values()]
        turn["quiet"] = max(loads) <= _allowed(arguments)
        rounds.append(turn)
    return rounds


def used_sides(rounds: Sequence[Record]) -> list[Mapping[str, Record]]:
    """The sides of the quiet rounds, or of all if there was none."""
    return [turn["sides"] for turn in rounds if turn["quiet"]] or [turn["sides"] for turn in rounds]


def load_of_others(work: Callable[[], Any], cpu_seconds: Callable[[], float]) -> tuple[Any, float | None]:
    """Does some work of a side; returns its result, and how many processors other programs kept busy meanwhile."""
    if not os.path.exists("/proc/stat"):
        return work(), None
    start, busy, own = time.perf_counter(), _busy_seconds(), cpu_seconds()
    result = work()
    others = (_busy_seconds() - busy) - (cpu_seconds() - own)
    return result, max(0.0, others / (time.perf_counter() - start))


def _busy_seconds() -> float:
    with open("/proc/stat") as file:
        user, nice, system, _, _, *interrupts = map(int, file.readline().split()[1:8])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def _wait_for_quiet(arguments: argparse.Namespace) -> None:
    """Waits while other programs keep the processors busy, but not for ever."""
    until = time.perf_counter() + arguments.patience
    while os.path.exists("/proc/stat") and time.perf_counter() < until:
        busy = _busy_seconds()
        time.sleep(0.5)
        if _busy_seconds() - busy <= 0.5 * _allowed(arguments):
            break


def _allowed(arguments: argparse.Namespace) -> float:
    """Processors that other programs may use."""
    return arguments.most_load * (os.cpu_count() or 1)


def resident_bytes(usage: resource.struct_rusage) -> int:
    """Most memory that a process held, whose unit depends on the system."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# --- interpreters, flags and files -----------------------------------------------------------------------------------


def check_interpreter(python: str, flag: str, asked: str, packages: Mapping[str, str]) -> dict[str, str]:
    """The versions of packages in another interpreter's environment.

    Args:
        python: the interpreter.
        flag: that names it.
        asked: what needs it.
        packages: name -> version that is expected, "" for any.

    Raises:
        ValueError: there is no such interpreter, or a package is missing or of another version.
    """
    wanted = [f"{name}=={version}" if version else name for name, version in packages.items()]
    recipe = f"make an environment by 'python -m venv DIR && DIR/bin/pip install {' '.join(wanted)}'"
    if not python:
        raise ValueError(f"{asked} needs {flag}=DIR/bin/python; {recipe}.")
    program = (
        "import sys, json; from importlib import metadata; versions = {d.name.lower(): d.version for d in "
        "metadata.distributions()}; print(json.dumps({name: versions.get(name, '') for name in sys.argv[1:]}))"
    )
    try:
        done = subprocess.run([python, "-c", program, *packages], capture_output=True, text=True)
        versions: dict[str, str] = json.loads(done.stdout)
    except (OSError, ValueError) as error:
        raise ValueError(f"{flag} is {python}, which does not run: {error}; {recipe}.") from error
    for name, version in packages.items():
        if not versions[name] or version not in ("", versions[name].partition("+")[0]):
            has = f"has {name} {versions[name]}" if versions[name] else f"has no {name}"
            raise ValueError(f"{flag} is {python}, which {has}; expected {' and '.join(wanted)}: {recipe}.")
    return versions


def output_path(text: str) -> Path:
    """The path of a file to write, in a folder that exists."""
    path = Path(text).expanduser()
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def add_flags(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Adds the flags of turns and of what is written."""
    add = parser.add_argument
    add("--rounds", type=int, default=rounds, metavar="N", help="turns of each side (default: %(default)s)")
    add("--most-load", type=float, default=0.1, metavar="SHARE", help="of the processors (default: %(default)s)")
    add("--patience", type=float, default=10, metavar="SECONDS", help="a round waits so long for quiet (default: 10)")
    add("-o", "--output", type=output_path, metavar="FILE.json", help="write everything that was measured")
    add("--markdown", action="store_true", help="also print a table for RESULTS.md")


def check_least(arguments: argparse.Namespace, least: Mapping[str, int]) -> None:
    """Refuses numbers below those given."""
    for name, bound in least.items():
        if getattr(arguments, name) < bound:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} is {getattr(arguments, name)}; expected at least {bound}.")


def write(path: Path, record: Record) -> None:
    """Writes what was measured, with command, commit, cores and Python."""
    circumstances = {
        "command": ["python", *sys.argv],
        "commit": _commit(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": sys.version.split()[0],
    }
    path.write_text(json.dumps(circumstances | record, indent=1))


def _commit() -> str | None:
    """The commit of this checkout, with a "+" if files differ from it."""
    try:
        git = ["git", "-C", str(Path(__file__).parent)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        clean = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True).returncode == 0
    except (OSError, subprocess.CalledProcessError):
        return None
    return head if clean else f"{head}+"


def finish(run: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> None:
    """Runs a tool; mistakes end with one line and status 2, sides that differ with one line and status 1."""
    logging.getLogger("jax").setLevel(logging.WARNING)  # it lists the accelerators that are not there
    try:
        run(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Disagreement as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
