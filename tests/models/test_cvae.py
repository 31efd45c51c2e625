"""The attribute CVAE: every term, weight and route against NumPy, images of odd sizes, both priors."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import faces

from mvae_jax import nets, random, runs
from mvae_jax.models import cvae
from mvae_jax.models.cvae import Config
from mvae_jax.nets.conditional import ConditionalDecoder, ConditionalEncoder, ConditionalPrior

BATCH, SIZE, LATENT = 4, (7, 10), 3
STEPS = 3  # per epoch
KEY = jax.random.key(7)
CONFIG = Config(
    image_size=SIZE, latent_size=LATENT, widths=(4, 6), prior_hidden=5, beta=0.3, epochs=4, batch_size=BATCH
)
CONDITIONAL = dataclasses.replace(CONFIG, prior="conditional")
PRIORS = pytest.mark.parametrize("config", [CONFIG, CONDITIONAL], ids=["standard", "conditional"])


def batch(config=CONFIG):
    return jax.tree.map(jnp.asarray, faces(BATCH, config.image_size, len(config.attributes)))


@functools.cache
def variables():
    """Parameters, no longer zeros where initialisation left those."""
    generator = np.random.default_rng(3)
    params, state = cvae.build(CONDITIONAL).init(jax.random.key(0), batch())
    params = jax.tree.map(
        lambda p: jnp.asarray(p + 0.2 * generator.normal(size=p.shape).astype(np.float32)), jax.device_get(params)
    )
    return params, state


def trained(config, key=KEY):
    """What the round of the one phase returns."""
    (round_,) = cvae.build(config).rounds(cvae.phases(config, STEPS)[0])
    run = round_.losses
    if config.compute_dtype == "bfloat16":  # operations in float32 are compiled once for all configurations
        run = jax.jit(run)
    return run(*variables(), batch(config), key, jnp.asarray(0))


def run(name, *arguments, config=CONDITIONAL):
    model = cvae.build(config)
    return jax.jit(getattr(model, name, None) or model.functions[name])(*variables(), *arguments)


def transcribe(config, key):
    """All terms of every example, from what the networks put out."""
    (params, _), data = variables(), batch()
    x, a = np.asarray(data["image"], np.float64) / 255, data["attributes"]

    def apply(net, group, *inputs):
        out, _ = nets.apply(net, params[group], {}, *(jnp.asarray(v, jnp.float32) for v in inputs), train=False)
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), out)

    mean, logvar = apply(ConditionalEncoder(LATENT, config.widths), "encoder", x, a)
    z = mean + np.exp(logvar / 2) * np.asarray(random.standard_normal(key, mean.shape))
    output = 1 / (1 + np.exp(-apply(ConditionalDecoder((*SIZE, 3), config.widths), "decoder", z, a)))
    prior_mean, prior_logvar = np.zeros_like(mean), np.zeros_like(mean)
    if config.prior == "conditional":
        prior_mean, prior_logvar = apply(ConditionalPrior(LATENT, config.prior_hidden), "prior", a)
    ratio = (np.exp(logvar) + (mean - prior_mean) ** 2) / np.exp(prior_logvar)
    kl = 0.5 * (prior_logvar - logvar + ratio - 1).sum(1)
    error = ((output - x) ** 2).sum((1, 2, 3))
    return {
        "loss": (1 - config.beta) * error + config.beta * kl,
        "squared_error": error,
        "mean_squared_error": error / 210,
        "kl": kl,
    }


def assert_close(got, expected, rtol=2e-5, atol=2e-6):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path))


# --- the objective --------------------------------------------------------------------------------------------------


@PRIORS
def test_training_is_its_transcription(config):
    expected = {name: values.mean() for name, values in transcribe(config, jax.random.fold_in(KEY, 1)).items()}
    out = trained(config)
    assert_close(dict(out.metrics), expected)
    assert_close(dict(out.objectives), {"cvae": expected["loss"]})
    assert out.state == {}
    assert trained(config, jax.random.key(8)).metrics["squared_error"] != out.metrics["squared_error"]


@PRIORS
def test_evaluation_is_its_transcription(config):
    evaluate = cvae.build(config).evaluate(cvae.phases(config, STEPS)[0])
    assert_close(dict(evaluate(*variables(), batch(), KEY)), transcribe(config, KEY))


def test_terms_are_functions_of_arrays():
    """CV-03: the "squared error" is a sum over values, the mean stands beside it."""
    rng = np.random.default_rng(0)
    output, x = rng.uniform(size=(2, BATCH, *SIZE, 3))
    posterior, prior = rng.normal(size=(2, 2, BATCH, LATENT))
    (mean, logvar), (prior_mean, prior_logvar) = posterior, prior
    ratio = np.exp(logvar - prior_logvar) + (mean - prior_mean) ** 2 / np.exp(prior_logvar)
    error, kl = ((output - x) ** 2).sum((1, 2, 3)), 0.5 * (ratio - 1 - logvar + prior_logvar).sum(1)
    arrays = [jnp.asarray(value, jnp.float32) for value in (output, x)]
    gaussians = [tuple(jnp.asarray(value, jnp.float32) for value in pair) for pair in (posterior, prior)]
    expected = {
        "loss": (1 - CONFIG.beta) * error + CONFIG.beta * kl,
        "squared_error": error,
        "mean_squared_error": ((output - x) ** 2).mean((1, 2, 3)),
        "kl": kl,
    }
    assert_close(cvae.terms(CONFIG, *arrays, *gaussians), expected)


@pytest.mark.parametrize("beta", [0.25, 0.5, 0.75, 0.9])
def test_beta_shifts_weight_from_the_error_to_the_divergence(beta):
    out = trained(dataclasses.replace(CONFIG, beta=beta))
    metrics = {name: float(value) for name, value in out.metrics.items()}
    assert metrics["loss"] == pytest.approx((1 - beta) * metrics["squared_error"] + beta * metrics["kl"], rel=1e-5)


def test_effective_weights_are_those_of_means():
    """(1 - beta) SSE + beta KL is, but for one factor, the mean error + the effective weight times the mean KL."""
    metrics = {name: float(value) for name, value in trained(CONFIG).metrics.items()}
    weight = CONFIG.effective_weight(CONFIG.divergence_weights["kl"])
    means = metrics["mean_squared_error"] + weight * metrics["kl"] / LATENT
    assert metrics["loss"] == pytest.approx(0.7 * 210 * means, rel=1e-5)
    paper = Config(beta=0.75)
    assert paper.effective_weight(paper.divergence_weights["kl"]) == pytest.approx(3 * 128 / 116_412)


def test_who_learns():
    """A learned prior is a group of its own, which only the divergence pulls; its gradient is that of the KL."""
    assert [set(group) for group in (cvae.phases(c, 1)[0].learning_rates for c in (CONFIG, CONDITIONAL))] == [
        {"encoder", "decoder"},
        {"encoder", "decoder", "prior"},
    ]
    (params, state), (phase,) = variables(), cvae.phases(CONDITIONAL, STEPS)
    (round_,) = cvae.build(CONDITIONAL).rounds(phase)
    assert round_.trains == {"cvae": ("encoder", "decoder", "prior")}

    def metrics(params):
        found = round_.losses(params, state, batch(), KEY, jnp.asarray(0)).metrics
        return {name: found[name] for name in ("squared_error", "kl", "loss")}

    slopes = jax.jit(jax.jacrev(metrics))(params)
    reached = {
        name: {group for group, tree in groups.items() if any((leaf != 0).any() for leaf in jax.tree.leaves(tree))}
        for name, groups in slopes.items()
    }
    assert reached == {
        "squared_error": {"encoder", "decoder"},
        "kl": {"encoder", "prior"},
        "loss": {"encoder", "decoder", "prior"},
    }
    combined = jax.tree.map(lambda error, kl: 0.7 * error + 0.3 * kl, slopes["squared_error"], slopes["kl"])
    assert_close(slopes["loss"], combined, rtol=1e-4, atol=1e-3)


def test_the_conditional_prior_begins_as_the_standard_one():
    params, state = cvae.build(CONDITIONAL).init(KEY, batch())
    plain, plain_state = cvae.build(CONFIG).init(KEY, batch())
    assert set(state) == {"encoder", "decoder", "prior"}
    assert set(plain_state) == {"encoder", "decoder"}
    assert_close({group: params[group] for group in plain}, plain, rtol=0, atol=0)
    standard, conditional = (
        cvae.build(config).evaluate(cvae.phases(config, 1)[0])(params, state, batch(), KEY)
        for config in (CONFIG, CONDITIONAL)
    )
    assert_close(dict(standard), dict(conditional), rtol=0, atol=0)
    evaluate = cvae.build(CONDITIONAL).evaluate(cvae.phases(CONDITIONAL, 1)[0])
    slope = jax.grad(lambda prior: evaluate({**params, "prior": prior}, state, batch(), KEY)["kl"].sum())(
        params["prior"]
    )
    assert all((slope[name]["kernel"] != 0).any() for name in ("mean", "logvar"))  # it leaves this place


# --- images of any size ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "count", "parameters"),
    [((218, 178), 40, 67_385_507), ((244, 244), 512, 213_816_611), ((9, 16), 1, 350_723)],
)
def test_sizes_and_parameter_counts(size, count, parameters):
    """178x218 is padded to 180x220 and cut again (CV-02), 244 = 4 * 61 is not."""
    config = Config(image_size=size, attributes=tuple(f"attribute {number}" for number in range(count)))
    model, (phase,) = cvae.build(config), cvae.phases(config, STEPS)
    data = {
        "image": jax.ShapeDtypeStruct((2, *size, 3), jnp.uint8),
        "attributes": jax.ShapeDtypeStruct((2, count), jnp.float32),
    }
    params, state = jax.eval_shape(lambda data: model.init(KEY, data), data)
    flat = 64 * -(-size[0] // 4) * -(-size[1] // 4)
    encoder = 9 * (3 + count) * 32 + 32 + 9 * 32 * 64 + 64 + 2 * (flat + 1) * 128
    decoder = (128 + count + 1) * flat + 16 * 64 * 32 + 32 + 16 * 32 * 3 + 3
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == encoder + decoder == parameters
    decoded = jax.eval_shape(
        model.decode, params, state, jax.ShapeDtypeStruct((2, 128), jnp.float32), data["attributes"]
    )
    assert decoded.shape == (2, *size, 3)
    assert phase.image_size == size
    out = jax.eval_shape(model.rounds(phase)[0].losses, params, state, data, KEY, 0)
    assert out.objectives["cvae"].shape == ()


def test_every_pixel_is_learned_and_every_row_and_column_is_seen():
    """CV-02: 7 x 10 is padded to 8 x 12; the ends of the image count in the error and reach the latents."""
    (params, state), data = variables(), batch()
    model = cvae.build(CONFIG)

    @jax.jit
    @jax.jacrev
    def outputs(bias):
        """The image's sensitivity to the decoder's dense layer."""
        dense = {**params["decoder"]["Dense_0"], "bias": bias}
        decoder = {**params["decoder"], "Dense_0": dense}
        return model.decode({**params, "decoder": decoder}, state, jnp.zeros((1, LATENT)), data["attributes"][:1])

    reached = np.abs(outputs(params["decoder"]["Dense_0"]["bias"])).max(-1) > 0
    assert reached.shape == (1, *SIZE, 3)
    assert reached.all()

    def latents(x):
        mean, logvar = model.encode(params, state, x, data["attributes"])
        return jnp.sin(mean).sum() + jnp.sin(logvar).sum()

    seen = np.abs(jax.jit(jax.grad(latents))(data["image"] / 127.5 - 1)).max((0, 3)) > 0
    assert seen.any(0).all()
    assert seen.any(1).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (faces(2, (10, 7)), r"batch\['image'\] has shape \(2, 10, 7, 3\); expected \(B, 7, 10, 3\)"),
        (faces(2, SIZE, 9), r"batch\['attributes'\] has shape \(2, 9\); expected \(B, 10\)"),
    ],
)
def test_batches_of_another_shape_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        cvae.build(CONFIG).init(KEY, values)


# --- functions ------------------------------------------------------------------------------------------------------


def test_attributes_change_every_function():
    data = batch()
    x, a, z = data["image"] / 127.5 - 1, data["attributes"], jax.random.normal(KEY, (BATCH, LATENT))
    other = a.at[0, 3].set(1 - a[0, 3])
    for name, first in (("encode", (x,)), ("decode", (z,)), ("prior", ())):
        before, after = (jax.tree.leaves(run(name, *first, bits)) for bits in (a, other))
        for old, new in zip(before, after, strict=True):
            assert (old[0] != new[0]).any(), name
            np.testing.assert_array_equal(old[1:], new[1:])


@PRIORS
def test_samples_belong_to_their_key_and_row(config):
    a = batch()["attributes"]
    sample = functools.partial(run, "sample", config=config)
    whole = sample(KEY, a)
    assert whole.shape == (BATCH, *SIZE, 3)
    assert float(jnp.abs(whole).max()) <= 1
    np.testing.assert_allclose(sample(KEY, a[:2]), whole[:2], atol=1e-6)
    assert (sample(jax.random.key(8), a) != whole).any((1, 2, 3)).all()
    same = sample(KEY, jnp.broadcast_to(a[:1], a.shape))  # the same attributes, another latent code
    np.testing.assert_allclose(same[0], whole[0], atol=1e-6)
    assert (same[1:] != same[:1]).any((1, 2, 3)).all()
    mean, logvar = run("prior", a, config=config)
    z = mean + jnp.exp(logvar / 2) * random.standard_normal(KEY, (BATCH, LATENT))
    np.testing.assert_allclose(whole, run("decode", z, a, config=config), atol=1e-5)


def test_a_run_takes_attributes():
    """Through `runs.Run`, which compiles: the count of other models is a shape, attributes are an array."""
    (params, state), data = variables(), batch()
    run_ = runs.Run(cvae.build(CONDITIONAL), CONDITIONAL, params, state, "training", 0, {})
    x, a = data["image"] / 127.5 - 1, data["attributes"]
    assert set(run_.functions) == {"encode", "decode", "prior", "sample"}
    np.testing.assert_allclose(run_.sample(KEY, a), run("sample", KEY, a), atol=1e-6)
    mean, logvar = run_.encode(x, a)
    assert_close((mean, logvar), tuple(run("encode", x, a)))
    np.testing.assert_allclose(run_.decode(mean, a), run("decode", mean, a), atol=1e-6)


def test_decoded_images_are_bounded_and_the_models_own():
    data = batch()
    z = 100 * jax.random.normal(KEY, (BATCH, LATENT))
    decoded = run("decode", z, data["attributes"])
    assert float(jnp.abs(decoded).max()) <= 1
    assert float(jnp.abs(decoded).max()) > 0.99
    assert set(cvae.build(CONFIG).functions) == {"prior"}
    for head in run("prior", data["attributes"], config=CONFIG):
        np.testing.assert_array_equal(head, np.zeros((BATCH, LATENT)))


# --- configuration --------------------------------------------------------------------------------------------------


def test_the_schedule():
    (phase,) = cvae.phases(Config(), steps_per_epoch=2543)
    assert (phase.name, phase.start, phase.steps) == ("training", 0, 50 * 2543)
    assert (phase.batch_size, phase.image_size) == (64, (218, 178))
    assert phase.learning_rates == {"encoder": 1e-3, "decoder": 1e-3}
    tx = cvae.build(Config()).optimizers(phase)["encoder"]
    gradient = jnp.array([1e-8, -2.0])
    update, _ = tx.update(gradient, tx.init(gradient))
    np.testing.assert_allclose(update, [-0.5, 1.0], rtol=1e-5)


def effects(config):
    """Numbers and shapes that a field may change, by what it changes."""
    (phase,) = cvae.phases(config, STEPS)
    params = jax.eval_shape(lambda: cvae.build(config).init(KEY, batch(config))[0])
    shapes = jax.tree.map(lambda leaf: leaf.shape, params)
    given = jax.tree.map(lambda leaf: leaf.shape, variables()[0])
    result = {
        "schedule": (phase.steps, phase.batch_size, phase.image_size),
        "rates": set(phase.learning_rates.items()),
        "shapes": shapes,
    }
    if shapes == {group: given[group] for group in shapes}:
        result["loss"] = float(trained(config).objectives["cvae"])
    return result


EFFECTS = {
    "image_size": ((8, 9), {"schedule", "loss"}),  # padded to the same size
    "attributes": (("bald", "smiling"), {"shapes", "loss"}),
    "latent_size": (4, {"shapes", "loss"}),
    "widths": ((4, 5), {"shapes", "loss"}),
    "prior": ("standard", {"rates", "shapes", "loss"}),
    "prior_hidden": (6, {"shapes", "loss"}),
    "beta": (0.6, {"loss"}),
    "epochs": (5, {"schedule"}),
    "batch_size": (5, {"schedule"}),
    "learning_rate": (0.1, {"rates"}),
    "compute_dtype": ("bfloat16", {"loss"}),
}


def test_the_table_of_effects_is_complete():
    assert set(EFFECTS) == {field.name for field in dataclasses.fields(Config)}


@functools.cache
def unchanged():
    return effects(CONDITIONAL)


@pytest.mark.parametrize("name", EFFECTS)
def test_every_field_has_its_effect_and_no_other(name):
    value, expected = EFFECTS[name]
    changed = effects(dataclasses.replace(CONDITIONAL, **{name: value}))
    assert {effect for effect in unchanged() if unchanged()[effect] != changed.get(effect)} == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beta": 0.0}, r"beta is 0\.0; expected between 0 and 1: the squared error is weighted 1 - beta\."),
        ({"beta": 1.0}, r"beta is 1\.0; expected between 0 and 1"),
        ({"beta": float("nan")}, r"beta is nan; expected between 0 and 1"),
        ({"image_size": (218,)}, r"image_size is \(218,\); expected height and width, each at least 4 for 2 widths"),
        ({"image_size": (3, 64)}, r"image_size is \(3, 64\); expected height and width, each at least 4"),
        ({"image_size": (64, 64), "widths": (4,) * 7}, r"image_size is \(64, 64\); .* at least 128 for 7 widths"),
        ({"widths": ()}, r"widths are \(\); expected at least one, and each at least 1\."),
        ({"widths": (8, 0)}, r"widths are \(8, 0\); expected at least one, and each at least 1\."),
        ({"prior": "learned"}, r"prior is 'learned'; choose one of 'standard', 'conditional'\."),
        ({"compute_dtype": "float16"}, r"compute_dtype is 'float16'; choose one of 'float32', 'bfloat16'\."),
        ({"latent_size": 0}, r"latent_size is 0; expected at least 1\."),
        ({"prior_hidden": 0}, r"prior_hidden is 0; expected at least 1\."),
        ({"epochs": 0}, r"epochs is 0; expected at least 1\."),
        ({"batch_size": 0}, r"batch_size is 0; expected at least 1\."),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0; expected a number above 0\."),
        ({"attributes": ()}, r"attributes are \(\); expected at least one name and no name twice\."),
        ({"attributes": ("bald", "bald")}, r"expected at least one name and no name twice\."),
    ],
)
def test_impossible_configurations_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Config(**fields)
