"""Runs of earlier versions go on with this one, to what that version would have reached, or one sentence says why not.

`earlier_versions.py` has made them with the code of that time. Parameters are compared within the rounding of few
steps: bits depend on the processor and on the version of JAX, and losses are written otherwise now.
"""

import dataclasses
import json
import re
import shlex
import shutil

import numpy as np
import pytest
from earlier_versions import COMMANDS, FOLDER, IMAGES, MEMBERS, SCRIPTS, SEED, bare, flat

from mvae_jax import experiment, fields, runs
from mvae_jax.experiment import flags, listing, runner
from mvae_jax.models import ZOO
from mvae_jax.train.workdir import Workdir

VERSIONS = sorted(path.name for path in FOLDER.iterdir())
RUNS = sorted(
    (path.parent.parent.name, path.parent.name) for path in FOLDER.glob("*/*/end.npz") if path.parent.name in SCRIPTS
)
COMMAND_RUNS = sorted(
    (path.parent.parent.name, path.parent.name) for path in FOLDER.glob("*/*/end.npz") if path.parent.name in COMMANDS
)


def test_there_are_fixtures():
    assert {"c8aaa55", "c786de0", "e265df5"} <= set(VERSIONS)
    assert {("c8aaa55", "vae"), ("c8aaa55", "bigan"), ("c8aaa55", "latent_regressor")} <= set(RUNS)
    assert {("c8aaa55", "mnist_alae")} <= set(COMMAND_RUNS)


# What a script has to say that said nothing when the run began; and what no setting makes as it was.
SAID = {
    ("c8aaa55", "bigan"): {"mean_errors": False, "norm_epsilon": 1e-5, "squash_codes": False},
    ("c8aaa55", "latent_regressor"): {"mean_errors": False, "norm_epsilon": 1e-5},
}
UNLIKE = {("c8aaa55", "latent_regressor"): ("encoder's running statistics were of generated images", "1/encoder/")}


@pytest.mark.parametrize(("version", "model"), RUNS)
def test_a_run_goes_on_to_what_its_version_would_have_reached(version, model, tmp_path, caplog):
    folder = shutil.copytree(FOLDER / version / model / "run", tmp_path / "run")
    begun = runs.load(folder)
    said = SAID.get((version, model), {})
    arguments = model, ZOO[model].config(**SCRIPTS[model]), {"image": IMAGES}
    if said:  # the same script is refused: it would go on with another model
        content = (folder / "config.json").read_bytes()
        with pytest.raises(ValueError, match="holds a run with other settings") as error:
            runs.train(folder, *arguments, seed=SEED)
        assert str(error.value).splitlines()[1:-1] == [
            f"  config.model.{name}: {json.dumps(value)} before (which config.json does not say), "
            f"{json.dumps(getattr(arguments[1], name))} now"
            for name, value in said.items()
        ]
        assert (folder / "config.json").read_bytes() == content
        arguments = model, dataclasses.replace(arguments[1], **said), {"image": IMAGES}
    assert begun.config == arguments[1]
    run = runs.train(folder, *arguments, seed=SEED)
    assert 4 <= begun.step < run.step == 8  # of two epochs
    sentence, changed = UNLIKE.get((version, model), ("", None))
    assert ("not to the bits of the version that began it" in caplog.text) == bool(sentence)
    assert sentence in caplog.text
    compare(folder, FOLDER / version / model, changed)
    assert json.loads((folder / "config.json").read_text())["config"]["model"].keys() == {
        field.name for field in dataclasses.fields(arguments[1])
    }


def compare(folder, fixture, changed=None):
    """That a run has ended with the arrays of a fixture; those below a path, if one is given, are others."""
    run = runs.load(folder)
    got = flat(run.params, run.model_state)
    with np.load(fixture / "end.npz") as expected:
        assert got.keys() == set(expected)
        differing = {name for name, value in expected.items() if not np.allclose(got[name], value, 1e-4, 1e-6)}
    allowed = {name for name in differing if changed and name.startswith(changed)}
    assert differing == allowed
    assert bool(allowed) == bool(changed)


