"""A workdir belongs to one process at a time and to one configuration; its files change as a whole."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from mvae_jax.train import config_file
from mvae_jax.train.config_file import DamagedRun
from mvae_jax.train.workdir import Workdir, WorkdirBusy, atomic_write, dotted, folder_of, set_aside

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


def settings_of(folder):
    """What config.json says beside the run's id and the sum."""
    content = json.loads((folder / "config.json").read_text())
    return {name: value for name, value in content.items() if name not in ("run_id", "sha256")}


def test_a_run_keeps_its_id_and_no_other_has_it(tmp_path):
    ids = []
    for name, every in (("one", 1), ("one", 5), ("two", 1)):
        Workdir(tmp_path / name).configure({"log": {"every": every}, "seed": 0}, may_change=["log"])
        ids.append(config_file.run_of(tmp_path / name))
    assert re.fullmatch("[0-9a-f]{32}", ids[0])
    assert ids[0] == ids[1] != ids[2]
    assert config_file.run_of(tmp_path) is None


def test_settings_of_an_earlier_version_get_an_id(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"seed": 0}')
    assert config_file.run_of(tmp_path) == ""
    Workdir(tmp_path).configure({"seed": 0})
    assert len(config_file.run_of(tmp_path)) == 32


def test_settings_that_were_changed_are_refused_unless_that_is_said_to_be_meant(tmp_path):
    path = tmp_path / "config.json"
    Workdir(tmp_path).configure({"seed": 0})
    content = json.loads(path.read_text())
    changed = {**content, "seed": 1}
    without = {name: value for name, value in changed.items() if name != "sha256"}
    for other in (changed, without, {**content, "run_id": content["run_id"][::-1]}):
        path.write_text(json.dumps(other))
        with pytest.raises(DamagedRun, match=f"^{path} was changed since .*put null in place of its sha256"):
            Workdir(tmp_path).configure({"seed": 1})
        assert json.loads(path.read_text()) == other
    path.write_text(json.dumps({**changed, "sha256": None}))
    Workdir(tmp_path).configure({"seed": 1})
    assert config_file.read(path) == ({"seed": 1}, content["run_id"])


def test_config_is_written_once_and_compared_on_resume(tmp_path):
    config = {"model": {"latent": 64, "betas": (0.5, 0.999)}, "seed": 0, "phases": {}}
    Workdir(tmp_path).configure(config)
    assert settings_of(tmp_path) == {**config, "model": {"latent": 64, "betas": [0.5, 0.999]}}
    written = (tmp_path / "config.json").read_text()
    Workdir(tmp_path).configure(config)
    assert (tmp_path / "config.json").read_text() == written
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
    assert settings_of(tmp_path)["seed"] == 0


