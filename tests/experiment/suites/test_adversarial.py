"""What is measured of VAE/GAN and its family, on models that were not trained."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from mvae_jax import gaussian, runs
from mvae_jax.data.batches import Split, Splits
from mvae_jax.eval import cross_modal, fid
from mvae_jax.eval.features import Features
from mvae_jax.experiment import ClassifierConfig, Trained
from mvae_jax.experiment.suites import adversarial as suite
from mvae_jax.models import vae_gan

CONFIG = vae_gan.VAEGANConfig(
    image_size=16,
    latent_size=3,
    encoder_widths=(4,),
    encoder_hidden=8,
    decoder_widths=(4,),
    grid_width=4,
    discriminator_widths=(2, 4),
    discriminator_hidden=4,
)
NAMES = ("5_o_clock_shadow", *suite.ATTRIBUTES[::-1], "wearing_hat")  # as CelebA has them, and two more


def split(count, seed):
    """Noise, and attributes that are drawn."""
    draws = np.random.default_rng(seed)
    return Split(
        {
            "image": draws.integers(0, 256, (count, 16, 16, 3), np.uint8),
            "attributes": draws.integers(0, 2, (count, len(NAMES))).astype(np.float32),
        }
    )


DATA = Splits(split(40, 0), split(8, 1), split(0, 2), NAMES, {})


@pytest.fixture(scope="module")
def run():
    model = vae_gan.build(CONFIG)
    params, state = jax.jit(model.init)(jax.random.key(0), DATA.train.first(2).arrays)
    return runs.Run(model, CONFIG, params, state, "training", 0, {"model": "vae_gan"})


def trained(run, data=DATA, **evaluation):
    config = types.SimpleNamespace(seed=42, evaluation=suite.Evaluation(**evaluation))
    return Trained(config, {"vae_gan": run}, data, None, {"vae_gan": []})


def posteriors(run):
    return run.encode(DATA.train["image"] / np.float32(127.5) - 1)


def differences(codes, names=suite.ATTRIBUTES):
    bits = DATA.train["attributes"][: len(codes)]
    has = {name: bits[:, NAMES.index(name)] == 1 for name in names}
    return {name: codes[of_name].mean(0) - codes[~of_name].mean(0) for name, of_name in has.items()}


def assert_equal(vectors, expected):
    assert list(vectors) == list(expected)
    for name, vector in vectors.items():
        np.testing.assert_allclose(vector, expected[name], atol=1e-5)


def test_of_celeba_the_attributes_of_the_paper_are_taken(run):
    """18 of 40, by their names as `data.formats.celeba` gives them."""
    assert_equal(suite.attribute_vectors(trained(run)).vectors, differences(np.asarray(posteriors(run)[0])))


def test_of_other_data_all_attributes_that_vary_are_taken(run):
    bits = DATA.train["attributes"].copy()
    bits[:, 1] = 1
    train = Split({**DATA.train.arrays, "attributes": bits[:, :3]})
    rest = {name: Split({**part.arrays, "attributes": part["attributes"][:, :3]}) for name, part in DATA}
    data = dataclasses.replace(DATA, **rest | {"train": train}, attributes=NAMES[:3])
    vectors = suite.attribute_vectors(trained(run, data)).vectors
    assert_equal(vectors, differences(np.asarray(posteriors(run)[0]), (NAMES[0], NAMES[2])))
    bits[:, :3] = 0
    assert suite.attribute_vectors(trained(run, data)).vectors == {}


def test_vectors_of_samples_are_those_of_the_first_images(run):
    """As released (VG-05)."""
    mean, logvar = (part[:30] for part in posteriors(run))
    codes = gaussian.sample(jax.random.fold_in(jax.random.key(42), 1), mean, logvar)
    result = suite.attribute_vectors(trained(run, vector_images=30, sampled_vectors=True))
    assert_equal(result.vectors, differences(np.asarray(codes)))


def test_pairs_of_vectors_are_ordered_by_their_angle():
    vectors = {"a": np.array([1.0, 0.0]), "b": np.array([-2.0, 0.0]), "c": np.array([3.0, 4.0])}
    pairs = suite.AttributeVectors(vectors).to_dict()["cosines"]
    assert [(pair["first"], pair["second"]) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    np.testing.assert_allclose([pair["cosine"] for pair in pairs], [-1, 0.6, -0.6])
    assert suite.AttributeVectors({"a": vectors["a"]}).pairs == []


def test_edits_of_a_decoder_that_draws_its_code():
    """A model whose codes are attributes and whose images show them, and a classifier of real images that may err."""
    bits, size = DATA.validation["attributes"], len(NAMES)
    images = np.zeros((8, 16, 16, 3), np.uint8)
    images.reshape(8, -1)[:, :size] = 255 * bits

    def encode(x):
        return x.reshape(len(x), -1)[:, :size], None

    def decode(z):
        return np.pad(z, ((0, 0), (0, 16 * 16 * 3 - size))).reshape(-1, 16, 16, 3)

    validation = Split({"image": images, "attributes": bits})
    scores = cross_modal.score_attributes(np.where(bits > 0, 1.0, -1.0), bits, NAMES)
    classifier = types.SimpleNamespace(logits=lambda x: encode(x)[0], held_out=scores)
    run = types.SimpleNamespace(encode=encode, decode=decode, config=CONFIG)
    of_edits = dataclasses.replace(
        trained(run, dataclasses.replace(DATA, validation=validation)), classifier=classifier
    )
    shifts = {name: 2 * np.eye(size, dtype=np.float32)[NAMES.index(name)] for name in suite.ATTRIBUTES}
    shifts["male"] = shifts["male"] - shifts["young"]
    edits = suite.measure_edits(run, of_edits, shifts)
    lacking = 8 - bits.sum(0)
    assert edits.keys() == {name for name in suite.ATTRIBUTES if lacking[NAMES.index(name)]}
    for name, row in edits.items():
        assert row["images"] == lacking[NAMES.index(name)]
        assert (row["read_before"], row["read_after"], row["classifier_accuracy"]) == (0, 1, 1)
        assert row["others_unchanged"] == 1 or name == "male"
    male, young = (bits[:, NAMES.index(name)] for name in ("male", "young"))
    changed = ((male == 0) & (young == 1)).sum() / ((male == 0).sum() * (size - 1))
    assert edits["male"]["others_unchanged"] == pytest.approx(1 - changed)
    result = suite.AttributeVectors(shifts, edits)
    assert result.to_dict()["edits"] == edits
    (line,) = suite.attribute_vector_lines(of_edits, result)
    assert line.startswith(f"VAE/GAN, attribute vectors added, mean over {len(edits)} attributes: read from")
    *_, part = suite.attribute_vector_parts(of_edits, result)
    assert part.html.count("<tr>") == 1 + len(edits) + 1
    for word in ("read from edited ones", "recall of the classifier", "mean"):
        assert f">{word}<" in part.html


def test_edits_are_of_held_out_images_and_of_the_vectors(run):
    """Those of a VAE/GAN, against one image at a time."""
    weights = np.random.default_rng(0).normal(size=(16 * 16 * 3, len(NAMES))).astype(np.float32)
    bits = DATA.validation["attributes"]
    scores = cross_modal.score_attributes(-np.ones(bits.shape), bits, NAMES)
    classifier = types.SimpleNamespace(logits=lambda x: x.reshape(len(x), -1) @ weights, held_out=scores)
    result = suite.attribute_vectors(dataclasses.replace(trained(run), classifier=classifier))
    z = np.asarray(run.encode(DATA.validation["image"] / np.float32(127.5) - 1)[0])
    assert len(result.edits) > 10
    for name, row in result.edits.items():
        column = NAMES.index(name)
        codes = z[bits[:, column] == 0]
        moved = codes + result.vectors[name]
        before, after = (np.asarray(classifier.logits(run.decode(part))) > 0 for part in (codes, moved))
        same = np.delete(before == after, column, axis=1).mean()
        expected = {
            "images": len(codes),
            "read_before": before[:, column].mean(),
            "read_after": after[:, column].mean(),
            "others_unchanged": same,
            "classifier_accuracy": (bits[:, column] == 0).mean(),
            "classifier_recall": 0.0 if bits[:, column].any() else None,
        }
        assert row == pytest.approx(expected, abs=1e-6)
    assert 0 < np.mean([row["others_unchanged"] for row in result.edits.values()]) < 1
    few = suite.attribute_vectors(dataclasses.replace(trained(run, edited_images=3), classifier=classifier)).edits
    assert {name: row["images"] for name, row in few.items()} == {
        name: (bits[:3, NAMES.index(name)] == 0).sum()
        for name in suite.ATTRIBUTES
        if not bits[:3, NAMES.index(name)].all()
    }
    assert suite.attribute_vectors(trained(run)).edits == {}  # without a classifier


def test_without_vae_gan_there_are_no_vectors_and_no_edits(run):
    of_gan = dataclasses.replace(trained(run), runs={"gan": run})
    vectors = suite.attribute_vectors(of_gan)
    assert vectors.vectors == {}
    assert suite.attribute_vector_parts(of_gan, vectors)[0].startswith("There are no vectors")
    assert (vectors.edits, suite.attribute_vector_lines(of_gan, vectors)) == ({}, [])
    assert suite.edits(of_gan, {"attribute_vectors": vectors}) == {}


def test_samples_of_one_image_are_a_problem(run):
    """A decoder whose weights are all 0 draws one image."""
    flat = dataclasses.replace(run, params=jax.tree.map(np.zeros_like, run.params))
    of_flat = trained(flat)
    signs = suite.stability(of_flat)
    assert signs["vae_gan"].spread == pytest.approx(0, abs=1e-6)
    (problem,) = suite.problems(of_flat, {"stability": signs, "models": {"vae_gan": {"sharpness_of_samples": 1.2}}})
    assert problem.startswith("VAE/GAN: The samples are nearly one image")


def test_reconstructions_are_compared_with_other_images_than_their_own_originals():
    """A model that copies images is as far from them as they are from others, in features of which half is too few."""
    x = DATA.validation["image"] / np.float32(127.5) - 1
    copies = types.SimpleNamespace(
        config=CONFIG,
        model=types.SimpleNamespace(encode=True),
        encode=lambda images: (images, None),
        decode=lambda codes: (
            codes if codes.ndim == 4 else codes[:, :1, None, None] * np.ones((1, 16, 16, 3), np.float32)
        ),
    )
    classifier = types.SimpleNamespace(
        run=types.SimpleNamespace(config=types.SimpleNamespace(hidden=5)),
        features=lambda images: images[:, 0, 0],
        held_out=types.SimpleNamespace(accuracy=0.75),
        origin=Features("corner", accuracy=0.75),
    )
    of_copies = dataclasses.replace(trained(copies), classifier=classifier)
    row = suite.measure(of_copies)["vae_gan"]
    expected = fid.frechet_distance(x[:4, 0, 0], x[4:, 0, 0], features=Features("")).value
    assert expected > 0.1
    assert row["frechet_distance_of_reconstructions"] == pytest.approx(expected, rel=1e-5)
    assert (row["squared_error"], row["classifier_accuracy"]) == (0, 0.75)
    sharpness = {"vae": {"sharpness_of_samples": 0.3}, "vae_gan": {"sharpness_of_samples": 5.07}}
    noise, problem = suite.problems(of_copies, {"stability": {}, "models": sharpness})
    assert noise.startswith("VAE/GAN: samples have 5.07 times the sharpness of real images")
    assert problem.startswith("The Frechet distance compares 4 images in 5 features")


def test_images_that_cannot_be_measured_on_are_refused():
    suite.check(DATA, ClassifierConfig())
    suite.check(DATA, ClassifierConfig(epochs=0, workdir="runs/attribute_classifier"))
    with pytest.raises(ValueError, match="expected at least 1 epoch, or the folder of a classifier"):
        suite.check(DATA, ClassifierConfig(epochs=0))
    with pytest.raises(ValueError, match="there are 7 held-out images; expected at least 8"):
        suite.check(dataclasses.replace(DATA, validation=DATA.validation.first(7)), ClassifierConfig())
    plain = {name: Split({"image": part["image"]}) for name, part in DATA}
    suite.check(Splits(**plain, attributes=(), provenance={}), ClassifierConfig(epochs=0))  # there is none to want
