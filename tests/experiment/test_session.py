"""The session of a run: errors as one line, one process per workdir, settings that may not change, exit statuses."""

import os

import pytest

from mvae_jax.experiment import session
from mvae_jax.train.config_file import DamagedRun
from mvae_jax.train.loop import TrainingDiverged
from mvae_jax.train.signals import Interrupted
from mvae_jax.train.workdir import Workdir


@pytest.mark.parametrize(
    "error", [ValueError("bad"), OSError(28, "full"), NotADirectoryError("x"), PermissionError("y")]
)
def test_what_a_user_can_mend_ends_with_its_message(capsys, error):
    with pytest.raises(SystemExit) as end, session.errors():
        raise error
    assert (end.value.code, capsys.readouterr().err) == (2, f"error: {error}\n")


@pytest.mark.parametrize("error", [KeyError("k"), TypeError("t"), KeyboardInterrupt()])
def test_what_is_our_mistake_keeps_its_traceback(error):
    with pytest.raises(type(error)), session.errors():
        raise error


def enter(path, settings=None, may_change=(), **options):
    """Status of a session in which nothing happens."""
    settings = {"a": 1} if settings is None else settings
    with session.session(str(path), settings, may_change, **options) as (workdir, interruption):
        assert not interruption.requested
        return workdir


def test_a_session_holds_the_workdir(tmp_path, capsys):
    with session.session(str(tmp_path / "new" / "run"), {"a": 1}, ()) as (workdir, _):
        assert workdir.path == tmp_path / "new" / "run"
        with pytest.raises(SystemExit) as end:
            enter(workdir.path)
        assert end.value.code == 2
        assert f"run is in use by pid {os.getpid()} on host" in capsys.readouterr().err
    enter(workdir.path)


def test_a_session_refuses_other_settings_with_both_values(tmp_path, capsys):
    enter(tmp_path, {"a": {"b": 1, "c": 2}})
    enter(tmp_path, {"a": {"b": 1, "c": 3}}, ["a.c"])
    with pytest.raises(SystemExit) as end:
        enter(tmp_path, {"a": {"b": 5, "c": 3}}, ["a.c"])
    err = capsys.readouterr().err
    assert end.value.code == 2
    assert "a.b: 1 before, 5 now" in err
    assert "a.c" not in err


def test_a_finished_workdir_says_so(tmp_path, capsys):
    enter(tmp_path).finish(score=1)
    with pytest.raises(SystemExit) as end:
        enter(tmp_path)
    assert (end.value.code or 0) == 0
    assert capsys.readouterr().out == f"{tmp_path} is finished; its report is {tmp_path / 'report.html'}.\n"


def test_a_finished_workdir_goes_on_with_more_epochs_if_told_so(tmp_path, capsys):
    enter(tmp_path, {"epochs": 2}).finish()
    with pytest.raises(SystemExit) as end:
        enter(tmp_path, {"epochs": 4}, epochs=["epochs"])
    assert (end.value.code, capsys.readouterr().err.splitlines()[1:]) == (
        2,
        [
            "  epochs: 2 before, 4 now",
            "Continue it with the settings it started with, or choose another workdir. To go on with the longer phase, "
            "add --extend.",
        ],
    )
    for _ in range(2):  # the same command resumes it
        workdir = enter(tmp_path, {"epochs": 4}, epochs=["epochs"], extend=True)
    workdir.finish()
    with pytest.raises(SystemExit) as end:
        enter(tmp_path, {"epochs": 4}, epochs=["epochs"], extend=True)
    assert (end.value.code or 0) == 0
    assert "is finished" in capsys.readouterr().out


def test_a_run_that_cannot_go_on_is_refused_before_its_settings_are_written(tmp_path, capsys):
    def refuse():
        raise DamagedRun("none is intact")

    enter(tmp_path, {"a": 1}, ["a"])
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(SystemExit) as end:
        enter(tmp_path, {"a": 2}, ["a"], check=refuse)
    assert (end.value.code, capsys.readouterr().err) == (2, "error: none is intact\n")
    assert (tmp_path / "config.json").read_bytes() == before
    Workdir(tmp_path).finish()  # what is done need not go on
    with pytest.raises(SystemExit) as end:
        enter(tmp_path, {"a": 2}, ["a"], check=refuse)
    assert (end.value.code or 0) == 0


def test_settings_are_compared_before_it_is_asked_whether_the_run_can_go_on(tmp_path, capsys):
    enter(tmp_path)
    with pytest.raises(SystemExit) as end:
        enter(tmp_path, {"a": 2}, check=lambda: pytest.fail("asked of a run with other settings"))
    assert (end.value.code, "a: 1 before, 2 now" in capsys.readouterr().err) == (2, True)


def test_a_workdir_that_cannot_be_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run", "/proc/run"):
        with pytest.raises(SystemExit) as end:
            enter(path)
        assert end.value.code == 2
        assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TrainingDiverged("not finite"), 1),
        (OSError(28, "No space left on device"), 1),
        (DamagedRun("no checkpoint that is intact"), 2),
    ],
    ids=repr,
)
def test_training_that_fails_ends_with_its_message(tmp_path, capsys, error, status):
    with pytest.raises(SystemExit) as end, session.session(str(tmp_path), {}, ()):
        raise error
    assert (end.value.code, capsys.readouterr().err) == (status, f"error: {error}\n")
    with Workdir(tmp_path).lock():
        assert not Workdir(tmp_path).is_finished


def test_an_interruption_passes_with_its_status(tmp_path):
    with pytest.raises(SystemExit) as end, session.session(str(tmp_path), {}, ()):
        raise Interrupted(143)
    assert end.value.code == 143
