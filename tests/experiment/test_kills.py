"""Experiments of every family are killed while they train and measure; the same command goes on, to the same bits."""

import json
import signal

import jax
import numpy as np
import pytest
import test_attribute_classifier
import test_attribute_cvae
import test_celeba_vae
import test_celeba_vaegan
import test_celebahq_mvae
import test_disentanglement
import test_mnist_alae
import test_stylealae
from forked import server

from mvae_jax.train.checkpoint import Checkpoints
from mvae_jax.train.logging import read_metrics

pytestmark = pytest.mark.slow  # trains whole experiments

EXPERIMENTS = {
    "attribute_classifier": [*test_attribute_classifier.DATA, *test_attribute_classifier.SMALL],
    "attribute_cvae": [
        *test_attribute_cvae.TINY,
        *test_attribute_cvae.FACES,
        "--config.betas=0.25",
        "--config.model.epochs=3",
    ],
    "celeba_vae": test_celeba_vae.TINY[1:],
    "celeba_vaegan": [*test_celeba_vaegan.TINY, "--config.models=vae_gan"],
    "celebahq_mvae": test_celebahq_mvae.TINY,
    "disentanglement": [*test_disentanglement.TINY, "--config.model.image_size=16", "--config.seeds=3"],
    "mnist_alae": test_mnist_alae.DIGITS,
    "stylealae": [*test_stylealae.TINY, "--config.classifier.epochs=1"],
}
SAVING = ["--config.training.checkpoint_every=2", "--config.training.steps_per_dispatch=1"]
# One start after the other dies here: with its first checkpoint; amid steps that are not saved, after those that were;
# before a later checkpoint counts; amid the report.
POINTS = [
    "mvae_jax.train.manifests:write after 1",
    "mvae_jax.train.dispatch:Dispatcher.send before 4",
    "mvae_jax.train.manifests:write before 2",
    "mvae_jax.experiment.pages:scores before 1",
]
OF_THE_LOG = ("gradient_norms", "images_per_second")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    test_stylealae.write_faces(folder / "photos")
    return folder


@pytest.fixture(scope="module")
def run(folder):
    with server(folder) as run:
        yield run


def states(workdir):
    """The state at the end of every phase of every model: {path: arrays by name}."""
    found = {}
    for path in sorted(workdir.rglob("checkpoints/*/*/manifest.json")):
        phase, step = path.parts[-3], int(path.parts[-2])
        with Checkpoints(path.parents[3], [phase]) as checkpoints:
            if checkpoints.metadata(phase, step)["final"]:
                state = checkpoints.restore(phase, step)
                found[str(path.parent.relative_to(workdir))] = {
                    jax.tree_util.keystr(name): np.asarray(leaf)
                    for name, leaf in jax.tree.leaves_with_path({**state, "key": jax.random.key_data(state["key"])})
                }
    return found


def validations(workdir):
    """What was measured while the models trained: {path: records}."""
    return {
        str(path.relative_to(workdir)): [line for line in read_metrics(path) if line["split"] == "validation"]
        for path in sorted(workdir.rglob("metrics.jsonl"))
    }


def scores(workdir):
    """Content of scores.json, without what comes from lines of the log, whose means begin anew with each start."""

    def timeless(value):
        if not isinstance(value, dict):
            return value
        return {key: timeless(entry) for key, entry in value.items() if key not in OF_THE_LOG}

    return timeless(json.loads((workdir / "scores.json").read_text()))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_killed_experiment_goes_on_to_the_same_bits(run, folder, name):
    whole, killed = folder / f"{name}_whole", folder / f"{name}_killed"
    command = (name, *EXPERIMENTS[name], *SAVING)
    answer = run(*command, f"--workdir={whole}")
    assert answer["status"] == 0, answer["err"]
    for point in POINTS:
        answer = run(*command, f"--workdir={killed}", points=[point])
        assert answer["status"] == -signal.SIGKILL, f"{point} was not reached: {answer['err']}"
    answer = run(*command, f"--workdir={killed}")
    assert answer["status"] == 0, answer["err"]

    expected, found = states(whole), states(killed)
    assert found.keys() == expected.keys() != set()
    for path, arrays in expected.items():
        assert found[path].keys() == arrays.keys()
        for leaf, array in arrays.items():
            np.testing.assert_array_equal(found[path][leaf], array, err_msg=f"{path} {leaf}")
    assert validations(killed) == validations(whole)
    assert scores(killed) == scores(whole)