def test_fields_that_may_change_are_updated(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.configure({"log": {"every": 1, "seconds": 2.0}, "log_more": 1, "seed": 0})
    workdir.configure({"log": {"every": 5}, "log_more": 1, "seed": 0}, may_change=["log"])
    assert settings_of(tmp_path)["log"] == {"every": 5}
    with pytest.raises(ValueError, match="log_more: 1 before, 2 now") as error:
        workdir.configure({"log": {"every": 6}, "log_more": 2, "seed": 0}, may_change=["log", "see"])
    assert "every" not in str(error.value)


@dataclasses.dataclass(frozen=True)
class Networks:
    width: int = 8
    epsilon: float = dataclasses.field(default=1e-8, metadata={"before": 1e-5})


@dataclasses.dataclass(frozen=True)
class Config:
    name: str
    networks: Networks = Networks(width=4)
    rates: tuple[float, ...] = (0.5,)
    averages: bool = dataclasses.field(default=True, metadata={"before": True, "unlike": "averages count twice."})


def configure(folder, config, *, format=2, **options):
    """Configures a workdir as an experiment does."""
    settings = {"format": format, "config": dataclasses.asdict(config)}
    options = {"flag": lambda name, value: f"--{name}={value}" if name.startswith("config.") else "", **options}
    Workdir(folder).configure(settings, configs={"config": config}, **options)


def recorded(folder, **config):
    """What an earlier version wrote."""
    (folder / "config.json").write_text(json.dumps({"format": 2, "config": {"name": "a", **config}}))
    return (folder / "config.json").read_bytes()


def test_a_field_that_came_later_counts_as_its_default_and_is_recorded_from_then_on(tmp_path):
    recorded(tmp_path, averages=True, networks={"epsilon": 1e-8})
    config = Config("a", networks=Networks())  # the default of the field's own class, of which there is one for all
    configure(tmp_path, config)
    written, _ = config_file.read(tmp_path / "config.json")
    assert written == {"format": 2, "config": json.loads(json.dumps(dataclasses.asdict(config)))}
    configure(tmp_path, config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config("a", rates=(0.25,)), "  config.rates: [0.5] before (which config.json does not say), [0.25] now"),
        (Config("a", Networks(9)), "  config.networks.width: 8 before (which config.json does not say), 9 now"),
        (Config("b"), '  config.name: "a" before, "b" now'),
    ],
    ids=str,
)
def test_a_field_that_came_later_is_refused_with_another_value_than_its_default(tmp_path, config, message):
    content = recorded(tmp_path, averages=True, networks={"epsilon": 1e-8})
    with pytest.raises(ValueError, match="other settings") as error:
        configure(tmp_path, config)
    assert message in str(error.value).splitlines()
    assert (tmp_path / "config.json").read_bytes() == content


def test_a_field_that_came_with_other_behaviour_counts_as_that_before_and_the_argument_is_named(tmp_path):
    content = recorded(tmp_path, networks={"width": 4}, averages=True)
    with pytest.raises(ValueError, match="other settings") as error:
        configure(tmp_path, Config("a"))
    assert str(error.value).splitlines()[1:] == [
        "  config.networks.epsilon: 1e-05 before (which config.json does not say), 1e-08 now",
        "Continue it with the settings it started with (--config.networks.epsilon=1e-05), or choose another workdir.",
    ]
    assert (tmp_path / "config.json").read_bytes() == content
    configure(tmp_path, Config("a", Networks(4, 1e-5)), write=False)
    assert (tmp_path / "config.json").read_bytes() == content
    configure(tmp_path, Config("a", Networks(4, 1e-5)))
    assert json.loads((tmp_path / "config.json").read_text())["config"]["networks"]["epsilon"] == 1e-5


@dataclasses.dataclass(frozen=True)
class Parts:
    networks: tuple[Networks, ...] = (Networks(width=4), Networks(width=6))


def test_a_tuple_of_dataclasses_goes_on_whatever_the_order_of_its_names(tmp_path):
    configure(tmp_path, Parts())
    assert '"epsilon"' in (tmp_path / "config.json").read_text().partition('"width"')[0]  # in their order there
    configure(tmp_path, Parts())
    with pytest.raises(ValueError, match=r"other settings:\n  config.networks: .*6.* before, .*7.* now"):
        configure(tmp_path, Parts((Networks(width=4), Networks(width=7))))


def test_arguments_are_named_where_they_are_enough(tmp_path):
    recorded(tmp_path, networks={"width": 4}, averages=True)
    with pytest.raises(ValueError, match="data: absent before") as error:
        Workdir(tmp_path).configure(
            {"format": 2, "config": dataclasses.asdict(Config("a")), "data": "other"},
            configs={"config": Config("a")},
            flag=lambda name, value: f"--{name}={value}",
        )
    assert "--config" not in str(error.value)


def test_what_no_setting_makes_as_it_was_is_said_once(tmp_path, caplog):
    recorded(tmp_path, networks={"width": 4, "epsilon": 1e-8})
    configure(tmp_path, Config("a"), write=False)
    assert caplog.text == ""
    configure(tmp_path, Config("a"))
    assert f"{tmp_path} goes on, but not to the bits of the version that began it: averages count twice." in caplog.text
    caplog.clear()
    configure(tmp_path, Config("a"))
    assert caplog.text == ""


