"""Whenever a run is killed, the same command goes on, and ends with the bits of a run that nobody disturbed.

Here at named points; at random moments in `tests/promises`.
"""

import signal
import subprocess
import sys

import killed
import pytest

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
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def train(folder):
    with killed.server(folder) as train:
        yield train


@pytest.fixture(scope="module")
def undisturbed(train, folder):
    return killed.undisturbed(train, folder)


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
    killed.check_end(folder, workdir, undisturbed, 0, words)


def test_signals_end_a_run_with_its_state_saved_and_a_second_run_is_refused(train, folder, undisturbed):
    def start(step):
        command = [sys.executable, killed.SCRIPT, "runs/signals", str(step)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=folder, env=killed.environment(), **pipes)

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
    killed.check_end(folder, "signals", undisturbed, *train("signals"))
