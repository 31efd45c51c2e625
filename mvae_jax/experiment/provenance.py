"""Where, when and from what a run was computed: devices, code, versions and command of every start, seconds, memory."""

from __future__ import annotations

import datetime
import functools
import importlib.util
import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from mvae_jax import _json
from mvae_jax.files import readable
from mvae_jax.train.logging import format_duration
from mvae_jax.train.workdir import PROVENANCE
from mvae_jax.viz import report

_LONGEST_COMMAND = 4096  # characters that are kept
_GIT_SECONDS = 10
_COMMIT = 12  # characters by which a commit is named for people
_CLOCK = "clock"  # split of the records in which a run notes the seconds of a phase, see `train.loop`


# --- where ----------------------------------------------------------------------------------------------------------


def devices() -> dict[str, Any]:
    """The devices of the run, of all processes together, and the CPU cores that this process may use."""
    found = jax.devices()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "platform": found[0].platform,
        "kind": found[0].device_kind,
        "count": len(found),
        "cpu_cores": cores,
        "processes": jax.process_count(),
    }


def describe(found: Mapping[str, Any]) -> str:
    """Devices in words: "2 CPU cores", "8 x NVIDIA H200 in 2 processes".

    Args:
        found: what `devices` returned.
    """
    if found["platform"] != "cpu":
        text = f"{found['count']} x {found['kind']}"
    else:
        text = f"{found['cpu_cores']} CPU core{'s' * (found['cpu_cores'] != 1)}"
        if found["count"] > found["processes"]:  # by --xla_force_host_platform_device_count
            text = f"{found['count']} devices on {text}"
    return text if found["processes"] == 1 else f"{text} in {found['processes']} processes"


def unused_gpu(root: Path = Path("/")) -> str:
    """Warning that this machine has an NVIDIA device and JAX computes on the CPU; "" where all is as it should be.

    It is, too, where the user has asked for the CPU (JAX_PLATFORMS).

    Args:
        root: of the file system in which devices are files.
    """
    there = [*sorted(root.glob("dev/nvidia[0-9]*")), *sorted(root.glob("proc/driver/nvidia/gpus/*"))]
    if not there or jax.default_backend() != "cpu" or jax.config.values["jax_platforms"]:
        return ""
    plugins = [name for name in ("jax_cuda12_plugin", "jax_cuda13_plugin") if importlib.util.find_spec(name)]
    remedy = (
        f"{plugins[0]} is installed but does not start: `python -c 'import jax; jax.devices(\"cuda\")'` says why"
        if plugins
        else "install JAX's plugin for it, pip install -e '.[cuda]' or make train EXTRAS=cuda"
    )
    return (
        f"This machine has an NVIDIA device ({there[0]}), but JAX computes on the CPU: {remedy}. "
        "JAX_PLATFORMS=cpu says that the CPU is meant."
    )


# --- from what ------------------------------------------------------------------------------------------------------


@functools.cache
def commit() -> dict[str, Any]:
    """Commit of this code, and whether tracked files differ from it; {} where the code is in no checkout of its own."""
    folder = Path(__file__).resolve().parents[2]
    try:
        # Another project's checkout may surround the packages that are installed in it.
        top, head = _git(folder, "rev-parse", "--show-toplevel", "HEAD").splitlines()
        if Path(top).resolve() != folder:
            return {}
        return {"commit": head, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, ValueError, subprocess.SubprocessError):  # no git, no checkout, or one of another user
        return {}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_SECONDS).stdout.strip()


def start() -> dict[str, Any]:
    """This start of a run: when, by which command and code, on which devices."""
    return {
        "started": now(),
        "command": shlex.join(sys.orig_argv)[:_LONGEST_COMMAND],
        **commit(),
        "devices": devices(),
        "versions": report.versions(),
    }


