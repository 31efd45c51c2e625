"""Numbers and pictures of conditional VAEs, on models that are written down."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax.data.batches import Split, Splits
from mvae_jax.experiment import Classifier
from mvae_jax.experiment.suites import conditional as suite


def standard_prior(attributes):
    return jnp.zeros((len(attributes), 4)), jnp.zeros((len(attributes), 4))


def test_error_and_divergence_are_sums_over_an_image():
    pixels = np.random.default_rng(0).integers(0, 256, (70, 2, 3, 3), np.uint8)
    codes = np.linspace(-1, 1, 70)[:, None] * np.ones(4)
    encoded = iter([(codes[:64], np.ones((64, 4))), (codes[64:], np.ones((6, 4)))])
    run = SimpleNamespace(
        config=SimpleNamespace(image_shape=(2, 3, 3)),
        encode=lambda x, a: tuple(map(jnp.float32, next(encoded))),
        decode=lambda z, a: jnp.zeros((len(z), 2, 3, 3)),
        prior=standard_prior,
    )
    split = Split({"image": pixels, "attributes": np.zeros((70, 1), np.float32)})
    means = suite.measure_run(run, split, jax.random.key(0))
    errors = np.square(pixels / 255 - 0.5)
    assert means["squared_error"] == pytest.approx(errors.sum((1, 2, 3)).mean(), rel=1e-5)
    assert means["mean_squared_error"] == pytest.approx(errors.mean(), rel=1e-5)
    assert means["kl"] == pytest.approx(0.5 * (np.square(codes) + np.e - 2).sum(1).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("errors", "divergences", "falls", "rises"),
    [([3, 2, 1], [1, 2, 3], True, True), ([3, 2, 2], [1, 3, 2], False, False), ([3, 1], [2, 1], True, False)],
)
def test_orderings_hold_from_each_model_to_the_next(errors, divergences, falls, rises):
    rows = [{"squared_error": error, "kl": kl} for error, kl in zip(errors, divergences, strict=True)]
    assert suite.orderings(rows) == {"squared_error_falls": falls, "kl_rises": rises}


def test_species_are_read_from_the_largest_of_their_logits():
    names = ("has_wings::yes", "001.A", "017.B", "200.C")
    truth = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 1, 0], [1, 0, 0, 1]], np.float32)
    logits = np.array([[9, -1, -2, -3], [9, -3, -1, -2], [9, 2, 1, 0], [9, 0, 1, 2]], np.float32)
    species = suite.Species.of(logits, truth, names)
    assert (species.accuracy, species.majority_accuracy, species.chance) == (0.75, 0.5, pytest.approx(1 / 3))
    row = suite.Agreement.of(logits, truth, names).row()
    assert (row["accuracy"], row["all attributes right"]) == (pytest.approx(11 / 16), 0)  # 3, 2, 3 and 3 are right
    assert (row["species"], row["most frequent species"], row["guessed species"]) == (0.75, 0.5, species.chance)
    assert suite.Species.of(logits[:, :3], truth[:, :3], names[:3]) is None  # the last bird is of neither
    assert suite.Species.of(logits[:, :2], truth[:, :2], names[:2]) is None


def test_the_classifier_reads_real_images_and_samples_at_its_size():
    def logits(pictures):
        assert pictures.shape[1:] == (16, 16, 3)
        return pictures.mean((1, 2))[:, :2]

    classifier = Classifier(SimpleNamespace(config=SimpleNamespace(image_size=16), logits=logits), None)
    pixels = np.tile(np.arange(70, dtype=np.uint8)[:, None, None, None], (1, 23, 18, 3))
    attributes = np.stack([np.arange(70) % 2, np.arange(70) // 35], axis=1).astype(np.float32)
    split = Split({"image": pixels, "attributes": attributes})
    real = suite.read(classifier, None, split, jax.random.key(0))
    np.testing.assert_allclose(real[:, 0], np.arange(70) / 127.5 - 1, atol=1e-5)
    run = SimpleNamespace(
        prior=standard_prior,
        decode=lambda z, a: jnp.broadcast_to(jnp.pad(a, ((0, 0), (0, 1)))[:, None, None], (len(a), 23, 18, 3)),
    )
    np.testing.assert_allclose(suite.read(classifier, run, split, jax.random.key(0)), attributes, atol=1e-6)


def test_edits_keep_the_code_and_invert_one_attribute_of_those_that_faces_have():
    names = ("sideburns", "smiling", "male", "bald")
    attributes = np.random.default_rng(0).integers(0, 2, (9, 4)).astype(np.float32)
    split = Split({"image": np.zeros((9, 2, 2, 3), np.uint8), "attributes": attributes})
    data = Splits(split, split, split.first(0), names, {})
    decoded = []
    run = SimpleNamespace(
        encode=lambda x, a: (a, a),
        decode=lambda z, a: decoded.append((np.array(z), np.array(a))) or jnp.zeros((len(z), 2, 2, 3)),
    )
    rows = suite.edited(run, data)
    shown = attributes[[0, 1, 3, 4, 6, 8]]
    assert list(rows)[:2] == ["original", "reconstruction"]
    assert set(list(rows)[2:5]) == {"smiling inverted", "male inverted", "bald inverted"}
    assert list(rows)[5:] == ["sideburns inverted"]
    np.testing.assert_array_equal(decoded[0], [shown, shown])
    for label, (code, other) in zip(list(rows)[2:], decoded[1:], strict=True):
        column = names.index(label.split()[0])
        np.testing.assert_array_equal(code, shown)
        np.testing.assert_array_equal(np.argwhere(code != other), [[row, column] for row in range(6)])


def test_an_image_is_described_by_its_species_or_else_by_its_attributes():
    names = ("has_wings::yes", "red_eyes", "001.Black_Bird")
    assert suite.describe(np.array([1, 1, 1]), names) == "001.Black Bird"
    assert suite.describe(np.array([1, 1, 0]), names) == "has wings::yes, red eyes"
    assert suite.describe(np.array([0, 0, 0]), names) == "none of the attributes"


def test_a_probe_reads_from_drawn_codes_what_a_model_leaves_in_them():
    """One model's codes hold the first of two attributes, another's mean does, beneath noise of the posterior."""
    bits = np.random.default_rng(0).integers(0, 2, (900, 2)).astype(np.float32)
    split = Split({"image": np.zeros((900, 2, 2, 3), np.uint8), "attributes": bits})
    data = Splits.cut(split.arrays, 600, 300, ("held", "left_out"), {})

    def encode(logvar):
        return lambda x, a: (jnp.pad(a[:, :1], ((0, 0), (0, 1))), jnp.full((len(a), 2), logvar))

    runs = {"beta_0.9": SimpleNamespace(encode=encode(8.0)), "beta_0.25": SimpleNamespace(encode=encode(-8.0))}
    trained = SimpleNamespace(
        runs=runs, data=data, config=SimpleNamespace(seed=0), interruption=SimpleNamespace(check=lambda: None)
    )
    result = suite.probe(trained)
    read = {
        label: [score.balanced_accuracy for score in agreement.attributes.attributes]
        for label, agreement in result.items()
    }
    assert read["beta_0.25"][0] == 1.0
    np.testing.assert_allclose([*read["beta_0.9"], read["beta_0.25"][1]], 0.5, atol=0.1)
    assert suite.probe_lines(trained, result)[1].startswith(
        "a linear probe reads from z of beta 0.25: balanced accuracy"
    )


def test_attributes_are_added_one_after_the_other_and_removed_in_the_same_order():
    vectors = suite.chain(np.array([1.0, 1.0, 0.0, 0.0]), [2, 1])
    np.testing.assert_array_equal(vectors, [[1, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]])


def test_the_sheet_of_added_and_removed_attributes_keeps_z():
    names = ("male", "001.Bird", "smiling", "bald", "goatee", "young", "bangs")
    attributes = np.random.default_rng(0).integers(0, 2, (40, 7)).astype(np.float32)
    attributes[:, 4] = np.arange(40) < 3  # rarer than bangs
    split = Split({"image": np.zeros((40, 2, 2, 3), np.uint8), "attributes": attributes})
    data = Splits(split, split, split.first(0), names, {})
    columns = suite.chain_columns(data)
    assert [names[column] for column in columns[2:]] == ["bangs", "goatee"]
    assert {names[column] for column in columns[:2]} == {"smiling", "young"}
    decoded = []
    run = SimpleNamespace(
        prior=standard_prior, decode=lambda z, a: decoded.append((np.array(z), np.array(a))) or jnp.zeros((9, 2, 2, 3))
    )
    trained = SimpleNamespace(runs={"beta_0.9": run, "beta_0.5": run}, data=data, config=SimpleNamespace(seed=0))
    ((caption, _),) = suite.added_and_removed(trained, {}).values()
    assert "figure 5" in caption
    (z, a), (other, _) = decoded
    np.testing.assert_array_equal(z, np.repeat(z[:1], 9, axis=0))
    np.testing.assert_array_equal(z, other)
    np.testing.assert_array_equal(a, suite.chain(attributes[0], columns))
    np.testing.assert_array_equal(np.abs(np.diff(a, axis=0)).sum(1), 1)


def test_sliders_keep_the_code_and_move_one_attribute():
    names = ("young", "001.Bird", "smiling", "male", "female")
    attributes = np.float32([[1, 1, 0, 0, 1], [0, 1, 1, 1, 0], [0, 0, 1, 1, 0]])
    shown = np.zeros((3, 2, 2, 3), np.uint8)
    shown[0, 0], shown[1:, 1], shown[2, 0, 0] = 200, 200, 40  # the last one is most like the mean of all
    split = Split({"image": shown, "attributes": attributes})
    decoded = []
    run = SimpleNamespace(
        encode=lambda x, a: (a + 5, a),
        decode=lambda z, a: decoded.append((np.array(z), np.array(a))) or jnp.zeros((len(z), 2, 2, 3)),
    )
    trained = SimpleNamespace(runs={"beta_0.9": run}, data=Splits(split, split, split.first(0), names, {}))
    ((caption, strips),) = suite.sliders(trained, {}).values()
    assert caption.startswith("beta 0.9: one held-out image")
    assert sorted(strips.rows) == ["male instead of female", "smiling", "young"]
    for label, (z, a) in zip(strips.rows, decoded, strict=True):
        column = names.index(label.split()[0])
        np.testing.assert_array_equal(z, np.tile([5, 5, 6, 6, 5], (9, 1)))
        np.testing.assert_allclose(a[:, column], np.linspace(-0.5, 1.5, 9))
        others = np.delete(np.arange(5), [3, 4] if column == 3 else column)
        np.testing.assert_array_equal(a[:, others], np.tile(attributes[2, others], (9, 1)))
    species = dataclasses.replace(trained.data, attributes=tuple(f"00{n}.Bird" for n in range(5)))
    assert suite.sliders(SimpleNamespace(runs=trained.runs, data=species), {}) == {}