NAMED = {
    **{
        (version, "mnist_alae", preset): ["--config.baseline_mean_errors=false", *earlier]
        for version, earlier in (
            ("c8aaa55", ["--config.baseline_norm_epsilon=1e-05"]),
            ("c786de0", []),
            ("e265df5", []),
        )
        for preset in ("laptop", "paper")
    },
    **{
        (version, name, preset): arguments
        for version in ("c8aaa55", "c786de0")
        for name, preset, arguments in (
            ("celeba_vae", "laptop", ["--config.autoencoder_output=linear"]),
            ("celeba_vae", "paper", ["--config.autoencoder_output=linear"]),
            ("celebahq_mvae", "paper", ["--config.model.penalise_text_errors=false"]),
            ("celebahq_mvae", "reference", ["--config.model.released_averages=false"]),
        )
    },
}


def named_in(text):
    """Arguments that a refusal names."""
    return shlex.split(re.search(r"Continue it with the settings it started with \((.*)\), or choose", text)[1])


@pytest.mark.parametrize(("version", "name"), COMMAND_RUNS)
def test_an_experiment_goes_on_by_its_command_and_the_arguments_that_are_named(version, name, tmp_path, capsys):
    folder = shutil.copytree(FOLDER / version / name / "run", tmp_path / "run")

    def run(*arguments):
        status = 0
        try:
            argv = [f"experiments/{name}.py", *COMMANDS[name], f"--workdir={folder}", *arguments]
            experiment.run(bare(listing.load(name)), argv)
        except SystemExit as end:
            status = end.code
        return status, capsys.readouterr().err

    named = NAMED.get((version, name, "laptop"), [])
    if named:
        status, err = run()
        assert (status, named_in(err)) == (2, named)
    status, err = run(*named)
    assert status == 0, err
    assert (folder / "finished.json").exists()
    compare(folder / MEMBERS[name], FOLDER / version / name)
    assert run("--evaluate")[0] == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_every_preset_goes_on_by_its_command_and_the_arguments_that_are_named(version, tmp_path):
    presets = [
        (name, preset, values)
        for name, presets in json.loads((FOLDER / version / "settings.json").read_text())["experiments"].items()
        for preset, values in presets.items()
    ]
    assert len(presets) >= 20
    for name, preset, values in presets:
        declared, workdir = listing.load(name), Workdir(tmp_path / name / preset)
        content = {"format": 2, "experiment": name, "model": declared.model, "data_sha256": "0"}
        (workdir.path / "config.json").write_text(json.dumps({**content, "config": values}))
        begun, config = flags.config_of(workdir.path, declared.presets[preset]), declared.presets[preset]

        def configure(config, workdir=workdir, content=content, declared=declared):
            workdir.configure(
                {**content, "config": dataclasses.asdict(config)},
                configs={"config": config},
                may_change=(*runner.MAY_CHANGE, *declared.may_change),
                flag=flags.argument,
            )

        named = NAMED.get((version, name, preset), [])
        if named:
            with pytest.raises(ValueError, match="holds a run with other settings") as error:
                configure(config)
            assert named_in(str(error.value)) == named
            pairs = (argument.removeprefix("--config.").split("=", 1) for argument in named)
            config = flags._override(config, dict(pairs))
        configure(config)
        assert begun.model == config.model
        assert flags.config_of(workdir.path, config) == config


BIGAN_FAMILY = ("bigan", "latent_regressor", "joint_latent_regressor")
SUMS = {"mean_errors": False}
CHANGED = {
    **{(version, name): SUMS for version in ("c786de0", "e265df5") for name in BIGAN_FAMILY},
    **{("c8aaa55", name): {"norm_epsilon": 1e-5, **SUMS} for name in BIGAN_FAMILY[1:]},
    ("c8aaa55", "bigan"): {"norm_epsilon": 1e-5, "squash_codes": False, **SUMS},
    **{(version, "autoencoder"): {"output": "linear"} for version in ("c8aaa55", "c786de0")},
}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_model_is_as_it_was(version):
    models = json.loads((FOLDER / version / "settings.json").read_text())["models"]
    assert len(models) >= 14
    for name, values in models.items():
        default = ZOO[name].config()
        began_with = runs.rebuild(default, fields.as_now(default, values, file=name, name="config"))
        assert began_with == dataclasses.replace(default, **CHANGED.get((version, name), {}))