def test_a_field_without_default_is_no_field_that_came_later(tmp_path):
    (tmp_path / "config.json").write_text('{"format": 2, "config": {}}')
    with pytest.raises(ValueError, match=r'config.name: absent before, "a" now'):
        configure(tmp_path, Config("a"))


def test_a_removed_field_is_named_and_can_be_passed_over(tmp_path, caplog):
    now = dataclasses.asdict(Config("a"))
    content = recorded(tmp_path, **{**now, "spin": {"up": 1}, "networks": {**now["networks"], "depth": 2}})
    removed = 'config.json has config.networks.depth = 2, config.spin = {"up": 1}, which this version does not have'
    with pytest.raises(ValueError, match="--ignore-removed") as error:
        configure(tmp_path, Config("a"))
    assert removed in str(error.value)
    assert "\n" not in str(error.value)
    assert (tmp_path / "config.json").read_bytes() == content
    configure(tmp_path, Config("a"), ignore_removed=True)
    assert f"{removed}: passed over." in caplog.text
    assert json.loads((tmp_path / "config.json").read_text())["config"] == json.loads(json.dumps(now))
    configure(tmp_path, Config("a"))
    with pytest.raises(ValueError, match=r'config.name: "a" before, "b" now'):
        configure(tmp_path, Config("b"), ignore_removed=True)


@pytest.mark.parametrize(
    ("format", "message"),
    [
        (3, r"config.json has format 3; this version reads up to 2: install a later one\.$"),
        (1, r"holds a run that another version began \(format 1 of its config.json, this version writes 2\)"),
        ("2", r'config.json has format "2"; expected 1 to 2: restore the file\.$'),
        (True, r"config.json has format true; expected 1 to 2"),
        (0, r"config.json has format 0; expected 1 to 2"),
        (None, r"config.json has format null; expected 1 to 2"),
    ],
)
def test_other_formats_are_refused_in_a_sentence(tmp_path, format, message):
    settings = {"format": format, "config": dataclasses.asdict(Config("a"))}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=message) as error:
        configure(tmp_path, Config("a"), ignore_removed=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([1], r"config.json has config = \[1\]; expected settings by name: restore it"),
        (None, "config.json has config = null; expected settings by name"),
        ({"name": "a", "networks": 3, "averages": True}, "config.networks: 3 before, absent now"),
        (
            {"name": "a", "naem": "b", "averages": True},
            'config.json has config.naem = "b", which this version does not have',
        ),
        ({"name": ["a"], "averages": True}, r'config.name: \["a"\] before, "a" now'),
    ],
    ids=str,
)
def test_an_edited_file_is_refused_by_what_is_in_it(tmp_path, config, message):
    (tmp_path / "config.json").write_text(json.dumps({"format": 2, "config": config}))
    with pytest.raises(ValueError, match=message):
        configure(tmp_path, Config("a"))


EPOCHS = ("model.one.epochs", "model.two.epochs", "model.three.epochs")


def lengths(one=2, two=2, three=0, seed=0):
    return {
        "model": {"one": {"epochs": one}, "two": {"epochs": two}, "three": {"epochs": three}},
        "seed": seed,
    }


@pytest.mark.parametrize("longer", [{"two": 4}, {"three": 1}, {"two": 3, "three": 1}], ids=str)
def test_the_last_phase_may_become_longer(tmp_path, longer):
    workdir = Workdir(tmp_path)
    workdir.configure(lengths(), epochs=EPOCHS, extend=True)
    workdir.finish()
    workdir.configure(lengths(), epochs=EPOCHS, extend=True)
    assert workdir.is_finished
    with pytest.raises(ValueError, match=r"choose another workdir\. To go on with the longer phase, add --extend\.$"):
        workdir.configure(lengths(**longer), epochs=EPOCHS)
    assert workdir.is_finished
    workdir.configure(lengths(**longer), epochs=EPOCHS, extend=True)
    assert not workdir.is_finished
    workdir.configure(lengths(**longer), epochs=EPOCHS)
    assert settings_of(tmp_path) == lengths(**longer)


