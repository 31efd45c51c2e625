"""The command line: whatever is typed becomes the config that was meant, or one line that says what is wrong."""

import dataclasses
import json
import logging
import os

import celebahq_mvae
import launch
import pytest
import toy

from mvae_jax.train.loop import TrainingDiverged
from mvae_jax.train.signals import Interrupted
from mvae_jax.train.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Inner:
    """A group of fields.

    Attributes:
        rates: numbers between nought
            and one.
        names: words.
    """

    rates: tuple[float, ...] = (0.5, 0.25)
    names: tuple[str, ...] = ("a", "b")


@dataclasses.dataclass(frozen=True)
class Config:
    """A config with a field of each type.

    Attributes:
        count: a number of things.
        rate: a rate.
        flag: whether.
        path: where.
        widths: sizes.
        inner: more.
    """

    count: int = 3
    rate: float = 0.1
    flag: bool = True
    path: str = "here"
    widths: tuple[int, ...] = (1, 2)
    inner: Inner = Inner()

    def __post_init__(self):
        if self.count < 0:
            raise ValueError(f"count is {self.count}; expected at least 0.")


PRESETS = {"small": Config(), "large": Config(count=300, inner=Inner(names=("c",)))}


@pytest.fixture(autouse=True)
def _logging_as_before():
    """`parse` sets up the program's log."""
    root, jax_log = logging.getLogger(), logging.getLogger("jax")
    before = root.handlers[:], root.level, jax_log.level
    yield
    root.handlers[:], root.level = before[:2]
    jax_log.setLevel(before[2])


def parse(*arguments, presets=PRESETS):
    return launch.parse(["experiment.py", *arguments], presets, workdir="runs/x", description="Does things.")


def refused(capsys, *arguments, presets=PRESETS):
    """The one line on standard error."""
    with pytest.raises(SystemExit) as end:
        parse(*arguments, presets=presets)
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err.removeprefix("error: ")[:-1]


def leaves(config, prefix=""):
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


# --- what is understood ----------------------------------------------------------------------------------------------


def test_without_arguments_the_first_preset_is_taken():
    assert parse() == (Config(), launch.Arguments("runs/x", "small", False))


def test_flags():
    config, arguments = parse("--preset=large", "--workdir", "runs/a=b", "--dry-run")
    assert config == PRESETS["large"]
    assert arguments == launch.Arguments("runs/a=b", "large", True)
    assert parse("--dry_run", "-preset", "large")[1].dry_run


@pytest.mark.parametrize(
    ("setting", "changes"),
    [
        ("count=-0", {"count": 0}),
        ("count=0x10", {"count": 16}),
        ("rate=1", {"rate": 1.0}),
        ("rate=-2e-3", {"rate": -0.002}),
        ("flag=false", {"flag": False}),
        ("flag=0", {"flag": False}),
        ("flag=True", {"flag": True}),
        ("path=", {"path": ""}),
        ("path=a=b --c=(1,2).zip", {"path": "a=b --c=(1,2).zip"}),
        ("path=7", {"path": "7"}),
        ("path=None", {"path": "None"}),
        ("widths=(4, 8, 16)", {"widths": (4, 8, 16)}),
        ("widths=4,8", {"widths": (4, 8)}),
        ("widths=[4]", {"widths": (4,)}),
        ("widths=4", {"widths": (4,)}),
        ("widths=()", {"widths": ()}),
        ("inner.rates=0.5,1e-3", {"inner": Inner(rates=(0.5, 0.001))}),
        ("inner.rates=(1, 0.5)", {"inner": Inner(rates=(1.0, 0.5))}),
        ("inner.names=('x', 'y z')", {"inner": Inner(names=("x", "y z"))}),
        ("inner.names=x,y", {"inner": Inner(names=("x", "y"))}),
        ("inner.names=x", {"inner": Inner(names=("x",))}),
    ],
)
def test_a_setting_becomes_a_value_of_its_fields_type(setting, changes):
    config, _ = parse(f"--config.{setting}")
    expected = dataclasses.replace(Config(), **changes)
    assert config == expected
    assert [(type(value), value) for _, value in leaves(config)] == [
        (type(value), value) for _, value in leaves(expected)
    ]


def test_settings_start_from_the_preset_and_the_last_one_wins():
    settings = ["--config.widths=7,8", "--config.count=1", "--config.inner.rates=9.0", "--config.widths=5,6"]
    config, _ = parse(*settings, "--preset=large")
    assert config == Config(1, widths=(5, 6), inner=Inner((9.0,), ("c",)))
    assert parse()[0] == Config()


@pytest.mark.parametrize("preset", celebahq_mvae.PRESETS)
def test_each_field_of_the_experiment_can_be_set(preset):
    expected = celebahq_mvae.PRESETS[preset]
    texts = {name: ",".join(map(str, v)) if isinstance(v, tuple) else str(v) for name, v in leaves(expected)}
    settings = [f"--config.{name}={text}" for name, text in texts.items()]
    assert len(settings) > 40
    assert parse(*settings, presets=celebahq_mvae.PRESETS)[0] == expected


