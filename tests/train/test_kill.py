"""Whenever a run is killed, the same command goes on, and ends with the bits of a run that nobody disturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from event_files import shown

from mvae_jax.train.logging import read_metrics

SCRIPT = Path(__file__).with_name("killed_run.py")
ROOT = SCRIPT.parents[2]
CHECKPOINT, LOOP, MANIFESTS, WORKDIR = (
    f"mvae_jax.train.{name}" for name in ("checkpoint", "loop", "manifests", "workdir")
)
WRITER = "mvae_jax.train.logging:MetricWriter"

# Where a run dies, at one start after the other; the last start is not disturbed.
POINTS = {
    "before the first step": [
        f"{WORKDIR}:Workdir.configure before 1",
        "pathlib:Path.replace before 1",  # while the settings are written
        f"{LOOP}:initial_state before 1",
        f"{LOOP}:initial_state after 1",
        f"{LOOP}:compile_step after 1",
    ],
    "while metrics are written": [
        f"{WRITER}.write_scalars amid 5",
        f"{WRITER}.flush before 2",
        f"{WRITER}.flush after 2",
        f"{LOOP}:_Run._validate before 2",
        f"{LOOP}:_Run._validate after 2",
    ],
    "during a save": [
        "orbax.checkpoint.experimental.v1:save_async after 2",  # while the arrays are written
        f"{MANIFESTS}:sums before 2",  # between the arrays and the manifest
        f"{MANIFESTS}:write before 2",
        "pathlib:Path.replace before 4",  # while the second manifest is written, after the settings and old metrics
        f"{MANIFESTS}:write after 2",
        f"{CHECKPOINT}:_rename before 1",  # between the manifest and the checkpoint's name
        f"{CHECKPOINT}:_rename after 1",
        f"{CHECKPOINT}:_rename after 2",  # while an old checkpoint is deleted
    ],
    "at the border of the phases": [
        f"{MANIFESTS}:write before 4",
        "mvae_jax.train.state:start_phase before 2",
        f"{LOOP}:compile_step after 2",
        f"{LOOP}:compile_step before 1",
    ],
    "at the end": [f"{WORKDIR}:Workdir.finish before 1"] * 2 + [f"{WORKDIR}:Workdir.finish after 1"],
    "during a resume": [
        f"{MANIFESTS}:sums before 3",
        f"{MANIFESTS}:verify before 1",
        f"{CHECKPOINT}:_load after 1",
        "pathlib:Path.replace before 2",  # while the metrics are cut back to the checkpoint
        f"{WRITER}.__init__ after 1",
        f"{WRITER}.write_scalars before 1",
        f"{MANIFESTS}:write before 1",
    ],
}


@pytest.fixture(scope="module")
def environment():
    paths = os.pathsep.join(str(ROOT / name) for name in ("", "tests"))
    return {
        **os.environ,
        "PYTHONPATH": paths,
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all processes run; their workdirs are relative to it."""
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def train(environment, folder):
    """A function (workdir, points=[], delay=None) -> (status, words printed): trains in a process of its own."""
    with subprocess.Popen(
        [sys.executable, SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment
    ) as server:

        def train(workdir, **job):
            server.stdin.write(json.dumps({"workdir": f"runs/{workdir}", **job}) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())

        yield train
        server.stdin.close()


@pytest.fixture(scope="module")
def undisturbed(train, folder):
    """Digest, records and duration of a run that nobody disturbs."""
    train("warm")
    began = time.monotonic()
    status, (digest,) = train("undisturbed")
    assert status == 0
    return digest, records(folder, "undisturbed"), time.monotonic() - began


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


def check_end(folder, workdir, undisturbed, status, words):
    assert (status, words) == (0, [undisturbed[0]])
    assert records(folder, workdir) == undisturbed[1]
    assert (folder / "runs" / workdir / "finished.json").exists()


QUICK = ("during a save", "during a resume")  # where most can go wrong; `make test-all` has every point


@pytest.mark.parametrize(
    "points",
    [pytest.param(points, id=at, marks=() if at in QUICK else pytest.mark.slow) for at, points in POINTS.items()],
)
def test_killed_at_points(train, folder, undisturbed, points, request):
    workdir = request.node.callspec.id.replace(" ", "_")
    for point in points:
        status, words = train(workdir, points=[point])
        assert status == -signal.SIGKILL, f"{point} was not reached"
    if point.endswith("Workdir.finish after 1"):
        assert train(workdir) == [
            0,
            f"{folder}/runs/{workdir} is finished; its report is {folder}/runs/{workdir}/report.html.".split(),
        ]
    else:
        status, words = train(workdir)
    check_end(folder, workdir, undisturbed, 0, words)


@pytest.mark.slow
def test_killed_at_random_moments(train, folder, undisturbed):
    rng, kills, runs = np.random.default_rng(0), 0, 0
    while kills < 15:
        workdir, status = f"random{runs}", -signal.SIGKILL
        for delay in rng.uniform(0.0, undisturbed[2], 5):
            status, words = train(workdir, delay=delay)
            if status == 0:
                break
            assert status == -signal.SIGKILL
            kills += 1
        if status != 0:
            status, words = train(workdir)
        check_end(folder, workdir, undisturbed, status, words)
        runs += 1


def test_signals_end_a_run_with_its_state_saved_and_a_second_run_is_refused(train, folder, environment, undisturbed):
    def start(step):
        command = [sys.executable, SCRIPT, "runs/signals", str(step)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment
        )

    for number, step, code in ((signal.SIGTERM, 3, 143), (signal.SIGINT, 8, 130)):
        with start(step) as run:
            assert run.stdout.readline() == "waiting\n"
            if number == signal.SIGTERM:
                with start(0) as second:
                    out, err = second.communicate()
                assert (second.returncode, out) == (2, "")
                assert f"runs/signals is in use by pid {run.pid} on host" in err
                assert "Traceback" not in err
            run.send_signal(number)
            out, err = run.communicate()
        assert (run.returncode, out) == (code, "")
        assert f"saved at step {step + 1}" in err or f"{number.name}: stopping" in err
        assert "Traceback" not in err
        assert (folder / "runs/signals/checkpoints" / ("first" if step < 6 else "second") / str(step + 1)).is_dir()
    check_end(folder, "signals", undisturbed, *train("signals"))
