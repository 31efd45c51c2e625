"""What befalls a run from outside: environments, closed pipes, signals, full disks. Nothing is lost."""

import json
import re
import shutil
import signal
import subprocess
import sys

import pytest
from forked import ROOT, server
from snapshots import sums
from whole import check_whole


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("accidents")


@pytest.fixture(scope="module")
def run(folder):
    with server(folder) as run:
        yield run


def error(answer, status=2):
    """The message, which is the last line."""
    assert answer["status"] == status, answer
    assert "Traceback" not in answer["err"]
    assert answer["err"].count("error: ") == 1
    last = answer["err"].splitlines()[-1]
    assert last.startswith("error: ")
    return last


# --- environments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "job", "message"),
    [
        ([], {"jax": {"jax_disable_jit": True}}, "JAX_DISABLE_JIT is set, but steps are compiled .*: unset it"),
        ([], {"jax": {"jax_platforms": "cuda"}}, "JAX_PLATFORMS is 'cuda', but there is no such device; unset it"),
        (
            [],
            {"jax": {"jax_platforms": "tpu"}},
            "JAX_PLATFORMS is 'tpu', but Unable to initialize backend .*; unset it",
        ),
        (
            [],
            {"jax": {"jax_platforms": "moon"}},
            "JAX_PLATFORMS is 'moon', but .*not in the list of known .*; unset it",
        ),
        (["--distributed"], {}, "--distributed is given, but the environment does not tell .*srun"),
        (
            ["--distributed"],  # the shell of salloc: a job, but no process of it
            {"environment": {"SLURM_JOB_ID": "5", "SLURM_NTASKS": "2", "SLURM_NNODES": "1"}},
            "--distributed is given, but the environment does not tell .*srun",
        ),
        (["--coordinator=host0"], {}, "--coordinator is 'host0'; expected HOST:PORT"),
        (["--workdir=file"], {}, ".*/file is a file, expected a folder to write: choose another name"),
        (["--workdir=file/run"], {}, ".*/file/run cannot be written, for .*/file is no folder: choose another place"),
        (["--evaluate", "--workdir=file"], {}, "file/config.json does not exist"),
        (["--workdir=~nobody_at_all/run"], {}, "~nobody_at_all/run leads nowhere"),
        (["--workdir=loop/run"], {}, "loop/run leads nowhere"),
        (["--workdir=" + "a" * 300], {}, "File name too long"),
    ],
    ids=str,
)
def test_an_environment_that_cannot_be_is_refused_before_data_are_read(run, folder, flags, job, message):
    (folder / "file").write_text("mine")
    if not (folder / "loop").is_symlink():
        (folder / "loop").symlink_to("loop")
    before = sorted(path.name for path in folder.iterdir())
    answer = run("stopped", *flags, **job)
    assert re.search(message, error(answer))
    assert answer["err"].count("\n") == 1  # before the data are named in the log
    assert sorted(path.name for path in folder.iterdir()) == before
    assert (folder / "file").read_text() == "mine"


def test_flags_that_xla_does_not_know_are_named_before_data_are_read(run, folder):
    answer = run("stopped", "--workdir=unknown", environment={"XLA_FLAGS": "--xla_nonsense=1"})
    assert answer["status"] == 1  # XLA ends the process itself
    assert answer["err"].count("\n") == 1
    assert "Unknown flag in XLA_FLAGS: --xla_nonsense=1" in answer["err"]
    assert not (folder / "unknown").exists()


def test_rendered_faces_need_the_cpu(run):
    answer = run("mvae-jax", "data", "statistics", "rendered", jax={"jax_platforms": "moon"})
    assert "JAX_PLATFORMS is 'moon', and faces are drawn by the CPU; unset it, or add the CPU" in error(answer)


def test_a_model_is_not_loaded_without_a_device(run):
    answer = run("mvae-jax", "use", "caption", "nowhere", "a.jpg", jax={"jax_platforms": "cuda"})
    assert "JAX_PLATFORMS is 'cuda', but there is no such device" in error(answer)


def test_a_cache_that_cannot_be_written_is_done_without(run, folder):
    (folder / "no_folder").write_text("")
    answer = run("stopped", "--dry-run", "--compilation-cache=no_folder", jax={"jax_compilation_cache_dir": None})
    assert answer["status"] == 0
    assert f"Compiled programs cannot be kept in {folder}/no_folder (File exists)" in answer["err"]
    assert "are kept in" not in answer["err"]


