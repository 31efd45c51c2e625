"""A workdir belongs to one process at a time and to one configuration; its files change as a whole."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest

from mvae_jax.train.workdir import Workdir, WorkdirBusy, atomic_write, dotted

HOLDER = """
import sys, time
from mvae_jax.train.workdir import Workdir
with Workdir(sys.argv[1]).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_second_process_is_refused_until_the_first_is_killed(tmp_path, holder):
    workdir = Workdir(tmp_path)
    with pytest.raises(WorkdirBusy) as error, workdir.lock():
        pass
    message = str(error.value)
    assert str(tmp_path) in message
    assert f"pid {holder.pid} on host {os.uname().nodename}" in message
    assert "another workdir" in message
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with workdir.lock():
        (line,) = (tmp_path / "lock").read_text().splitlines()
        assert line.startswith(f"pid {os.getpid()} on host")


def test_lock_is_released_at_the_end_and_after_an_error(tmp_path):
    workdir = Workdir(tmp_path)
    with contextlib.suppress(KeyError), workdir.lock():
        with pytest.raises(WorkdirBusy, match=f"pid {os.getpid()} "), Workdir(tmp_path).lock():
            pass
        raise KeyError
    assert (tmp_path / "lock").read_text() == ""
    with workdir.lock():
        pass


def test_path_is_absolute_whatever_the_current_folder_becomes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workdir = Workdir("runs/first")
    assert workdir.path == tmp_path / "runs" / "first"
    assert workdir.path.is_dir()
    monkeypatch.chdir("/")
    workdir.finish()
    assert (tmp_path / "runs" / "first" / "finished.json").exists()


def test_config_is_written_once_and_compared_on_resume(tmp_path):
    config = {"model": {"latent": 64, "betas": (0.5, 0.999)}, "seed": 0, "phases": {}}
    Workdir(tmp_path).configure(config)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        **config,
        "model": {"latent": 64, "betas": [0.5, 0.999]},
    }
    Workdir(tmp_path).configure(config)
    other = {"model": {"latent": 128, "betas": (0.9, 0.999), "width": None}, "phases": {}}
    with pytest.raises(ValueError, match="other settings") as error:
        Workdir(tmp_path).configure(other)
    assert str(error.value).splitlines()[1:-1] == [
        "  model.betas: [0.5, 0.999] before, [0.9, 0.999] now",
        "  model.latent: 64 before, 128 now",
        "  model.width: absent before, null now",
        "  seed: 0 before, absent now",
    ]
    assert "choose another workdir" in str(error.value)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0


def test_fields_that_may_change_are_updated(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.configure({"log": {"every": 1, "seconds": 2.0}, "log_more": 1, "seed": 0})
    workdir.configure({"log": {"every": 5}, "log_more": 1, "seed": 0}, may_change=["log"])
    assert json.loads((tmp_path / "config.json").read_text())["log"] == {"every": 5}
    with pytest.raises(ValueError, match="log_more: 1 before, 2 now") as error:
        workdir.configure({"log": {"every": 6}, "log_more": 2, "seed": 0}, may_change=["log", "see"])
    assert "every" not in str(error.value)


def test_config_that_json_cannot_hold_exactly_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        Workdir(tmp_path).configure({"rate": float("nan")})
    assert not (tmp_path / "config.json").exists()


def test_finish_mark(tmp_path):
    workdir = Workdir(tmp_path)
    assert not workdir.is_finished
    workdir.finish(step=12, loss=0.5)
    assert Workdir(tmp_path).is_finished
    assert json.loads((tmp_path / "finished.json").read_text()).items() >= {"step": 12, "loss": 0.5}.items()


@pytest.mark.parametrize("content", ["é\n", b"\x00\xff"])
def test_atomic_write(tmp_path, content):
    path = tmp_path / "file"
    path.write_text("a much longer content that was there before")
    inode = path.stat().st_ino
    atomic_write(path, content)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert path.stat().st_ino != inode
    assert os.listdir(tmp_path) == ["file"]


def test_failed_atomic_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic_write(path, "old")

    def full(_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, "new")
    assert path.read_text() == "old"


def test_dotted():
    assert dotted({"a": {"b": 1, "c": {}}, "d": [2]}) == {"a.b": 1, "a.c": {}, "d": [2]}
