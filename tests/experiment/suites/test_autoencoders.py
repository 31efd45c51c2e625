"""Samples and sheets of autoencoders, on models that are written down."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax.data.batches import Split, Splits
from mvae_jax.eval import fid
from mvae_jax.eval.features import Features
from mvae_jax.experiment.suites import autoencoders as suite
from mvae_jax.viz import traversals

ORIGIN = Features("mean of each channel")


def encode(x):
    """The mean of each channel, on a scale of its own."""
    return 10 * x.mean((1, 2)) + 40


def decode(z):
    return jnp.broadcast_to((z[:, None, None] - 40) / 10, (len(z), 2, 2, 3))


@pytest.fixture
def trained():
    """An autoencoder and a model with a prior, which decode alike, and a classifier that sees what they decode."""
    generator = np.random.default_rng(0)
    shades = generator.integers(60, 160, (300, 1, 1, 3), np.uint8)
    arrays = {
        "image": np.broadcast_to(shades, (300, 2, 2, 3)),
        "attributes": (shades[:, 0, 0, :2] > 110).astype(np.float32),
    }
    data = Splits.cut(arrays, 200, 100, ("red", "green"), {})
    common = {"config": SimpleNamespace(latent_size=3), "decode": decode}
    runs = {
        "autoencoder": SimpleNamespace(
            **common, encode=lambda x: (encode(x), None), model=SimpleNamespace(sample=None)
        ),
        "vae": SimpleNamespace(
            **common, encode=lambda x: (-encode(x), jnp.zeros((len(x), 3))), model=SimpleNamespace(sample=1)
        ),
    }
    classifier = SimpleNamespace(features=lambda x: x.mean((1, 2)), origin=ORIGIN)
    settings = suite.Evaluation(posteriors=150, traversal_range=2.0, traversal_steps=3)
    config = SimpleNamespace(seed=3, evaluation=settings)
    return SimpleNamespace(runs=runs, data=data, classifier=classifier, config=config)


def test_an_autoencoder_draws_from_the_gaussian_of_its_codes_too(trained):
    drawn = suite.drawn_codes(trained.runs["autoencoder"], trained, 5000)
    noise = suite.drawn_codes(trained.runs["vae"], trained, 5000)
    assert (list(drawn), list(noise)) == (["", "_fitted"], [""])
    np.testing.assert_array_equal(drawn[""], noise[""])
    np.testing.assert_allclose(drawn[""].mean(0), 0, atol=0.06)
    codes = np.asarray(encode(trained.data.train["image"][:150] / np.float32(127.5) - 1))
    np.testing.assert_allclose(drawn["_fitted"].mean(0), codes.mean(0), atol=0.15)
    np.testing.assert_allclose(np.cov(drawn["_fitted"].T), np.cov(codes.T), rtol=0.1, atol=0.3)


def test_samples_of_every_model_have_a_frechet_distance(trained):
    rows = suite.sample_distances(trained)
    assert list(rows) == ["autoencoder", "autoencoder_fitted", "vae", suite.TRAINING]
    held_out = trained.data.validation["image"].mean((1, 2)) / 127.5 - 1
    z = suite.drawn_codes(trained.runs["autoencoder"], trained, 100)["_fitted"]
    expected = fid.frechet_distance(np.clip((z - 40) / 10, -1, 1), held_out, features=ORIGIN).value
    assert rows["autoencoder_fitted"]["frechet_distance"] == pytest.approx(expected, rel=1e-3)
    # Codes from N(0, I) are far from those of any image: all that they decode to is black.
    black = fid.frechet_distance(np.full((100, 3), -1.0), held_out, features=ORIGIN).value
    assert rows["autoencoder"]["frechet_distance"] == pytest.approx(black, rel=1e-3)
    assert rows["autoencoder_fitted"]["frechet_distance"] < 0.02 * black
    real = fid.frechet_distance(
        trained.data.train["image"][:100].mean((1, 2)) / 127.5 - 1, held_out, features=ORIGIN
    ).value
    assert rows[suite.TRAINING]["frechet_distance"] == pytest.approx(real, rel=1e-3)


def test_the_smallest_distance_of_samples_stands_beside_that_of_training_images(trained):
    """In the format of the table, whose numbers they are."""
    rows = {"autoencoder": {"frechet_distance": 140.13}, suite.TRAINING: {"frechet_distance": 3.256}}
    trained.run = SimpleNamespace(config=SimpleNamespace(image_size=2))
    *_, distance = suite.headline(trained, {"models": {"autoencoder": {"psnr": 20.0}}, "samples": rows}).numbers
    assert (distance.value, distance.baseline) == ("140.1", "training images: 3.3")
    assert "by the autoencoder" in distance.text


def test_without_a_classifier_the_report_says_why_there_is_no_distance(trained):
    trained.classifier = None
    assert suite.sample_distances(trained) == {}
    assert suite.problems(trained, {}) == []
    assert "Not measured" in suite.explain_samples(trained, {})


def test_the_sheet_of_features_goes_from_less_to_more_of_an_attribute_in_every_model(trained, monkeypatch):
    features = suite.common_features(trained)
    assert {name: [best["dimension"] for best in row.values()] for name, row in features.items()} == {
        "red": [0, 0],
        "green": [1, 1],
    }
    drawn = {}
    monkeypatch.setattr(traversals, "by_model", drawn.update)
    ((caption, _),) = suite.feature_sheet(trained, {"common_features": features}).values()
    assert "figure 1" in caption
    codes = np.asarray(encode(trained.data.validation["image"] / np.float32(127.5) - 1))[:, 0]
    low, high = codes.mean() - 2 * codes.std(), codes.mean() + 2 * codes.std()
    text, pictures = drawn["red"]["autoencoder"]
    assert text.startswith(f"z0 ({low:.3g}, {high:.3g}), correlation 0.")
    reds = pictures[:, 0, 0, 0].astype(int)
    np.testing.assert_allclose(reds[[0, 2]], [(low - 30) * 12.75, (high - 30) * 12.75], atol=1)
    assert drawn["red"]["VAE"][0].startswith("z0 (2, -2), correlation -0.")
    assert suite.feature_sheet(trained, {"common_features": {}}) == {}


def test_images_without_attributes_have_no_common_features(trained):
    arrays = trained.data.validation.arrays
    bare = Split({"image": arrays["image"]})
    trained.data = Splits(bare, bare, bare.first(0), (), {})
    assert suite.common_features(trained) == {}
    (part,) = suite.feature_parts(trained, {})
    assert "have no attributes" in part.html
