"""The attribute classifier: losses against NumPy, draws, schedule, and a run from training to loading."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import ATTRIBUTE_CLASSIFIER, faces

from mvae_jax import augmentation, images, nets, random, runs
from mvae_jax.augmentation import Augmentation
from mvae_jax.data.batches import Batches, Split
from mvae_jax.models import attribute_classifier
from mvae_jax.models.attribute_classifier import Config
from mvae_jax.nets.classifier import ImageClassifier
from mvae_jax.train import loop
from mvae_jax.train.devices import place
from mvae_jax.train.workdir import Workdir

BATCH = 4
KEY = jax.random.key(7)
CONFIG = ATTRIBUTE_CLASSIFIER
PLAIN = dataclasses.replace(CONFIG, dropout=0.0, augmentation=Augmentation(0.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))


def batch():
    return jax.tree.map(jnp.asarray, faces(BATCH))


@functools.cache
def variables():
    """Parameters and batch statistics, no longer zeros and ones where initialisation left those."""
    generator = np.random.default_rng(3)
    params, state = jax.jit(attribute_classifier.build(CONFIG).init)(jax.random.key(0), batch())
    params = jax.tree.map(lambda p: p + 0.1 * generator.normal(size=p.shape).astype(np.float32), params)
    return params, jax.tree.map(lambda s: s + generator.uniform(0.0, 0.5, s.shape).astype(np.float32), state)


def network(config):
    return ImageClassifier(len(config.attributes), config.widths, config.hidden, config.dropout)


def evaluated():
    """Logits and features of the network in evaluation mode."""
    params, state = variables()
    x = images.to_float(batch()["image"])
    return nets.apply(network(CONFIG), params["classifier"], state["classifier"], x, train=False)[0]


def trained(config, key=KEY, values=None):
    """What the round of the one phase returns."""
    (phase,) = attribute_classifier.phases(config, 3)
    (round_,) = attribute_classifier.build(config).rounds(phase)
    params, state = variables()
    return jax.jit(round_.losses)(params, state, values or batch(), key, jnp.asarray(0))


def cross_entropy(logits, bits):
    """Mean over attributes, [B]."""
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    return -(bits * np.log(p) + (1 - bits) * np.log(1 - p)).mean(1)


def test_evaluation_is_the_mean_cross_entropy_and_the_share_of_right_attributes():
    logits, _ = evaluated()
    bits = np.asarray(batch()["attributes"])
    (phase,) = attribute_classifier.phases(CONFIG, 3)
    terms = attribute_classifier.build(CONFIG).evaluate(phase)(*variables(), batch(), KEY)
    assert set(terms) == {"loss", "accuracy"}
    np.testing.assert_allclose(terms["loss"], cross_entropy(logits, bits), rtol=1e-5)
    right = [
        [(logit > 0) == (bit == 1) for logit, bit in zip(*rows, strict=True)] for rows in zip(logits, bits, strict=True)
    ]
    np.testing.assert_allclose(terms["accuracy"], np.mean(right, 1), rtol=1e-6)
    assert 0 < np.mean(right) < 1


def test_functions_give_logits_and_features():
    functions = attribute_classifier.build(CONFIG).functions
    assert set(functions) == {"logits", "features"}
    x = images.to_float(batch()["image"])
    for name, expected in zip(("logits", "features"), evaluated(), strict=True):
        np.testing.assert_array_equal(functions[name](*variables(), x), expected)
    assert functions["features"](*variables(), x).shape == (BATCH, CONFIG.hidden)


def test_training_without_chance_is_the_cross_entropy_by_batch_statistics():
    params, state = variables()
    x, bits = images.to_float(batch()["image"]), np.asarray(batch()["attributes"])
    (logits, _), stats = nets.apply(network(PLAIN), params["classifier"], state["classifier"], x, train=True)
    got = trained(PLAIN)
    np.testing.assert_allclose(got.objectives["classifier"], cross_entropy(logits, bits).mean(), rtol=1e-5)
    assert got.metrics["loss"] == got.objectives["classifier"]
    np.testing.assert_allclose(got.metrics["accuracy"], ((logits > 0) == (bits == 1)).mean(), rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got.state, {"classifier": stats})


def test_training_augments_and_drops_with_keys_of_the_examples():
    params, state = variables()
    keys = [random.example_keys(jax.random.fold_in(KEY, draw), BATCH) for draw in (1, 2)]
    x = augmentation.augment(keys[0], images.to_float(batch()["image"]), CONFIG.augmentation)
    (logits, _), _ = nets.apply(network(CONFIG), params["classifier"], state["classifier"], x, keys[1], train=True)
    expected = cross_entropy(logits, np.asarray(batch()["attributes"])).mean()
    losses = {
        config: float(trained(config).objectives["classifier"])
        for config in (
            CONFIG,
            PLAIN,
            dataclasses.replace(CONFIG, dropout=0.0),
            dataclasses.replace(CONFIG, augmentation=PLAIN.augmentation),
        )
    }
    np.testing.assert_allclose(losses[CONFIG], expected, rtol=1e-4)
    assert len({round(loss, 4) for loss in losses.values()}) == 4
    assert float(trained(CONFIG, jax.random.key(8)).objectives["classifier"]) != losses[CONFIG]
    assert float(trained(PLAIN, jax.random.key(8)).objectives["classifier"]) == losses[PLAIN]


def test_the_phase_and_its_one_cycle_of_learning_rates():
    config = dataclasses.replace(CONFIG, epochs=5, batch_size=6, learning_rate=0.2)
    (phase,) = attribute_classifier.phases(config, steps_per_epoch=20)
    assert (phase.name, phase.start, phase.steps) == ("training", 0, 100)
    assert (phase.batch_size, phase.image_size) == (6, 32)
    rates = np.array([phase.learning_rates["classifier"](jnp.asarray(step)) for step in range(101)])
    np.testing.assert_allclose(rates[[0, 15, 30, 65, 100]], [0.008, 0.104, 0.2, 0.1, 8e-7], rtol=1e-4)
    assert (np.diff(rates[:31]) > 0).all()
    assert (np.diff(rates[30:]) < 0).all()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_runs_have_finite_rates(steps):
    (phase,) = attribute_classifier.phases(dataclasses.replace(CONFIG, epochs=1), steps)
    rates = [float(phase.learning_rates["classifier"](step)) for step in range(steps)]
    assert all(0 < rate <= CONFIG.learning_rate for rate in rates)


def test_the_optimiser_decays_weights_at_unit_rate():
    params, _ = variables()
    model = attribute_classifier.build(dataclasses.replace(CONFIG, weight_decay=0.3))
    optimizer = model.optimizers(attribute_classifier.phases(CONFIG, 3)[0])["classifier"]
    zeros = jax.tree.map(jnp.zeros_like, params["classifier"])
    updates, _ = optimizer.update(zeros, optimizer.init(params["classifier"]), params["classifier"])
    jax.tree.map(lambda u, p: np.testing.assert_allclose(u, -0.3 * p, rtol=1e-6), updates, params["classifier"])


def test_terms_are_functions_of_logits():
    logits, bits = np.array([[2.0, -1.0], [0.5, 3.0]]), np.array([[1.0, 1.0], [0.0, 1.0]])
    terms = attribute_classifier.terms(jnp.asarray(logits, jnp.float32), jnp.asarray(bits, jnp.float32))
    signs = np.where(bits, -1, 1)
    np.testing.assert_allclose(terms["loss"], np.log1p(np.exp(signs * logits)).mean(1), rtol=1e-6)
    np.testing.assert_allclose(terms["accuracy"], [0.5, 0.5])


def separable(count, seed):
    """Images whose halves are dark or bright, in a colour of their own: one attribute per half."""
    generator = np.random.default_rng(seed)
    bits = generator.integers(0, 2, (count, 2)).astype(np.float32)
    top, bottom = (np.broadcast_to(half, (16, 32, count)) for half in bits.T)
    brightness = np.concatenate([top, bottom]).transpose(2, 0, 1)[..., None]
    pixels = 64 + 96 * brightness + generator.integers(0, 48, (count, 32, 32, 3))
    return Split({"image": pixels.astype(np.uint8), "attributes": bits})


@pytest.mark.parametrize(("compute_dtype", "other"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_run_learns_what_is_separable_and_can_be_loaded(tmp_path, compute_dtype, other):
    """It is loaded as it was trained, and gives its answers in the other precision as well."""
    config = dataclasses.replace(
        CONFIG,
        attributes=("top", "bottom"),
        epochs=8,
        batch_size=16,
        learning_rate=0.02,
        compute_dtype=compute_dtype,
    )
    train, held_out = separable(128, seed=0), separable(64, seed=1)
    batches = Batches(train, config.batch_size, seed=0)
    model, phases = attribute_classifier.build(config), attribute_classifier.phases(config, batches.steps_per_epoch)
    Workdir(tmp_path).configure({"model": "attribute_classifier", "config": {"model": dataclasses.asdict(config)}})
    state = loop.fit(model, phases, lambda phase: batches, workdir=tmp_path, seed=0, placement=place(jax.devices()[:1]))
    assert int(state.step) == 64
    run = runs.load(tmp_path)
    assert (run.config, run.phase, run.step) == (config, "training", 64)
    x = images.to_float(jnp.asarray(held_out["image"]))
    np.testing.assert_array_equal(run.logits(x) > 0, held_out["attributes"] == 1)
    for name, function in model.functions.items():
        np.testing.assert_array_equal(getattr(run, name)(x), jax.jit(function)(state.params, state.model_state, x))
    model = attribute_classifier.build(dataclasses.replace(run.config, compute_dtype=other))
    logits = dataclasses.replace(run, model=model).logits(x)
    assert (logits != run.logits(x)).any()
    np.testing.assert_allclose(logits, run.logits(x), atol=0.02 * float(jnp.abs(logits).max()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": ()}, r"widths are \(\); expected at least one, and each at least 1"),
        ({"widths": (8, 0)}, r"widths are \(8, 0\); expected at least one, and each at least 1"),
        ({"image_size": 40}, "image_size is 40; expected a multiple of 16 for 4 widths"),
        ({"image_size": 0}, "image_size is 0; expected a multiple of 16"),
        ({"hidden": 0}, "hidden is 0; expected at least 1"),
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"dropout": 1.0}, "dropout is 1.0; expected at least 0, for none, and less than 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; expected a number above 0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; expected at least 0"),
        ({"compute_dtype": "float16"}, "compute_dtype is 'float16'; choose one of 'float32', 'bfloat16'"),
        ({"attributes": ()}, r"attributes are \(\); expected at least one name and no name twice"),
        ({"attributes": ("bald", "bald")}, "expected at least one name and no name twice"),
    ],
)
def test_config_errors_name_value_and_remedy(change, message):
    with pytest.raises(ValueError, match=message):
        Config(**change)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (faces(2, size=16), r"batch\['image'\] has shape \(2, 16, 16, 3\); expected \(B, 32, 32, 3\)"),
        (faces(2, attributes=3), r"batch\['attributes'\] has shape \(2, 3\); expected \(B, 10\)"),
    ],
)
def test_batches_of_another_shape_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        attribute_classifier.build(CONFIG).init(jax.random.key(0), values)
