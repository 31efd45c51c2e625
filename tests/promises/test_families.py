"""Experiments of every family are killed while they train and measure; the same command goes on, to the same bits."""

import signal

import pytest
import test_attribute_classifier
import test_attribute_cvae
import test_celeba_vae
import test_celeba_vaegan
import test_celebahq_mvae
import test_disentanglement
import test_mnist_alae
import test_multimodal_family
import test_stylealae
from forked import server
from whole import check_same

pytestmark = [pytest.mark.promise, pytest.mark.slow]  # trains whole experiments

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
    "multimodal_family": [*test_multimodal_family.TINY, "--config.hidden=0.5", "--config.model.epochs=3"],
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    test_stylealae.write_faces(folder / "photos")
    return folder


@pytest.fixture(scope="module")
def run(folder):
    with server(folder) as run:
        yield run


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_killed_experiment_goes_on_to_the_same_bits(run, folder, promise, name):
    whole, killed, broken = folder / f"{name}_whole", folder / f"{name}_killed", []
    command = (name, *EXPERIMENTS[name], *SAVING)
    answer = run(*command, f"--workdir={whole}")
    assert answer["status"] == 0, answer["err"]
    for point in POINTS:
        answer = run(*command, f"--workdir={killed}", points=[point])
        assert answer["status"] == -signal.SIGKILL, f"{point} was not reached: {answer['err']}"
    answer = run(*command, f"--workdir={killed}")
    try:
        assert answer["status"] == 0, answer["err"]
        check_same(killed, whole)
    except AssertionError as error:
        broken = [str(error)] * len(POINTS)
    promise(f"kills, {name}", len(POINTS), broken)
