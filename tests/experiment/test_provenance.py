"""What a run says of itself: devices, code, command, versions, seconds and memory; and a GPU that is not used."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from command_lines import ROOT

from mvae_jax.experiment import provenance

CPU = {"platform": "cpu", "kind": "cpu", "count": 1, "cpu_cores": 2, "processes": 1}
H200 = {"platform": "gpu", "kind": "NVIDIA H200", "count": 1, "cpu_cores": 16, "processes": 1}


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        (CPU, "2 CPU cores"),
        (CPU | {"cpu_cores": 1}, "1 CPU core"),
        (CPU | {"count": 4}, "4 devices on 2 CPU cores"),
        (CPU | {"count": 2, "processes": 2}, "2 CPU cores in 2 processes"),
        (H200, "1 x NVIDIA H200"),
        (H200 | {"count": 8, "processes": 2}, "8 x NVIDIA H200 in 2 processes"),
    ],
)
def test_devices_in_words(devices, words):
    assert provenance.describe(devices) == words


def test_devices_are_those_of_jax():
    found = provenance.devices()
    assert (found["platform"], found["count"], found["processes"]) == ("cpu", jax.device_count(), 1)
    assert found["cpu_cores"] >= 1


@pytest.fixture
def machine(tmp_path):
    """A file system with an NVIDIA device."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").touch()
    asked = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", None)
    yield tmp_path
    jax.config.update("jax_platforms", asked)


def test_a_gpu_that_jax_does_not_use_is_a_warning_with_its_remedy(machine, tmp_path_factory):
    warning = provenance.unused_gpu(machine)
    assert f"has an NVIDIA device ({machine}/dev/nvidia0), but JAX computes on the CPU" in warning
    assert "make train EXTRAS=cuda" in warning
    assert provenance.unused_gpu(tmp_path_factory.mktemp("none")) == ""
    jax.config.update("jax_platforms", "cpu")  # the user's wish
    assert provenance.unused_gpu(machine) == ""


def test_a_plugin_that_does_not_start_is_told_from_one_that_is_not_there(machine, monkeypatch):
    (machine / "jax_cuda13_plugin.py").touch()
    monkeypatch.syspath_prepend(machine)
    warning = provenance.unused_gpu(machine)
    assert "jax_cuda13_plugin is installed but does not start" in warning
    assert "EXTRAS" not in warning


def test_make_installs_what_is_asked_for():
    def recipe(*arguments):
        command = ["make", "--dry-run", "--always-make", "train", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "--editable '.[test,cuda]'" in recipe("EXTRAS=cuda")
    assert "touch .venv/installed-cuda" in recipe("EXTRAS=cuda")
    assert "--editable '.[test]'" in recipe()


CODE = """
import importlib, sys
sys.path.insert(0, {folder!r})
from mvae_jax.experiment import provenance
print(provenance.commit())
"""


def test_the_commit_is_that_of_this_code_alone(tmp_path):
    """In a checkout of its own; in one of another project, in which the package lies, there is none."""

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(
            ["git", *identity, "-C", tmp_path, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def found(folder):
        code = CODE.format(folder=str(folder))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
        return done.stdout.strip()

    (tmp_path / "mvae_jax").symlink_to(ROOT / "mvae_jax")
    module = Path(provenance.__file__).relative_to(ROOT)
    copy = tmp_path / "other" / module
    copy.parent.mkdir(parents=True)
    subprocess.run(["cp", "-r", ROOT / "mvae_jax", tmp_path / "other"], check=True)
    (tmp_path / "mvae_jax").unlink()
    git("init", "--quiet")
    git("add", "other")
    git("commit", "--quiet", "-m", "first")
    assert found(tmp_path / "other") == "{}"
    (tmp_path / "other" / "mvae_jax").rename(tmp_path / "mvae_jax")
    git("add", "--all")
    git("commit", "--quiet", "-m", "second")
    head = git("rev-parse", "HEAD")
    assert found(tmp_path) == str({"commit": head, "dirty": False})
    with (tmp_path / module).open("a") as file:
        file.write("# changed\n")
    assert found(tmp_path) == str({"commit": head, "dirty": True})


def test_the_seconds_of_a_phase_are_those_of_all_starts():
    records = {
        "vae": [
            {"split": "clock", "phase": "training", "step": 5, "seconds": 2.0},
            {"split": "train", "phase": "training", "step": 6, "loss": 1.0},
            {"split": "clock", "phase": "training", "step": 9, "seconds": 0.5},
        ],
        "": [{"split": "clock", "phase": "second", "step": 3, "seconds": 1.0}],
    }
    assert provenance.phase_seconds(records) == {"vae, training": 2.5, "second": 1.0}


def test_a_report_says_where_and_when_in_words():
    start = provenance.start()
    summary = {
        "starts": [start | {"devices": H200, "commit": "abc", "dirty": True}] * 2,
        "ended": "2026-01-01T10:00:00+00:00",
        "seconds": {"training": 61.2, "figures": 3.0},
        "peak_memory_bytes": {"host": 3 * 2**30},
    }
    summary["seconds"]["vae_1, training"] = 5.0
    rows = provenance.table(summary, {"vae_1": "VAE 1"}.__getitem__)
    assert (rows["time, VAE 1, training"], rows["ended"]) == ("0:05", "2026-01-01 10:00:00 UTC")
    assert rows["computed on"] == "1 x NVIDIA H200"
    assert rows["started"].endswith(", in 2 starts")
    assert (rows["time, training"], rows["peak memory, host"]) == ("1:01", "3.0 GiB")
    assert rows["code"] == "commit abc, with changes that are not committed"
    assert provenance.table(summary | {"measured": start})["measured on"] == provenance.describe(start["devices"])
    assert provenance.table({}) == {}


def test_peak_memory_is_that_of_this_process():
    block = bytearray(200 * 2**20)
    assert len(block) < provenance.peak_memory()["host"] < 2**40


def test_versions_and_the_command_are_said():
    start = provenance.start()
    assert start["versions"]["jax"] == jax.__version__
    assert "pytest" in start["command"] or sys.orig_argv[0] in start["command"]
    assert re.match(r"\d{4}-\d\d-\d\dT", start["started"])
    assert len(provenance.text(start).splitlines()) == 3
