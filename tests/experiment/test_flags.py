"""The command line: whatever is typed becomes the config that was meant, or one line that says what is wrong."""

import dataclasses
import json
import logging
import shlex

import command_lines
import pytest

from mvae_jax.experiment import flags
from mvae_jax.fields import leaves


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


MULTIMODAL = command_lines.script("celebahq_mvae").EXPERIMENT
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
    return flags.parse(["experiment.py", *arguments], presets, workdir="runs/x", description="Does things.")


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


# --- what is understood ----------------------------------------------------------------------------------------------


def test_without_arguments_the_first_preset_is_taken():
    assert parse() == (Config(), flags.Arguments("runs/x", "small", False))


def test_flags():
    config, arguments = parse("--preset=large", "--workdir", "runs/a=b", "--dry-run")
    assert config == PRESETS["large"]
    assert arguments == flags.Arguments("runs/a=b", "large", True)
    assert parse("--dry_run", "-preset", "large")[1].dry_run
    assert not parse("--dry-run=true", "--no-dry-run")[1].dry_run
    assert not parse("--dry-run=false")[1].dry_run


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


@pytest.mark.parametrize("preset", MULTIMODAL.presets)
def test_each_field_of_the_experiment_can_be_set(preset):
    expected = MULTIMODAL.presets[preset]
    texts = {name: ",".join(map(str, v)) if isinstance(v, tuple) else str(v) for name, v in leaves(expected)}
    settings = [f"--config.{name}={text}" for name, text in texts.items()]
    assert len(settings) > 40
    assert parse(*settings, presets=MULTIMODAL.presets)[0] == expected


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


def test_a_run_of_another_experiment_or_of_none_is_not_evaluated(tmp_path):
    for of, said in [({"experiment": "celeba_vae"}, "is a run of the experiment 'celeba_vae'"), ({}, "of one model")]:
        settings = {"format": 2, "model": "vae", "config": {"model": {}}, **of}
        (tmp_path / "config.json").write_text(json.dumps(settings))
        with pytest.raises(ValueError, match=f"{said}, expected one of the experiment 'disentanglement': give another"):
            flags.config_of(tmp_path, EXPERIMENTS["small"], experiment="disentanglement")


def test_the_phase_to_evaluate(tmp_path):
    write_config(tmp_path, model={})
    arguments = parse("--evaluate", "--phase=alignment", f"--workdir={tmp_path}", presets=EXPERIMENTS)[1]
    assert arguments == flags.Arguments(str(tmp_path), "small", False, evaluate=True, phase="alignment")


@pytest.mark.parametrize("given", [["--phase=alignment"], ["--evaluate", "--phase="]])
def test_a_phase_goes_with_evaluate_alone(tmp_path, capsys, given):
    message = refused(capsys, *given, f"--workdir={tmp_path}", presets=EXPERIMENTS)
    assert "expected the name of a phase, and --evaluate beside it" in message


def test_extend():
    assert parse("--extend")[1] == flags.Arguments("runs/x", "small", False, extend=True)


def test_ignore_removed():
    assert parse("--ignore-removed")[1] == flags.Arguments("runs/x", "small", False, ignore_removed=True)


def test_evaluate_passes_over_what_was_removed_if_told_so(tmp_path, caplog):
    write_config(tmp_path, count=7, model={"widths": [3], "names": ["z"]}, size=1)
    config, _ = parse("--evaluate", "--ignore-removed", f"--workdir={tmp_path}", presets=EXPERIMENTS)
    assert config == Experiment(7, 0.1, Inner(names=("z",)))
    assert (
        "config.json has config.model.widths = [3], config.size = 1, which this version does not have: passed over."
        in caplog.text
    )


@pytest.mark.parametrize(
    ("value", "argument"),
    [
        (3, "--config.x=3"),
        (1e-5, "--config.x=1e-05"),
        (False, "--config.x=false"),
        ([3, 4], "--config.x=3,4"),
        ("img||txt", "'--config.x=img||txt'"),
        ("", "--config.x="),
        (None, ""),
        ([], ""),
        ({"a": 1}, ""),
    ],
    ids=str,
)
def test_the_argument_that_sets_a_field(value, argument):
    assert flags.argument("config.x", value) == argument
    assert flags.argument("data_sha256", value) == ""


@pytest.mark.parametrize("name", [name for name, _ in leaves(Config())])
def test_the_argument_that_sets_a_field_is_read_as_it_was_meant(name):
    value = flags.value_of(Config(300, 1e-5, False, "a place", (7,), Inner((0.1,), ("c",))), name)
    argument = shlex.split(flags.argument(f"config.{name}", json.loads(json.dumps(value))))
    assert flags.value_of(parse(*argument)[0], name) == value