def now() -> str:
    """The time of day, with its zone."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def with_start(settings: Mapping[str, Any], folder: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """Content of config.json with this start of the run beside the earlier ones, and with the origin of the data.

    Args:
        settings: the content without.
        folder: of the run, which need not exist.
        data: origin of the images, as `Dataset.provenance` says it.
    """
    plain = json.loads(json.dumps(data, default=str))
    return {**settings, PROVENANCE: {"data": plain, "starts": [*starts(folder), start()]}}


def starts(folder: Path) -> list[dict[str, Any]]:
    """The starts that config.json of a run says, the first one first; none where there is no such file yet."""
    try:
        found = _json.load(folder / "config.json")[PROVENANCE]["starts"]
    except (OSError, ValueError, KeyError, TypeError):  # whoever reads the settings says what is wrong with the file
        return []
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def text(found: Mapping[str, Any]) -> str:
    """A start in words, a line each: devices, code and versions.

    Args:
        found: what `start` returned.
    """
    changed = ", with changes that are not committed" if found.get("dirty") else ""
    lines = {
        "devices": describe(found["devices"]),
        "code": f"commit {found['commit'][:_COMMIT]}{changed}" if "commit" in found else "of no checkout",
        "versions": ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
    }
    return "\n".join(f"{name}: {line}" for name, line in lines.items())


def images(settings: Mapping[str, Any]) -> str:
    """The images that a run was trained on, in words such as "rendered faces"; "" where nothing says it.

    Args:
        settings: content of its config.json.
    """
    data = settings.get(PROVENANCE, {}).get("data", {})
    kind = settings["config"].get("data", {}).get("kind", "")
    return str(data.get("data_set") or data.get("source") or kind)


# --- how long -------------------------------------------------------------------------------------------------------


def summary(
    folder: Path, records: Mapping[str, Sequence[Mapping[str, Any]]], others: Mapping[str, float]
) -> dict[str, Any]:
    """All starts of a run, the seconds of its parts, and its memory, so far.

    Args:
        folder: of the run.
        records: folder of each model -> lines of its metrics.jsonl.
        others: seconds of this start by what they were spent on besides training.
    """
    seconds = {name: round(value, 3) for name, value in (phase_seconds(records) | dict(others)).items()}
    return {"starts": starts(folder), "ended": now(), "seconds": seconds, "peak_memory_bytes": peak_memory()}


def table(found: Mapping[str, Any], title_of: Callable[[str], str] = str) -> dict[str, str]:
    """Where, when and from what a run was computed, for people: name -> words.

    Args:
        found: what `summary` returned; with "measured", where measuring was a start of its own.
        title_of: folder of a model -> its name for people.
    """
    if not found.get("starts"):
        return {}
    first, last = found["starts"][0], found["starts"][-1]
    measured = found.get("measured", last)

    def named(name: str) -> str:
        folder, comma, phase = name.partition(", ")
        return f"{title_of(folder)}, {phase}" if comma else name

    rows = {
        "computed on": describe(last["devices"]),
        "measured on": describe(measured["devices"]),
        "started": _moment(first["started"])
        + (f", in {len(found['starts'])} starts" if len(found["starts"]) > 1 else ""),
        "ended": _moment(found["ended"]),
        **{f"time, {named(name)}": format_duration(seconds) for name, seconds in found["seconds"].items()},
        **{f"peak memory, {name}": readable(count) for name, count in found["peak_memory_bytes"].items()},
        "code": text(last).splitlines()[1].removeprefix("code: "),
    }
    if rows["measured on"] == rows["computed on"]:
        del rows["measured on"]
    return rows


def _moment(text: str) -> str:
    """A moment of ISO 8601 for people."""
    return text.replace("T", " ").replace("+00:00", " UTC")


def phase_seconds(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Seconds of training by phase, "FOLDER, PHASE" where there are several models; of all starts of the run.

    What a killed process has done after its last checkpoint does not count: it was done again.

    Args:
        records: folder -> lines of metrics.jsonl.
    """
    seconds: dict[str, float] = {}
    for folder, lines in records.items():
        for line in lines:
            if line.get("split") == _CLOCK:
                name = ", ".join(filter(None, (folder, str(line.get("phase")))))
                seconds[name] = seconds.get(name, 0.0) + line["seconds"]
    return seconds


def peak_memory() -> dict[str, int]:
    """Most bytes that this process has had in memory, and on one of its devices where those tell."""
    try:
        # Not of getrusage, where it may be that of the program which started this one.
        lines = Path("/proc/self/status").read_text().splitlines()
        host = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
    return {"host": host * 1024} | ({"device": max(peaks)} if any(peaks) else {})
