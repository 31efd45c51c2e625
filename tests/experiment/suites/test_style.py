"""What is measured and drawn of a StyleALAE, on models that were not trained."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax import runs
from mvae_jax.data.batches import Split, Splits
from mvae_jax.eval import directions
from mvae_jax.eval.batched import to_bytes
from mvae_jax.eval.cross_modal import score_attributes
from mvae_jax.eval.stability import assess_stability
from mvae_jax.experiment import Classifier, Trained
from mvae_jax.experiment.suites import style as suite
from mvae_jax.models import attribute_classifier
from mvae_jax.models.alae import style as style_alae

CONFIG = style_alae.Config(
    image_size=8, latent_size=8, first_width=4, most_width=6, mapping_layers=2, batch_sizes=(8,), fade_images=24
)


def split(count, seed):
    draws = np.random.default_rng(seed)
    return Split(
        {
            "image": draws.integers(0, 256, (count, 8, 8, 3), np.uint8),
            "attributes": draws.integers(0, 2, (count, 1)).astype(np.float32),
        }
    )


DATA = Splits(split(32, 0), split(16, 1), split(0, 2), ("bright",), {})
X = DATA.validation["image"] / np.float32(127.5) - 1


def untrained(module, config, phase):
    model = module.build(config)
    params, state = jax.jit(model.init)(jax.random.key(0), DATA.train.first(2).arrays)
    return runs.Run(model, config, params, state, phase, 0, {"model": module.__name__.split(".")[-1]})


@pytest.fixture(scope="module")
def run():
    return untrained(style_alae, CONFIG, "stabilise_8")


@pytest.fixture(scope="module")
def classifier():
    config = attribute_classifier.Config(attributes=("bright",), image_size=8, widths=(4, 4))
    scores = score_attributes([[1.0], [-1.0], [1.0], [1.0]], [[1], [0], [1], [0]], ("bright",))
    return Classifier(untrained(attribute_classifier, config, "training"), scores)


def evaluator(run, classifier=None, extractors=(), perceived=None, **settings):
    return suite.Evaluator(run, DATA, classifier, extractors, perceived, suite.Evaluation(images=16, **settings), 42)


def trained(run, classifier=None, records=()):
    config = types.SimpleNamespace(seed=42, evaluation=suite.Evaluation(images=16, path_pairs=2, path_seeds=1))
    of_run = {suite.FOLDER: run}
    return Trained(config, of_run, DATA, classifier, {suite.FOLDER: records}, {suite.FOLDER: {run.phase: run}})


def test_the_model_has_its_papers_name():
    assert [suite.title_of(folder) for folder in (suite.FOLDER, "fade_8")] == ["StyleALAE", "fade 8"]


def test_directions_are_read_from_labelled_samples(run):
    """By a classifier of how bright an image is: latents along the direction draw brighter images."""
    draws = evaluator(run, direction_images=200)
    assert draws.directions() == {}
    z = draws.latents(draws.keys(3, 200))
    pictures = run.draw(jnp.repeat(run.map(z)[:, None], 4, 1), draws.keys(4, 200)).clip(-1, 1)
    bright = np.asarray(pictures.mean((1, 2, 3)))

    class Brightness:
        def logits(self, x):
            return (x.mean((1, 2, 3)) - np.median(bright))[:, None]

    (direction,) = dataclasses.replace(draws, classifier=Brightness()).directions().values()
    labels = bright > np.median(bright)
    expected = directions.svm_directions(np.asarray(run.map(z)), labels[:, None], ("bright",))["bright"]
    np.testing.assert_allclose(direction, expected, atol=1e-4)


def test_edits_move_along_directions(run):
    rows = suite.edited(run, X[:1], {"smile": np.ones(8, np.float32)}, 2.0)
    w = run.encode(X[:1])[0] + jnp.linspace(-2, 2, 7)[:, None]
    expected = to_bytes(run.decode(jnp.repeat(w[:, None], 4, 1)))
    np.testing.assert_allclose(np.asarray(rows["smile"], int), np.asarray(expected, int), atol=1)
    many = {str(n): np.eye(8, dtype=np.float32)[n % 8] for n in range(12)}
    assert list(suite.edited(run, X[:1], many, 1.0)) == [str(n) for n in range(9)]


def test_a_model_that_grows_is_measured_at_its_resolution(run, classifier):
    """Images of 4 pixels are enlarged for the classifier, which reads 8."""
    small = dataclasses.replace(run, phase="stabilise_4")
    measured = evaluator(small, classifier, perceived=suite.ClassifierDistance(classifier), path_pairs=2, path_seeds=1)
    shapes = {pictures.shape for pictures in (measured.held_out, measured.samples, measured.reconstructions)}
    assert (measured.size, shapes) == (4, {(16, 4, 4, 3)})
    np.testing.assert_allclose(measured.held_out, X.reshape(16, 4, 2, 4, 2, 3).mean((2, 4)), atol=1e-6)
    features = [
        np.asarray(classifier.run.features(jnp.repeat(jnp.repeat(pictures, 2, 1), 2, 2)))
        for pictures in (measured.held_out, measured.reconstructions)
    ]
    numbers = measured.of_reconstructions()
    expected = np.square(features[0] - features[1]).sum(1).mean()
    assert numbers["perceptual_distance"] == pytest.approx(expected, rel=1e-3)
    assert "ssim" not in numbers
    assert list(measured.path_lengths()) == ["z_full", "z_end", "w_full", "w_end"]


def test_speeds_are_those_of_the_phase(run):
    speeds = [
        {"split": "speed", "phase": phase, "images_per_second": speed}
        for phase, speed in (("stabilise_8", 1.0), ("stabilise_8", 2.06), ("fade_8", 3.0))
    ]
    row = evaluator(run).of_stage(run, speeds)
    assert row == {"step": 0, "batch_size": 8, "images_per_second": 2.1}
    assert evaluator(run).of_stage(run, [])["images_per_second"] is None


def test_measures_and_figures_share_an_evaluator(run, classifier):
    of_run = trained(run, classifier)
    result = suite.quality(of_run)
    assert (result.images, [features.accuracy for features in result.features]) == (16, [0.75])
    assert result.samples["classifier_accuracy"] == result.reconstructions["classifier_accuracy"] == 0.75
    (problem,) = result.problems
    assert problem.startswith("The Frechet distance compares 8 images in 128 features")
    (row,) = suite.growth(of_run).values()
    assert row["frechet_distance_of_samples"] == result.samples["frechet_distance"]
    assert suite.evaluator(of_run) is suite.evaluator(of_run)
    assert suite.evaluator(of_run).run is run
    other = trained(dataclasses.replace(run, phase="stabilise_4"))
    assert suite.evaluator(other).size == 4
    assert list(suite.pictures(other, {}))[:3] == ["samples", "truncated", "reconstructions"]


def test_a_model_that_still_grows_is_noted(run):
    of_run = trained(run)
    signs = {
        "stability": assess_stability(X, X, []),
        "quality": suite.quality(of_run),
        "frechet_distances": suite.frechet_distances(of_run),
    }
    (problem,) = suite.problems(trained(run), signs)
    assert problem == "The model is still growing: it draws images of 8 px, as if the newest size were blended in."
    end = style_alae.phases(CONFIG, 1)[-1].end
    assert suite.problems(trained(dataclasses.replace(run, step=end)), signs) == []


def test_path_lengths_are_measured_in_float32(run):
    """Of a model that computes in bfloat16, whose parameters they are."""
    rows = []
    for dtype in ("float32", "bfloat16"):
        config = dataclasses.replace(CONFIG, compute_dtype=dtype)
        of_dtype = dataclasses.replace(run, config=config, model=style_alae.build(config))
        rows.append(evaluator(of_dtype, perceived=Squared(), path_pairs=4, path_seeds=1).path_lengths())
    for exact, low in zip(*(row.values() for row in rows), strict=True):
        assert low["mean"] == pytest.approx(exact["mean"], rel=1e-3)


class Squared:
    name, sha256 = "squared error", ()

    def __call__(self, a, b):
        return jnp.square(a - b).sum((1, 2, 3))


def test_styles_come_from_the_faces_above():
    """A generator whose picture is the mean of some layers' latents, and an encoder that reads the picture's mean."""

    class Run:
        def encode(self, x):
            return x.mean((1, 2)), None

        def decode(self, w):
            return jnp.broadcast_to(w[:, jnp.asarray([0, 4, 8])].mean(-1)[:, None, None], (len(w), 64, 64, 3))

    x = jnp.linspace(-1, 1, 8)[:, None, None, None] * jnp.ones((8, 64, 64, 3))
    rows = suite.mixed(Run(), x)
    assert list(rows) == ["styles of", *(f"{name} {n}" for name in ("coarse", "middle", "fine") for n in range(1, 5))]
    values = np.asarray(to_bytes(x))[:, 0, 0, 0]
    np.testing.assert_array_equal(rows["styles of"][1:, 0, 0, 0], values[:4])
    for part, name in enumerate(("coarse", "middle", "fine")):
        for n in range(4):
            row = rows[f"{name} {n + 1}"]
            assert row[0, 0, 0, 0] == values[4 + n]
            np.testing.assert_array_equal(row[1:, 0, 0, part], values[:4])
            np.testing.assert_array_equal(row[1:, 0, 0, (part + 1) % 3], values[4 + n])


def test_interpolations_lie_between_codes(run):
    rows = suite.interpolated(run, X[:8], steps=3)
    assert list(rows) == [f"pair {n}" for n in range(1, 5)]
    codes = run.encode(X[:2])[0]
    middle = run.decode(jnp.repeat(codes.mean(0)[None, None], 4, 1))
    assert rows["pair 1"].shape == (5, 8, 8, 3)
    np.testing.assert_allclose(np.asarray(rows["pair 1"][2], int), np.asarray(to_bytes(middle)[0], int), atol=1)


def test_growth_follows_each_latent_from_phase_to_phase():
    stages = {
        name: np.full((2, 4, 4, 3), 10 * n, np.uint8) + np.uint8([[[[0]]], [[[5]]]]) for n, name in enumerate("abc")
    }
    rows = suite.grown(stages)
    assert {label: row[:, 0, 0, 0].tolist() for label, row in rows.items()} == {
        "latent 1": [0, 10, 20],
        "latent 2": [5, 15, 25],
    }