# --- a run that is there already -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config as experiments have it.

    Attributes:
        count: a number of things.
        rate: a rate.
        model: the model.
    """

    count: int = 3
    rate: float = 0.1
    model: Inner = Inner()


EXPERIMENTS = {"small": Experiment(), "large": Experiment(300, 0.3)}


def write_config(workdir, **config):
    (workdir / "config.json").write_text(json.dumps({"model": "multimodal", "config": config}))


def test_extend():
    assert parse("--extend")[1] == launch.Arguments("runs/x", "small", False, extend=True)


def test_evaluate_starts_from_the_config_of_the_workdir(tmp_path):
    write_config(tmp_path, count=7, model={"rates": [1.0], "names": ["z"]})  # by a version that knew no rate
    config, arguments = parse("--evaluate", f"--workdir={tmp_path}", "--config.model.names=x,y", presets=EXPERIMENTS)
    assert config == Experiment(7, 0.1, Inner((1.0,), ("x", "y")))
    assert arguments == launch.Arguments(str(tmp_path), "small", False, evaluate=True)


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        (None, [], "config.json does not exist; expected the workdir of a run."),
        ({"model": {}, "size": 1}, [], "is not a run of this experiment: Experiment has no field size"),
        ({"model": {"widths": [3]}}, [], "is not a run of this experiment: Inner has no field widths"),
        ({"model": 3}, [], "is not a run of this experiment"),
        ({}, [], "config.json is not that of a run"),
        ({"model": {}}, ["--config.cuont=1"], "did you mean --config.count?"),
        ({"model": {}}, ["--preset=small"], "--preset cannot go with --evaluate: the workdir's config counts"),
        ({"model": {}}, ["--dry-run"], "--dry-run cannot go with --evaluate"),
        ({"model": {}}, ["--extend"], "--extend cannot go with --evaluate"),
    ],
    ids=str,
)
def test_evaluate_refuses_what_is_no_run_of_the_experiment(tmp_path, capsys, config, arguments, message):
    if config is not None:
        write_config(tmp_path, **config)
    arguments = ["--evaluate", f"--workdir={tmp_path}", *arguments]
    assert message in refused(capsys, *arguments, presets=EXPERIMENTS)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.cuont=4"], "there is no field --config.cuont; did you mean --config.count?"),
        (["--config.iner.rates=4"], "there is no field --config.iner.rates; did you mean --config.inner.rates?"),
        (["--config.xyz=4"], "there is no field --config.xyz; --help lists every field."),
        (["--config.widths[0]=4"], "there is no field --config.widths[0]; did you mean --config.widths?"),
        (["--config..count=4"], "there is no field --config..count; did you mean --config.count?"),
        (["--config.inner=4"], "--config.inner is a group of fields; set one of them, such as --config.inner.rates."),
        (["--config.count", "4"], "--config.count has no value; write --config.count=VALUE."),
        (["--config.flag"], "--config.flag has no value; write --config.flag=VALUE."),
        (["config.count=4"], "unexpected argument 'config.count=4'; settings are written --config.field=value."),
        (["count=4"], "unexpected argument 'count=4'; settings are written --config.field=value."),
        (["--count=4"], "Unknown command line flag 'count'"),
        (["--config=x.py"], "Unknown command line flag 'config'"),
        (["--noconfig.flag"], "Unknown command line flag 'noconfig.flag'"),
        (["--presett=large"], "Unknown command line flag 'presett'. Did you mean: preset ?"),
        (["--preset=lrage"], "flag --preset=lrage: value should be one of <small|large>"),
        (["--preset"], "Missing value for flag --preset"),
        (["--workdir="], "--workdir is empty; expected a folder."),
        (["--config.count=-1"], "count is -1; expected at least 0."),
        *(
            ([f"--config.{name}={text}"], f"--config.{name} is {text!r}; expected {expected}.")
            for name, texts, expected in (
                ("count", ["7.5", "x", "", "1e3", "True", "(1,)"], "a whole number"),
                ("rate", ["x", "", "nan", "inf", "-inf", "1,5", "True"], "a finite number"),
                ("flag", ["no", "2", "", "1.0"], "true or false"),
                ("widths", ["(4", "4.5,8", "a,b", "4,True", "4,,8"], "whole numbers, separated by commas"),
                ("inner.rates", ["0.5,x", "nan,1.0", "(1.0, inf)"], "finite numbers, separated by commas"),
                ("inner.names", ["(1, 2)"], "words, separated by commas"),
            )
            for text in texts
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_ends_with_one_line(capsys, arguments, message):
    assert refused(capsys, *arguments) == message


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.latent_sise=64", "did you mean --config.model.latent_size?"),
        ("model.batch_size=0", "batch_size is 0"),
        ("model.image_size=100", "image_size is 100; choose one of 32, 64, 128."),
        ("model.attributes=young,young", "no name twice"),
        ("model.learning_rate=-1", "learning_rate is -1.0"),
        ("model.unimodal.epochs=-1", "epochs is -1"),
        ("model.attention_heads=7", "expected a multiple of attention_heads, 7"),
        ("seed=-1", "seed is -1"),
        ("seed=4294967296", "seed is 4294967296"),
        ("data.seed=-1", "seed is -1"),
        ("data.subset_size=1", "of subset_size 1"),
        ("data.validation_fraction=1.5", "validation_fraction is 1.5"),
        ("data.validation_fraction=0", "validation_fraction is 0.0"),
        ("data.calibration_size=0", "calibration_size is 0"),
        ("training.log_every=0", "log_every is 0; expected at least 1."),
        ("training.most_refused_steps=0", "most_refused_steps is 0; expected at least 1."),
    ],
)
def test_values_out_of_range_are_refused_by_name(capsys, setting, message):
    assert message in refused(capsys, f"--config.{setting}", presets=celebahq_mvae.PRESETS)


# --- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("presets", "preset"),
    [(PRESETS, "small"), (PRESETS, "large"), *((celebahq_mvae.PRESETS, name) for name in celebahq_mvae.PRESETS)],
    ids=str,
)
def test_help_lists_every_field_with_default_type_and_meaning(capsys, presets, preset):
    with pytest.raises(SystemExit) as end:
        parse("--help", f"--preset={preset}", presets=presets)
    out, err = capsys.readouterr()
    assert (end.value.code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "Does things."
    for flag in (
        "workdir=runs/x",
        f"preset={next(iter(presets))}",
        "dry-run=False",
        "extend=False",
        "evaluate=False",
        "help=False",
    ):
        assert f"  --{flag}" in lines
    for name, value in leaves(presets[preset]):
        line = lines.index(f"  --config.{name}={value!r}  [{type(value).__name__}]")
        assert lines[line + 1].startswith("      ")
        assert len(lines[line + 1].split()) >= 1
    assert sum(line.startswith("  --config.") for line in lines) == len(list(leaves(presets[preset])))


def test_meanings_are_those_of_the_docstring():
    assert launch.meanings(Inner) == {"rates": "numbers between nought and one.", "names": "words."}


# --- a run's session -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [ValueError("bad"), OSError(28, "full"), NotADirectoryError("x"), PermissionError("y")]
)
def test_what_a_user_can_mend_ends_with_its_message(capsys, error):
    with pytest.raises(SystemExit) as end, launch.errors():
        raise error
    assert (end.value.code, capsys.readouterr().err) == (2, f"error: {error}\n")


@pytest.mark.parametrize("error", [KeyError("k"), TypeError("t"), KeyboardInterrupt()])
def test_what_is_our_mistake_keeps_its_traceback(error):
    with pytest.raises(type(error)), launch.errors():
        raise error


def enter(path, settings=None, may_change=(), **options):
    """Status of a session in which nothing happens."""
    settings = {"a": 1} if settings is None else settings
    with launch.session(str(path), settings, may_change, **options) as (workdir, interruption):
        assert not interruption.requested
        return workdir


def test_a_session_holds_the_workdir(tmp_path, capsys):
    with launch.session(str(tmp_path / "new" / "run"), {"a": 1}, ()) as (workdir, _):
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


def test_a_workdir_that_cannot_be_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run", "/proc/run"):
        with pytest.raises(SystemExit) as end:
            enter(path)
        assert end.value.code == 2
        assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize("error", [TrainingDiverged("not finite"), OSError(28, "No space left on device")])
def test_training_that_fails_ends_with_its_message(tmp_path, capsys, error):
    with pytest.raises(SystemExit) as end, launch.session(str(tmp_path), {}, ()):
        raise error
    assert (end.value.code, capsys.readouterr().err) == (1, f"error: {error}\n")
    with Workdir(tmp_path).lock():
        assert not Workdir(tmp_path).is_finished


def test_an_interruption_passes_with_its_status(tmp_path):
    with pytest.raises(SystemExit) as end, launch.session(str(tmp_path), {}, ()):
        raise Interrupted(143)
    assert end.value.code == 143


def test_plan_tells_parameters_memory_phases_and_data():
    batch = toy.TRAIN.take(range(4))
    lines = launch.plan(toy.build(), toy.phases(), batch, {"source": "noise", "images": 14}).splitlines()
    vae, critic, frozen = 16 * 6 + 6 + 3 * 16 + 16, 16 + 1, 16
    assert [line for line in lines if not line.startswith(("    ", "memory"))] == [
        "parameters:",
        f"  vae: {vae}",
        f"  critic: {critic}",
        f"  frozen (frozen): {frozen}",
        "phases:",
        "  first: steps 0 to 6, 4 images of 64 px",
        "  second: steps 6 to 15, 4 images of 64 px",
        "data:",
        "  source: noise",
        "  images: 14",
    ]
