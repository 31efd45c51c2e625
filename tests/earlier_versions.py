"""Makes workdirs by which later versions show that they go on with runs of this one: `test_earlier_versions.py`.

    python tests/earlier_versions.py NAME vae alae

writes to `tests/earlier/NAME` the settings of all experiments and models, and for each model that is named a run that
was stopped after its first epoch, beside what it becomes at its end. Before a version is released its fixture is made
with itself. That of a commit is made by this file too, if the package of that commit is found first:

    git worktree add --detach ../then COMMIT
    PYTHONPATH=../then python tests/earlier_versions.py COMMIT vae alae mnist_alae

So it uses what all versions have.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from unittest import mock

import conftest  # noqa: F401  (the flags of XLA by which tests round)
import jax
import numpy as np

from mvae_jax import experiment, runs
from mvae_jax.experiment import listing
from mvae_jax.models import ZOO
from mvae_jax.train import loop
from mvae_jax.train.signals import Interrupted, Interruption

FOLDER = Path(__file__).parent / "earlier"
SEED = 3
OFTEN = loop.Settings(checkpoint_every=1, log_every=1)  # so that there is a step at which it can stop
IMAGES = (np.arange(40 * 16) ** 2 * 31 % 251).astype(np.uint8).reshape(40, 4, 4, 1)  # alike in all versions of NumPy
_SMALL = {"image_size": 4, "channels": 1, "latent_size": 2, "widths": (8,), "epochs": 2, "batch_size": 8}
# What a user's script says of its model, besides the defaults of the version.
SCRIPTS = {
    "vae": {**_SMALL, "network": "dense", "learning_rate": 1e-2},
    "autoencoder": {**_SMALL, "network": "dense", "learning_rate": 1e-2},
    "alae": {**_SMALL, "encoder_slopes": (0.2, 0.01), "generator_slopes": (0.01,), "mapping_layers": 2},
    "bigan": {**_SMALL, "widths": (8, 6), "decayed_epochs": 1},
    "latent_regressor": {**_SMALL, "widths": (8, 6), "decayed_epochs": 1},
}
# And what the command of an experiment says; of its models one is stopped.
_MODEL = ("widths=8", "encoder_slopes=0.2,0.01", "generator_slopes=0.01", "mapping_layers=2", "latent_size=2")
COMMANDS = {
    "mnist_alae": (
        *("--compilation-cache=", "--config.models=alae", "--config.seeds=0"),
        *(f"--config.model.{setting}" for setting in (*_MODEL, "epochs=2", "batch_size=500")),
    )
}
MEMBERS = {"mnist_alae": "alae/seed_0"}


def flat(*trees):
    """Path -> array of the leaves of trees, of one after another."""
    return {
        f"{number}/{jax.tree_util.keystr(path, simple=True, separator='/')}": np.asarray(leaf)
        for number, tree in enumerate(trees)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def stop(*_):
    """At the first validation, which is when the first epoch ends."""
    os.kill(os.getpid(), signal.SIGTERM)


def make_run(folder, model):
    """A run from Python, and the parameters and statistics with which it would have ended."""
    arguments = model, ZOO[model].config(**SCRIPTS[model]), {"image": IMAGES}
    with Interruption() as interruption, contextlib.suppress(Interrupted):
        options = {"settings": OFTEN, "interruption": interruption, "on_validation": stop}
        runs.train(folder / "run", *arguments, seed=SEED, **options)
        raise RuntimeError("the run was not stopped.")
    with tempfile.TemporaryDirectory() as whole:
        end = runs.train(whole, *arguments, seed=SEED)
    np.savez_compressed(folder / "end.npz", **flat(end.params, end.model_state))


def bare(declared):
    """An experiment that trains and measures nothing."""
    nothing = {"measures": (), "figures": (), "problems": lambda trained, results: ()}
    if hasattr(experiment, "Headline"):  # reports of the first versions have none
        nothing["headline"] = lambda trained, results: experiment.Headline()
    return dataclasses.replace(declared, **nothing)


def make_experiment(folder, name):
    """The same of an experiment from the command line."""
    fit = runs.Plan.fit

    def stopped(plan, workdir, **options):
        return fit(plan, workdir, **{**options, "on_validation": stop})

    def run(workdir, *more):
        argv = [f"experiments/{name}.py", *COMMANDS[name], f"--workdir={workdir}", *more]
        experiment.run(bare(listing.load(name)), argv)

    often = (f"--config.training.{setting}_every=1" for setting in ("checkpoint", "log"))
    with contextlib.suppress(Interrupted), mock.patch.object(runs.Plan, "fit", stopped):
        run(folder / "run", *often)
        raise RuntimeError("the run was not stopped.")
    with tempfile.TemporaryDirectory() as whole:
        run(whole)
        end = runs.load(Path(whole) / MEMBERS[name])
    np.savez_compressed(folder / "end.npz", **flat(end.params, end.model_state))


def settings():
    """Settings of all presets, as config.json has them, and defaults of all models."""
    experiments = {
        name: {preset: dataclasses.asdict(config) for preset, config in listing.load(name).presets.items()}
        for name in listing.names()
    }
    return {"experiments": experiments, "models": {name: dataclasses.asdict(ZOO[name].config()) for name in ZOO}}


def main(name, *chosen):
    """Writes the fixture of a name."""
    with tempfile.TemporaryDirectory() as made:  # Orbax notes where it was
        folder = Path(made) / name
        for each in chosen:
            (folder / each).mkdir(parents=True)
            (make_experiment if each in COMMANDS else make_run)(folder / each, each)
        for path in [*folder.rglob("events.*"), *folder.rglob("lock")]:  # of TensorBoard, by the name of the host
            path.unlink()
        for path in folder.rglob("checkpoints/*"):  # the newest is enough
            for older in sorted(path.iterdir(), key=lambda step: int(step.name))[:-1]:
                shutil.rmtree(older)
        lines = json.dumps(settings(), sort_keys=True, separators=(",", ":"))
        (folder / "settings.json").write_text(lines + "\n")
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        shutil.copytree(folder, FOLDER / name)


if __name__ == "__main__":
    main(*sys.argv[1:])