def test_help_without_docstrings_says_so():
    command = [sys.executable, "-OO", ROOT / "experiments" / "celeba_vae.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)})
    assert "  --config.seed=42  [int]\n      (python -OO and PYTHONOPTIMIZE=2 leave out" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    "command", [["stopped", "--help"], ["mvae-jax", "--help"], ["mvae-jax", "use", "--help"]], ids=str
)
def test_a_reader_who_has_gone_ends_a_command_without_a_word(run, command):
    answer = run(*command, reader=False)
    assert (answer["status"], answer["err"]) == (141, "")


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(run, folder):
    """Scores of a run that nobody disturbs."""
    answer = run("stopped", "--workdir=undisturbed")
    assert answer["status"] == 0, answer["err"]
    return json.loads((folder / "undisturbed" / "scores.json").read_text())


def logs(workdir):
    return [(workdir / name / "metrics.jsonl").read_text() for name in ("narrow", "wide")]


def test_signals_end_figures_and_the_same_command_goes_on_with_them(run, folder, undisturbed):
    command, workdir = ("stopped", "--workdir=signals"), folder / "signals"
    first = run(*command, environment={"WAIT_IN": "xla"}, signals=[["a figure is drawn", signal.SIGTERM]])
    assert first["status"] == 143
    assert "SIGTERM: stopping; what is trained is saved, and the same command goes on." in first["err"]
    trained = logs(workdir)
    second = run(*command, environment={"WAIT_IN": "python"}, signals=[["a figure is drawn", signal.SIGINT]])
    assert second["status"] == 130
    assert "SIGINT: stopping; what is trained is saved" in second["err"]
    for answer in (first, second):
        assert "Traceback" not in answer["err"]
        assert not (workdir / "finished.json").exists()
    third = run(*command)
    assert third["status"] == 0
    assert "steps 0 to" not in second["err"] + third["err"]
    assert logs(workdir) == trained
    check_whole(workdir, undisturbed)


@pytest.mark.parametrize(("where", "number"), [("xla", signal.SIGTERM), ("python", signal.SIGINT)])
def test_signals_end_an_evaluation(run, folder, undisturbed, where, number):
    command = ("stopped", "--workdir=undisturbed", "--evaluate")
    answer = run(*command, environment={"WAIT_IN": where}, signals=[["a figure is drawn", number]])
    assert answer["status"] == 128 + number
    assert f"{number.name}: stopping" in answer["err"]
    assert "Traceback" not in answer["err"]
    assert not (folder / "undisturbed" / "evaluation").exists()


# --- full disks ------------------------------------------------------------------------------------------------------


def test_a_full_disk_ends_a_run_which_goes_on_when_there_is_room(run, undisturbed, small_disk):
    """From the first file on, amid checkpoints of either model, and amid figures and report."""
    messages = []
    for size in (4, 28, 100, 180):
        disk = small_disk(size)
        messages.append(error(run("stopped", f"--workdir={disk}/run"), status=1 if messages else 2))
    for message in messages:
        assert re.search(rf"{disk}/run/\S+ cannot be written: No space left on device \(.* are free\)\. Make", message)
    assert "Nothing was saved before." in messages[1]
    assert "What was trained is saved: it goes on with measures and figures." in messages[-1]
    small_disk(64 * 1024)
    assert run("stopped", f"--workdir={disk}/run")["status"] == 0
    check_whole(disk / "run", undisturbed)


# --- damage ----------------------------------------------------------------------------------------------------------


def stopped_run(workdir, undisturbed):
    """A copy of a trained run that is not finished."""
    shutil.copytree(workdir.with_name("undisturbed"), workdir)
    (workdir / "finished.json").unlink()
    return workdir


def test_a_run_without_an_intact_checkpoint_is_refused_before_anything_is_written(run, folder, undisturbed):
    workdir = stopped_run(folder / "all_damaged", undisturbed)
    newest = max((workdir / "wide/checkpoints/training").iterdir(), key=lambda path: int(path.name))
    for path in workdir.glob("wide/checkpoints/*/*/manifest.json"):
        path.unlink()
    before = sums(workdir)
    message = error(run("stopped", "--workdir=all_damaged"))
    assert f"{workdir}/wide/checkpoints has no checkpoint that is intact: restore one from a copy, or," in message
    assert message.endswith(f"Of the newest: {newest} has no manifest.json: restore it from a copy.")
    assert sums(workdir) == before
    assert f"{newest} has no manifest.json" in error(run("stopped", "--workdir=all_damaged", "--evaluate"))


def test_settings_that_were_changed_are_refused_before_anything_is_written(run, folder, undisturbed):
    for number, name in enumerate(("", "narrow")):
        workdir = stopped_run(folder / f"changed{number}", undisturbed)
        path = workdir / name / "config.json"
        path.write_text(path.read_text().replace('"batch_size": 100', '"batch_size": 500'))
        before = sums(workdir)
        assert f"{path} was changed since the run wrote it" in error(run("stopped", f"--workdir={workdir}"))
        assert f"{path} was changed" in error(run("stopped", f"--workdir={workdir}", "--evaluate"))
        assert sums(workdir) == before
