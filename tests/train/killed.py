"""Runs of the toy in processes that die, and what has to be there when the same command has gone on to the end."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import xla_flags
from event_files import shown

from mvae_jax.train.logging import read_metrics

SCRIPT = Path(__file__).with_name("killed_run.py")
ROOT = SCRIPT.parents[2]


def environment():
    paths = os.pathsep.join(str(ROOT / name) for name in ("", "tests"))
    return {
        **os.environ,
        "PYTHONPATH": paths,
        "XLA_FLAGS": xla_flags.QUICK,
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


@contextlib.contextmanager
def server(folder):
    """A function (workdir, **job) -> (status, words printed): trains in a process of its own, see `killed_run`.

    All processes run in the folder, and workdirs are relative to its subfolder `runs`.
    """
    with subprocess.Popen(
        [sys.executable, SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment(),
    ) as process:

        def train(workdir, **job):
            process.stdin.write(json.dumps({"workdir": f"runs/{workdir}", **job}) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield train
        process.stdin.close()


class Undisturbed(NamedTuple):
    """A run that nobody disturbs."""

    digest: str  # of its last state
    records: Any
    seconds: float


def undisturbed(train, folder):
    train("warm")
    began = time.monotonic()
    status, (digest,) = train("undisturbed")
    assert status == 0
    return Undisturbed(digest, records(folder, "undisturbed"), time.monotonic() - began)


def records(folder, workdir):
    """Validation records, and where the training records are: an interval's mean lacks steps before a resume.

    From metrics.jsonl and as TensorBoard shows them, whose events wait in memory until they are forced to disk.
    """
    lines = read_metrics(folder / "runs" / workdir / "metrics.jsonl")
    steps = [(line["step"], line["phase"]) for line in lines if line["split"] == "train"]
    events = shown(folder / "runs" / workdir)
    validation = {at: value for at, value in events.items() if at[1].startswith("validation/")}
    trained = sorted(at for at in events if at[1].startswith("train/"))
    return [line for line in lines if line["split"] == "validation"], steps, validation, trained


def check_end(folder, workdir, whole, status, words):
    """The run has ended with the bits and records of one that nobody disturbed."""
    assert (status, words) == (0, [whole.digest])
    assert records(folder, workdir) == whole.records
    assert (folder / "runs" / workdir / "finished.json").exists()
