"""Learned priors of trained runs: of which codes they are, where they lie, when they are refused."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
import zoo
from PIL import Image

from mvae_jax import images, runs
from mvae_jax.data import pyramid
from mvae_jax.data.pyramid.dataset import PyramidData
from mvae_jax.experiment import Member, listing, members, prior
from mvae_jax.experiment.suites import priors
from mvae_jax.train import loop
from mvae_jax.train.workdir import Workdir

CONFIG = prior.Config(epochs=3)
FACES = zoo.small_faces(40)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A VAE, a CVAE, an ALAE and a GAN, of which the last has no codes."""
    folder = tmp_path_factory.mktemp("prior")
    runs.train(folder / "vae", "vae", zoo.VAE, {"image": FACES["image"]})
    runs.train(folder / "cvae", "cvae", zoo.CVAE, zoo.faces(24, zoo.CVAE.image_size))
    runs.train(folder / "alae", "alae", zoo.ALAE, {"image": zoo.tiny_faces(24)["image"]})
    runs.train(folder / "gan", "gan", zoo.GAN, {"image": zoo.tiny_faces(24)["image"]})
    return folder


def test_codes_are_the_posteriors_of_all_images(workdir):
    run, data = runs.load(workdir / "vae"), runs.split({"image": FACES["image"]})
    codes = prior.encode(workdir / "vae", run, data)
    for name in ("train", "validation"):
        split = dict(codes)[name]
        mean, logvar = run.encode(images.to_float(dict(data)[name]["image"]))
        np.testing.assert_allclose(split["code"], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(split["deviation"], np.exp(logvar / 2), rtol=1e-4, atol=1e-5)
    assert len(codes.calibration) == 0
    assert set(prior.encode(workdir / "vae", run, data, "means").train.arrays) == {"code"}


def test_images_that_are_missing_have_no_codes(workdir):
    run, there = runs.load(workdir / "vae"), np.arange(40) % 4 > 0
    data = runs.split({"image": FACES["image"], "present/image": there.astype(np.float32)})
    codes = prior.encode(workdir / "vae", run, data)
    assert len(codes.train) + len(codes.validation) == 30
    mean, _ = run.encode(images.to_float(data.train["image"][data.train.present("image")]))
    np.testing.assert_allclose(codes.train["code"], mean, rtol=1e-4, atol=1e-5)


def test_codes_say_which_of_them_have_no_attributes(workdir):
    run, there = runs.load(workdir / "vae"), np.float32(np.arange(40) % 2)
    data = runs.split({**FACES, "present/attributes": there}, zoo.CVAE.attributes)
    codes = prior.encode(workdir / "vae", run, data)
    for name in ("attributes", "present/attributes"):
        np.testing.assert_array_equal(codes.train[name], data.train[name])
    assert 0 < codes.train["present/attributes"].mean() < 1


def test_a_deterministic_encoder_has_no_deviations(workdir):
    run, data = runs.load(workdir / "alae"), runs.split({"image": zoo.tiny_faces(24)["image"]})
    codes = prior.encode(workdir / "alae", run, data)
    assert set(codes.train.arrays) == {"code"}
    np.testing.assert_allclose(codes.train["code"], run.encode(images.to_float(data.train["image"])).mean, atol=1e-5)


def test_images_of_a_pyramid_have_codes(workdir, tmp_path):
    """It has no split for thresholds, and its images are on the disk."""
    for number, image in enumerate(zoo.tiny_faces(10)["image"]):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    pyramid.prepare(tmp_path, tmp_path / "pyramid", pyramid.Settings(image_size=8, validation_fraction=0.2))
    data = PyramidData.of(pyramid.load(tmp_path / "pyramid"), 8, held_out=1)
    run = runs.load(workdir / "alae")
    codes = prior.encode(workdir / "alae", run, data)
    assert [len(split) for _, split in codes] == [8, 2, 0]
    there = data.examples("train", 8).take(np.arange(8))["image"]
    np.testing.assert_allclose(codes.train["code"], run.encode(images.to_float(there)).mean, rtol=1e-4, atol=1e-5)


def test_of_a_run_that_saw_a_part_of_the_data_it_learns_that_part(tmp_path):
    each_its_own = np.float32(np.arange(40)[:, None] >> np.arange(6) & 1)
    data = runs.split({**FACES, "attributes": each_its_own}, zoo.CVAE.attributes[:6])
    half = Member("vae", zoo.VAE, 3, hidden={"attributes": 0.5})
    members.train_in_folder(half, members.plan({"": half}, data, loop.Settings())[""], data, tmp_path)
    learned = prior.train(tmp_path, data, CONFIG)
    kept = np.unique(learned.run.model_state["flow"]["attributes"], axis=0)
    seen = half.seen(data).train
    np.testing.assert_array_equal(kept, np.unique(seen["attributes"][seen.present("attributes")], axis=0))
    assert len(kept) == len(seen) // 2


def test_a_prior_is_trained_once_and_draws_codes_that_the_run_decodes(workdir):
    data = {"image": FACES["image"]}
    run, trained = runs.load(workdir / "vae"), prior.train(workdir / "vae", data, CONFIG)
    found = prior.load(workdir / "vae", run)
    assert found.run.step == trained.run.step == 3 * (36 // 36)
    codes = trained.sample_freely(jax.random.key(0), 5)
    np.testing.assert_array_equal(codes, found.sample_freely(jax.random.key(0), 5))
    assert run.decode(codes).shape == (5, 16, 16, 3)
    metrics = prior.folder_of(workdir / "vae", run) / "metrics.jsonl"
    before = metrics.read_text()
    prior.train(workdir / "vae", data, CONFIG)
    assert metrics.read_text() == before


def test_a_prior_that_an_earlier_version_began_goes_on_without_rows(workdir, tmp_path):
    folder = shutil.copytree(workdir / "cvae", tmp_path / "cvae", ignore=shutil.ignore_patterns("latent_flow"))
    data, run = zoo.faces(24, zoo.CVAE.image_size), runs.load(folder)
    codes = prior.encode(folder, run, runs.split(data, zoo.CVAE.attributes))
    earlier = prior.member(codes, CONFIG, 42)
    earlier = dataclasses.replace(earlier, config=dataclasses.replace(earlier.config, attribute_rows=0))
    Workdir(prior.folder_of(folder, run)).configure(earlier.settings(codes))
    assert prior.train(folder, data, CONFIG).run.config.attribute_rows == 0
    assert prior.train(workdir / "cvae", data, CONFIG).run.config.attribute_rows == 1000


def test_a_conditional_model_is_asked_with_attributes(workdir):
    data = zoo.faces(24, zoo.CVAE.image_size)
    trained = prior.train(workdir / "cvae", data, CONFIG)
    assert trained.run.config.attributes == zoo.CVAE.attributes
    rows = np.ones((3, 10), np.float32)
    run = runs.load(workdir / "cvae")
    assert run.decode(trained.sample(jax.random.key(0), rows, rows), rows).shape == (3, 18, 14, 3)


def test_another_checkpoint_and_another_run_never_draw_by_it(workdir, tmp_path):
    run = runs.load(workdir / "vae")
    prior.train(workdir / "vae", {"image": FACES["image"]}, CONFIG)
    assert prior.load(workdir / "vae", dataclasses.replace(run, step=run.step + 1)) is None
    other = runs.train(tmp_path / "other", "vae", zoo.VAE, {"image": FACES["image"]}, seed=1)
    shutil.copytree(workdir / "vae" / prior.FOLDER, tmp_path / "other" / prior.FOLDER)
    with pytest.raises(ValueError, match="was not learned from the codes of this run's checkpoint of phase training"):
        prior.load(tmp_path / "other", other)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("gan", {"image": zoo.tiny_faces(24)["image"]}, "'gan', which has no codes to learn a prior over"),
        ("alae", {"image": zoo.tiny_faces(30)["image"]}, "was trained on other images than these"),
    ],
)
def test_runs_without_codes_and_other_images_are_refused(workdir, name, data, message):
    with pytest.raises(ValueError, match=message):
        prior.train(workdir / name, data, CONFIG)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": -1}, "prior.epochs is -1; expected at least 0"),
        ({"codes": "modes"}, "choose one of 'draws', 'means'"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        prior.Config(**changes)


@pytest.mark.parametrize("name", ["celebahq_mvae", "celeba_vae", "celeba_vaegan", "attribute_cvae", "stylealae"])
def test_experiments_that_learn_priors_measure_and_draw_them(name):
    experiment = listing.load(name)
    assert all(isinstance(config.prior, prior.Config) for config in experiment.presets.values())
    assert [measure.name for measure in experiment.measures].count("priors") == 1
    assert [figures.__module__ for figures in experiment.figures].count(priors.__name__) == 1