@pytest.mark.parametrize(
    ("changes", "refused", "end"),
    [
        ({"two": 1}, ["two.epochs: 2 before, 1 now"], "workdir."),
        ({"one": 1}, ["one.epochs: 2 before, 1 now"], "workdir."),
        ({"two": 4, "seed": 1}, ["seed: 0 before, 1 now"], "workdir."),
        (
            {"one": 3, "two": 4},
            ["one.epochs: 2 before, 3 now"],
            "workdir. More of model.one.epochs would move the phases after it: to train on, start from this run "
            "(start_from) in another workdir.",
        ),
    ],
    ids=str,
)
def test_an_extended_run_is_otherwise_the_same(tmp_path, changes, refused, end):
    workdir = Workdir(tmp_path)
    workdir.configure(lengths())
    workdir.finish()
    with pytest.raises(ValueError, match="other settings") as error:
        workdir.configure(lengths(**changes), epochs=EPOCHS, extend=True)
    lines = str(error.value).splitlines()
    assert [line.removeprefix("  ").removeprefix("model.") for line in lines[1:-1]] == refused
    assert lines[-1] == f"Continue it with the settings it started with, or choose another {end}"
    assert workdir.is_finished
    assert settings_of(tmp_path) == lengths()


def test_other_settings_are_not_said_to_be_an_extension(tmp_path):
    Workdir(tmp_path).configure(lengths())
    with pytest.raises(ValueError, match=r"seed: 0 before, 1 now") as error:
        Workdir(tmp_path).configure(lengths(two=4, seed=1), epochs=EPOCHS)
    assert "two.epochs: 2 before, 4 now" in str(error.value)
    assert "--extend" not in str(error.value)


def test_a_kill_while_an_extension_begins_leaves_a_run_that_can_be_extended(tmp_path, monkeypatch):
    workdir = Workdir(tmp_path)
    workdir.configure(lengths())
    workdir.finish()

    def kill(*_):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr("mvae_jax.train.workdir.atomic_write", kill)
    with pytest.raises(KeyboardInterrupt):
        workdir.configure(lengths(two=4), epochs=EPOCHS, extend=True)
    assert (workdir.is_finished, settings_of(tmp_path)) == (False, lengths())
    workdir.configure(lengths(two=4), epochs=EPOCHS, extend=True)
    assert not workdir.is_finished
    assert settings_of(tmp_path) == lengths(two=4)


def test_config_that_json_cannot_hold_exactly_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        Workdir(tmp_path).configure({"rate": float("nan")})
    assert not (tmp_path / "config.json").exists()


def test_what_is_set_aside_replaces_nothing(tmp_path):
    path = tmp_path / "log"
    for content, name in (("a", "log.damaged"), ("b", "log.damaged-2"), ("c", "log.damaged-3")):
        path.write_text(content)
        assert set_aside(path).name == name
        assert not path.exists()
    path.write_text("d")
    assert set_aside(path, copy=True).name == "log.damaged-4"
    assert path.read_text() == "d"
    assert {file.name: file.read_text() for file in tmp_path.glob("log.*")} == {
        "log.damaged": "a",
        "log.damaged-2": "b",
        "log.damaged-3": "c",
        "log.damaged-4": "d",
    }


@pytest.mark.parametrize("path", [b"runs/\xff", "~nobody-of-this-name/run", "a\0b"])
def test_a_folder_whose_name_cannot_be_is_refused_in_a_sentence(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    path = os.fsdecode(path)
    for make in (folder_of, Workdir):
        with pytest.raises(ValueError, match=r"is not UTF-8; expected|home directory|has a null byte") as error:
            make(path)
        str(error.value).encode()
    assert list(tmp_path.iterdir()) == []


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