def test_evaluate_starts_from_the_config_of_the_workdir(tmp_path):
    write_config(tmp_path, count=7, model={"rates": [1.0], "names": ["z"]})  # by a version that knew no rate
    config, arguments = parse("--evaluate", f"--workdir={tmp_path}", "--config.model.names=x,y", presets=EXPERIMENTS)
    assert config == Experiment(7, 0.1, Inner((1.0,), ("x", "y")))
    assert arguments == flags.Arguments(str(tmp_path), "small", False, evaluate=True)


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        (None, [], "config.json does not exist; expected the workdir of a run."),
        (
            {"model": {}, "size": 1},
            [],
            "config.json has config.size = 1, which this version does not have: go on with the version that began",
        ),
        ({"model": {"widths": [3]}}, [], "config.json has config.model.widths = [3], which this version does not have"),
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
        *(
            (arguments, f"--config.{name} has no value; expected {expected}: write --config.{name}={example}.")
            for name, expected, example in (
                ("count", "a whole number", 3),
                ("flag", "true or false", "true"),
                ("path", "a word", "here"),
                ("inner.rates", "finite numbers, separated by commas", "0.5,0.25"),
            )
            for arguments in (
                [f"--config.{name}"],
                [f"--config.{name}", "4"],
                [f"--config.{name}", "-1"],
                [f"--config.{name}", f"--config.{name}=4"],
                [f"-config.{name}", "--dry-run"],
                [f"--config.{name}", "4", "--evaluate", "--workdir=/no/such/folder"],
            )
        ),
        (["--config.cuont"], "there is no field --config.cuont; did you mean --config.count?"),
        (
            ["config.count=4"],
            "unexpected argument 'config.count=4'; settings are written --config.field=value, and flags --flag=value.",
        ),
        (
            ["count=4"],
            "unexpected argument 'count=4'; settings are written --config.field=value, and flags --flag=value.",
        ),
        (["--count=4"], "there is no flag --count=4; did you mean --config.count?"),
        (["--inner.names=a"], "there is no flag --inner.names=a; did you mean --config.inner.names?"),
        (["--rates", "4"], "there is no flag --rates; did you mean --config.inner.rates?"),
        (["--config.rates=4"], "there is no field --config.rates; did you mean --config.inner.rates?"),
        (
            ["--config=x.py"],
            "there is no flag --config=x.py; settings are written one by one, such as --config.count=VALUE.",
        ),
        (["--noconfig.flag"], "there is no flag --noconfig.flag; did you mean --config.flag?"),
        (["--no-config.flag"], "there is no flag --no-config.flag; did you mean --config.flag?"),
        (
            ["---workdir=a"],
            "unexpected argument '---workdir=a'; settings are written --config.field=value, and flags --flag=value.",
        ),
        (["--process", "-1"], "--processes and --process need --coordinator=HOST:PORT, the address of process 0."),
        (["--presett=large"], "there is no flag --presett=large; did you mean --preset?"),
        (["-preste", "large"], "there is no flag -preste; did you mean --preset?"),
        (["--dry-rnu"], "there is no flag --dry-rnu; did you mean --dry-run?"),
        (["--ignore_removd"], "there is no flag --ignore_removd; did you mean --ignore-removed?"),
        (["--xyz=4"], "there is no flag --xyz=4; --help lists every flag."),
        *(
            (arguments, f"{name} has no value; expected {expected}: write {name}={example}.")
            for name, expected, example in (
                ("--workdir", "a folder", "runs/x"),
                ("--preset", "one of small, large", "small"),
                ("--phase", "the name of a phase", "VALUE"),
                ("--coordinator", "HOST:PORT", "VALUE"),
                ("--processes", "a whole number", "1"),
                ("--process", "a whole number", "0"),
            )
            for arguments in ([name], [name[1:]], [name, "--dry-run"])
        ),
        *(
            ([f"{name}={text}"], f"{name} is {text!r}; expected {expected}.")
            for name, texts, expected in (
                ("--preset", ["lrage", ""], "one of small, large"),
                ("--help", ["most"], "one of chosen, all"),
                ("--processes", ["two", "1.5", ""], "a whole number"),
                ("--dry-run", ["maybe", "2", ""], "true or false; --dry-run alone is true"),
                ("--verbose", ["ja"], "true or false; --verbose alone is true"),
                ("--no-dry-run", ["true", ""], "no value: write --no-dry-run alone"),
            )
            for text in texts
        ),
        (["--preset", "lrage"], "--preset is 'lrage'; expected one of small, large."),
        (["--dry_run=maybe"], "--dry-run is 'maybe'; expected true or false; --dry-run alone is true."),
        (
            ["--dry-run", "maybe"],
            "unexpected argument 'maybe'; settings are written --config.field=value, and flags --flag=value.",
        ),
        (["--noworkdir"], "there is no flag --noworkdir; did you mean --workdir?"),
        (["--flagfile=x"], "there is no flag --flagfile=x; did you mean --config.flag?"),
        (["--undefok=x", "--x=1"], "there is no flag --undefok=x; --help lists every flag."),
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
    ("arguments", "name"),
    [
        (["--config.data.csv", "list.csv", "--config.data.source=/own"], "data.csv"),
        (["--config.data.csv=list.csv", "--config.data.source", "/own"], "data.source"),
    ],
)
def test_what_has_no_value_is_told_before_what_follows_from_it(capsys, arguments, name):
    with pytest.raises(SystemExit):
        flags.parse(["x.py", *arguments], MULTIMODAL.presets, workdir="runs/x", description="", data=MULTIMODAL.data)
    assert f"error: --config.{name} has no value; expected a word" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.latent_sise=64", "did you mean --config.model.latent_size?"),
        (
            "epochs=3",
            "did you mean --config.model.unimodal.epochs or --config.model.alignment.epochs or "
            "--config.model.adversarial.epochs?",
        ),
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
    assert message in refused(capsys, f"--config.{setting}", presets=MULTIMODAL.presets)


# --- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("presets", "preset"),
    [(PRESETS, "small"), (PRESETS, "large"), *((MULTIMODAL.presets, name) for name in MULTIMODAL.presets)],
    ids=["small", "large", *MULTIMODAL.presets],
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
        "ignore-removed=False",
        "evaluate=False",
        "help",
    ):
        assert f"  --{flag}" in lines
    for name, value in leaves(presets[preset]):
        line = lines.index(f"  --config.{name}={value!r}  [{type(value).__name__}]")
        assert lines[line + 1].startswith("      ")
        assert len(lines[line + 1].split()) >= 1
    assert sum(line.startswith("  --config.") for line in lines) == len(list(leaves(presets[preset])))
