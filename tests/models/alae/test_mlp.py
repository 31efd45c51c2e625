"""ALAE with MLPs: the losses of its rounds, what they move, the mean latent, averages, inference and refusals."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from zoo import faces

from mvae_jax import nets, random
from mvae_jax.models import alae
from mvae_jax.models.alae import mlp
from mvae_jax.nets.alae import DenseEncoder
from mvae_jax.train import state as states
from mvae_jax.train.step import make_train_step

BATCH, SIZE, LATENT = 6, 4, 3
KEY = jax.random.key(7)
SMALL = {
    "image_size": SIZE,
    "channels": 3,
    "latent_size": LATENT,
    "widths": (6, 5),
    "encoder_slopes": (0.3, 0.2, 0.1),
    "generator_slopes": (0.4, 0.05),
    "mapping_layers": 2,
    "batch_size": BATCH,
    "epochs": 4,
}
GROUPS = ("mapping", "generator", "encoder", "discriminator")
STEPS = 5  # per epoch
RATE = 0.05


def config_of(**fields):
    return mlp.Config(**{**SMALL, **fields})


@functools.cache
def batch():
    return {"image": jnp.asarray(faces(BATCH, SIZE)["image"])}


@functools.cache
def variables():
    """Parameters with biases that are not zero, and a mean latent that is not either."""
    params, state = mlp.build(config_of()).init(jax.random.key(0), batch())
    assert set(params) == set(state) == set(GROUPS)
    assert not state["mapping"]["mean_latent"].any()
    generator = np.random.default_rng(3)
    params = jax.tree.map(lambda p: p + jnp.asarray(0.3 * generator.normal(size=p.shape), jnp.float32), dict(params))
    return params, {**state, "mapping": {"mean_latent": jnp.array([0.5, -1.0, 2.0])}}


def setup(config):
    """Model, phase and rounds."""
    model, (phase,) = mlp.build(config), mlp.phases(config, STEPS)
    return model, phase, model.rounds(phase)


@functools.cache
def all_losses(config):
    """What the three rounds return at the same parameters, of (params, state, key)."""
    rounds = setup(config)[2]
    return jax.jit(lambda params, state, key: [r.losses(params, state, batch(), key, 0) for r in rounds])


def round_results(config, key=KEY):
    return all_losses(config)(*variables(), key)


def assert_close(got, expected, rtol=2e-5, atol=2e-5):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path))


# --- the transcription ----------------------------------------------------------------------------------------------


def softplus(x):
    return np.log1p(np.exp(x))


class Forward:
    """The four networks in float64."""

    def __init__(self, config):
        self.config, params = config, variables()[0]
        self.params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
        self.x = np.asarray(batch()["image"], np.float64) / 255

    def stack(self, group, h, slopes):
        """Output, and what each layer multiplies its output's gradient by on the way back."""
        h, back = h.reshape(len(h), -1), []
        for layer, slope in enumerate(slopes):
            dense = self.params[group][f"Dense_{layer}"]
            h = h @ dense["kernel"] + dense["bias"]
            factor = np.where(h > 0, 1.0, slope)
            h = h * factor
            back.append((factor, dense["kernel"]))
        return h, back

    def latents(self, number, key=KEY):
        z = np.asarray(random.standard_normal(jax.random.fold_in(key, number), (BATCH, LATENT)), np.float64)
        return self.map(z)

    def map(self, z):
        z = z / np.sqrt((z**2).mean(1, keepdims=True) + 1e-8)
        return self.stack("mapping", z, (0.2,) * self.config.mapping_layers)[0]

    def generate(self, w):
        return self.stack("generator", w, (*self.config.generator_slopes, 1.0))[0].reshape(-1, SIZE, SIZE, 3)

    def encode(self, x):
        return self.stack("encoder", x, self.config.encoder_slopes)[0]

    def discriminate(self, x):
        """Logits [B], and their gradients by the pixels [B, H * W * C]."""
        w, encoding = self.stack("encoder", x, self.config.encoder_slopes)
        slope = 0.2 if self.config.discriminator_activation == "leaky_relu" else 1.0
        logits, judging = self.stack("discriminator", w, (slope, slope, 1.0))
        gradient = np.ones_like(logits)
        for factor, kernel in reversed(encoding + judging):
            gradient = (gradient * factor) @ kernel.T
        return logits[:, 0], gradient


CASES = {
    "default": {},
    "steep discriminator": {"discriminator_activation": "leaky_relu", "r1_weight": 3.0},
    "no penalty": {"r1_weight": 0.0},
    "as released": {"move_mapping_by_reciprocity": True},
}


@pytest.mark.parametrize("case", CASES)
def test_the_rounds_are_their_transcription(case):
    config = config_of(**CASES[case])
    forward = Forward(config)
    first, second, third = round_results(config)

    (real, gradient), (fake, _) = (
        forward.discriminate(forward.x),
        forward.discriminate(forward.generate(forward.latents(1))),
    )
    penalty = (gradient**2).sum(1).mean()
    assert penalty > 1e-3
    error = softplus(-real).mean() + softplus(fake).mean() + config.r1_weight / 2 * penalty
    metrics = {
        "discriminator/real_error": softplus(-real).mean(),
        "discriminator/fake_error": softplus(fake).mean(),
        "discriminator/real_accuracy": (real > 0).mean(),
        "discriminator/fake_accuracy": (fake < 0).mean(),
    }
    if config.r1_weight:
        metrics["discriminator/r1"] = penalty
    assert_close(dict(first.objectives), {"discriminator": error})
    assert_close(dict(first.metrics), metrics)
    assert first.state == {}

    w = forward.latents(2)
    error = softplus(-forward.discriminate(forward.generate(w))[0]).mean()
    assert_close(dict(second.objectives), {"generator": error})
    assert_close(dict(second.metrics), {"generator/error": error})
    mean_latent = 0.985 * np.array([0.5, -1.0, 2.0]) + 0.015 * w.mean(0)
    assert_close(second.state, {"mapping": {"mean_latent": mean_latent}})

    w = forward.latents(3)
    error = ((forward.encode(forward.generate(w)) - w) ** 2).mean()
    assert_close(dict(third.objectives), {"reciprocity": error})
    assert_close(dict(third.metrics), {"reciprocity/error": error})
    assert third.state == {}


def test_rounds_draw_their_own_latents_in_each_step():
    forward = Forward(config_of())
    drawn = [forward.latents(number, key) for number in (1, 2, 3) for key in (KEY, jax.random.key(8))]
    for index, own in enumerate(drawn):
        for other in drawn[:index]:
            assert np.abs(own - other).max() > 0.1
    for old, new in zip(round_results(config_of()), round_results(config_of(), jax.random.key(8)), strict=True):
        assert all(abs(old.objectives[name] - new.objectives[name]) > 1e-3 for name in old.objectives)


def test_the_penalty_of_an_affine_chain_is_the_norm_of_its_kernels():
    """D(E(x)) = a.x + b wherever E has a slope of 1: gamma / 2 |a|^2."""
    config = config_of(encoder_slopes=(1.0, 1.0, 1.0))
    params, _ = variables()
    product = functools.reduce(
        np.matmul,
        [np.asarray(params[g][f"Dense_{i}"]["kernel"]) for g in ("encoder", "discriminator") for i in range(3)],
    )
    first = round_results(config)[0]
    assert first.metrics["discriminator/r1"] == pytest.approx((product**2).sum(), rel=1e-5)
    rest = first.metrics["discriminator/real_error"] + first.metrics["discriminator/fake_error"]
    assert first.objectives["discriminator"] - rest == pytest.approx(5 * (product**2).sum(), rel=1e-4)


# --- who moves ------------------------------------------------------------------------------------------------------


@functools.cache
def after(config, *numbers):
    """The state before and after these rounds of one step of gradient descent, and its metrics."""
    model, phase, rounds = setup(config)
    params, model_state = variables()
    optimizers = {group: optax.sgd(1.0) for group in GROUPS}
    phase = dataclasses.replace(phase, learning_rates=dict.fromkeys(GROUPS, RATE))
    state = jax.jit(lambda data: states.create(model, phase, KEY, data))(batch())
    state = state.replace(
        params=params,
        model_state=model_state,
        opt_state={group: optimizers[group].init(params[group]) for group in GROUPS},
    )
    state = state.replace(ema=params if phase.ema_decay is not None else None)
    step = jax.jit(make_train_step([rounds[number - 1] for number in numbers], optimizers, phase))
    new, metrics = step(state, batch())
    assert metrics["step/finite"] == 1
    return state, new, metrics


def moved(old, new):
    return {
        group
        for group in old
        if any((a != b).any() for a, b in zip(jax.tree.leaves(old[group]), jax.tree.leaves(new[group]), strict=True))
    }


@pytest.mark.parametrize(
    ("number", "fields", "groups"),
    [
        (1, {}, {"encoder", "discriminator"}),
        (2, {}, {"mapping", "generator"}),
        (3, {}, {"encoder", "generator"}),
        (3, {"move_mapping_by_reciprocity": True}, {"encoder", "generator", "mapping"}),
    ],
)
def test_each_round_moves_its_networks_alone(number, fields, groups):
    old, new, _ = after(config_of(**fields), number)
    assert moved(old.params, new.params) == groups
    assert moved(old.model_state, new.model_state) == ({"mapping"} if number == 2 else set())
    (trained,) = setup(config_of(**fields))[2][number - 1].trains.values()
    assert set(trained) == groups
    for group in groups:  # all of each network moves
        for a, b in zip(jax.tree.leaves(old.params[group]), jax.tree.leaves(new.params[group]), strict=True):
            assert (a != b).any()


def run(params, group, h, slopes):
    """A network in jax.numpy, apart from the models'."""
    h = h.reshape(len(h), -1)
    for layer, slope in enumerate(slopes):
        h = h @ params[group][f"Dense_{layer}"]["kernel"] + params[group][f"Dense_{layer}"]["bias"][None]
        h = jnp.where(h > 0, h, slope * h)
    return h


def test_the_target_of_the_third_round_stands_still():
    """The gradient by F is that through G alone (AL-02), and those by E and G are with latents for constants."""
    config = config_of(move_mapping_by_reciprocity=True)
    old, new, _ = after(config, 3)
    z = random.standard_normal(jax.random.fold_in(jax.random.fold_in(old.key, 0), 3), (BATCH, LATENT))
    z = z / jnp.sqrt((z**2).mean(1, keepdims=True) + 1e-8)
    target = np.asarray(run(old.params, "mapping", z, (0.2, 0.2)))

    def error(params):
        w = run(params, "mapping", z, (0.2, 0.2))
        recovered = run(params, "encoder", run(params, "generator", w, (0.4, 0.05, 1.0)), (0.3, 0.2, 0.1))
        return ((recovered - target) ** 2).mean()

    gradient = jax.jit(jax.grad(error))(old.params)
    found = jax.tree.map(lambda a, b: (np.asarray(a) - np.asarray(b)) / RATE, old.params, new.params)
    assert_close(found, gradient, atol=2e-5)
    assert float(optax.tree.norm(gradient["mapping"])) > 1e-2
    without = after(config_of(), 3)[1]
    for group in ("encoder", "generator"):
        assert_close(without.params[group], new.params[group], rtol=0, atol=1e-6)


def test_rounds_follow_one_another():
    """The second sees what the first has made of E and D, and the mean latent is that before F moves."""
    old, new, metrics = after(config_of(), 1, 2, 3)
    _, half, _ = after(config_of(), 1)
    key = jax.random.fold_in(old.key, 0)
    found, stale = (all_losses(config_of())(params, old.model_state, key)[1] for params in (half.params, old.params))
    assert metrics["generator/error"] == pytest.approx(float(found.metrics["generator/error"]), rel=1e-5)
    assert abs(metrics["generator/error"] - stale.metrics["generator/error"]) > 1e-3
    assert_close(new.model_state["mapping"], dict(found.state["mapping"]))
    assert moved(old.params, new.params) == set(GROUPS)


def test_averages_follow_the_parameters():
    """A parameter has half of its weight after so many images: here after two steps."""
    config, decay = config_of(ema_half_life=2 * BATCH), 2**-0.5
    old, new, _ = after(config, 1, 2, 3)
    expected = jax.tree.map(
        lambda a, b: decay * np.asarray(a, np.float64) + (1 - decay) * np.asarray(b, np.float64), old.params, new.params
    )
    assert_close(dict(new.ema), expected, atol=1e-6)
    assert setup(config)[1].ema_decay == pytest.approx(decay)
    assert setup(config_of(ema_half_life=0))[1].ema_decay is None


def test_flat_images_move_everything_by_finite_steps():
    model, phase, rounds = setup(config_of())
    state = jax.jit(lambda data: states.create(model, phase, KEY, data))(batch())
    step = jax.jit(make_train_step(rounds, model.optimizers(phase), phase))
    for value in (0, 255, 128):
        state, metrics = step(state, {"image": jnp.full((BATCH, SIZE, SIZE, 3), value, jnp.uint8)})
        assert metrics["step/finite"] == 1
        assert all(np.isfinite(metric) for metric in metrics.values())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


# --- phases, optimisers, configurations -----------------------------------------------------------------------------


def test_the_published_schedule():
    (phase,) = mlp.phases(mlp.Config(), 468)
    assert (phase.name, phase.start, phase.steps) == ("training", 0, 400 * 468)
    assert (phase.batch_size, phase.image_size) == (128, 28)
    assert phase.learning_rates == dict.fromkeys(GROUPS, 2e-3)
    assert phase.ema_decay == pytest.approx(0.5 ** (128 / 10_000))


def test_networks_between_latents_are_slowed():
    """The first step is the sign of the gradient times sqrt(2 / fan-in), and a tenth of it for F and D."""
    (model, phase, _), (params, _) = setup(config_of()), variables()
    optimizers = model.optimizers(phase)
    assert set(optimizers) == set(GROUPS)
    for group, tx in optimizers.items():
        ones = jax.tree.map(jnp.ones_like, params[group])
        updates = jax.jit(lambda ones, tx=tx: tx.update(ones, tx.init(ones), ones)[0])(ones)
        slowed = 0.1 if group in ("mapping", "discriminator") else 1.0
        for layer, values in updates.items():
            fan_in = params[group][layer]["kernel"].shape[0]
            np.testing.assert_allclose(values["kernel"], -slowed * np.sqrt(2 / fan_in), rtol=1e-4)
            np.testing.assert_allclose(values["bias"], -slowed, rtol=1e-4)


def test_what_the_released_code_does_otherwise():
    default, reference = (dataclasses.asdict(config) for config in (mlp.Config(), mlp.Config.reference()))
    different = {field: (default[field], reference[field]) for field in default if default[field] != reference[field]}
    assert different == {"move_mapping_by_reciprocity": (False, True)}


def effects(config):
    """Numbers and shapes that a field may change, by what it changes."""
    model, phase, rounds = setup(config)
    data = {"image": jnp.zeros((2, config.image_size, config.image_size, config.channels), jnp.uint8)}
    shapes = jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(lambda: model.init(KEY, data))[0])
    found = {
        "schedule": (phase.steps, phase.batch_size, phase.image_size),
        "rates": phase.learning_rates,
        "averages": phase.ema_decay,
        "shapes": shapes,
        "trains": [round_.trains for round_ in rounds],
    }
    if shapes == jax.tree.map(lambda leaf: leaf.shape, variables()[0]):
        results = round_results(config)
        found["losses"] = [float(value) for result in results for value in result.objectives.values()]
        found["mean latent"] = results[1].state["mapping"]["mean_latent"].tolist()
    return found


OUTPUTS = {"losses", "mean latent"}
EFFECTS = {
    "image_size": (5, {"schedule", "shapes"} | OUTPUTS),
    "channels": (1, {"shapes"} | OUTPUTS),
    "latent_size": (2, {"shapes"} | OUTPUTS),
    "widths": ((6, 4), {"shapes"} | OUTPUTS),
    "encoder_slopes": ((0.3, 0.2, 0.2), {"losses"}),
    "generator_slopes": ((0.4, 0.1), {"losses"}),
    "mapping_layers": (3, {"shapes"} | OUTPUTS),
    "discriminator_layers": (2, {"shapes"} | OUTPUTS),
    "discriminator_activation": ("leaky_relu", {"losses"}),
    "r1_weight": (5.0, {"losses"}),
    "move_mapping_by_reciprocity": (True, {"trains"}),
    "mean_latent_decay": (0.9, {"mean latent"}),
    "ema_half_life": (100.0, {"averages"}),
    "epochs": (5, {"schedule"}),
    "batch_size": (5, {"schedule", "averages"}),
    "learning_rate": (0.1, {"rates"}),
    "compute_dtype": ("bfloat16", OUTPUTS),
}


def test_the_table_of_effects_is_complete():
    assert set(EFFECTS) == {field.name for field in dataclasses.fields(mlp.Config)}


@pytest.mark.parametrize("field", EFFECTS)
def test_every_field_has_its_effect_and_no_other(field):
    value, expected = EFFECTS[field]
    before, changed = effects(config_of()), effects(config_of(**{field: value}))
    assert {effect for effect in before if before[effect] != changed.get(effect)} == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"discriminator_activation": "relu"},
            r"discriminator_activation is 'relu'; choose one of 'none', 'leaky_relu'",
        ),
        ({"compute_dtype": "float16"}, r"compute_dtype is 'float16'; choose one of 'float32', 'bfloat16'\."),
        ({"widths": ()}, r"widths are \(\); expected at least one, and each at least 1\."),
        ({"widths": (8, 0)}, r"widths are \(8, 0\); expected at least one, and each at least 1\."),
        ({"widths": (8,)}, r"encoder_slopes are \(0\.2, 0\.2, 0\.01\); expected 2 of them for 1 widths\."),
        ({"generator_slopes": (0.1,)}, r"generator_slopes are \(0\.1,\); expected 2 of them for 2 widths\."),
        ({"mapping_layers": 0}, r"mapping_layers is 0; expected at least 1\."),
        ({"discriminator_layers": 0}, r"discriminator_layers is 0; expected at least 1\."),
        ({"image_size": 0}, r"image_size is 0; expected at least 1\."),
        ({"channels": 0}, r"channels is 0; expected at least 1\."),
        ({"latent_size": 0}, r"latent_size is 0; expected at least 1\."),
        ({"epochs": 0}, r"epochs is 0; expected at least 1\."),
        ({"batch_size": 0}, r"batch_size is 0; expected at least 1\."),
        ({"r1_weight": -1.0}, r"r1_weight is -1\.0; expected at least 0\."),
        ({"ema_half_life": -1.0}, r"ema_half_life is -1\.0; expected at least 0\."),
        ({"mean_latent_decay": -0.1}, r"mean_latent_decay is -0\.1; expected at least 0 and below 1\."),
        ({"mean_latent_decay": 1.0}, r"mean_latent_decay is 1\.0; expected at least 0 and below 1\."),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0; expected a number above 0\."),
    ],
)
def test_impossible_configurations_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        mlp.Config(**fields)


def test_data_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"batch\['image'\] has shape \(6, 4, 4, 3\); expected \(B, 4, 4, 1\)"):
        mlp.build(config_of(channels=1)).init(KEY, batch())


# --- inference ------------------------------------------------------------------------------------------------------


def test_functions_are_those_of_the_networks():
    config = config_of()
    model, forward, values = mlp.build(config), Forward(config), variables()
    x, w = jnp.asarray(2 * forward.x - 1, jnp.float32), forward.encode(forward.x)
    code, logvar = jax.jit(model.encode)(*values, x)
    assert_close(code, w)
    assert_close(model.encode(*values, batch()["image"])[0], w)
    assert logvar is None
    assert_close(model.decode(*values, code), 2 * forward.generate(w) - 1, atol=5e-5)
    assert float(jnp.abs(model.decode(*values, 100 * code)).max()) > 1  # without a bound
    assert set(model.functions) == {"map", "features", "discriminate"}
    z = np.random.default_rng(0).normal(size=(2, LATENT))
    assert_close(model.functions["map"](*values, jnp.asarray(z, jnp.float32)), forward.map(z))
    assert_close(model.functions["discriminate"](*values, x), forward.discriminate(forward.x)[0])
    net = DenseEncoder(LATENT, config.widths, config.encoder_slopes)
    hidden = nets.features(net, values[0]["encoder"], {}, jnp.asarray(forward.x, jnp.float32))
    assert hidden.shape == (BATCH, 5)
    assert_close(model.functions["features"](*values, x), np.asarray(hidden))


def test_truncation_goes_from_the_mean_latent_to_the_draw():
    model, values, forward = mlp.build(config_of()), variables(), Forward(config_of())
    z = np.asarray(random.standard_normal(KEY, (5, LATENT)), np.float64)
    w, mean = forward.map(z), np.array([0.5, -1.0, 2.0])
    sample = jax.jit(model.sample, static_argnums=3)
    plain = sample(*values, KEY, 5)
    assert plain.shape == (5, SIZE, SIZE, 3)
    assert_close(plain, 2 * forward.generate(w) - 1, atol=5e-5)
    np.testing.assert_array_equal(sample(*values, KEY, 5, truncation=1.0), plain)
    np.testing.assert_array_equal(sample(*values, KEY, 3), plain[:3])
    middle = np.broadcast_to(2 * forward.generate(mean[None]) - 1, plain.shape)
    assert_close(sample(*values, KEY, 5, truncation=0.0), middle, atol=5e-5)
    expected = 2 * forward.generate(0.7 * w + 0.3 * mean) - 1
    assert_close(sample(*values, KEY, 5, truncation=0.7), expected, atol=5e-5)
    assert np.abs(plain - middle).max() > 0.1


def test_terms_are_functions_of_images_and_codes():
    rng = np.random.default_rng(0)
    x, output, w, again = rng.normal(size=(2, 2, 2, 3)), rng.normal(size=(2, 2, 2, 3)), *rng.normal(size=(2, 2, 5))
    arrays = [jnp.asarray(value, jnp.float32) for value in (x, output, w, again)]
    for span in (1.0, 2.0):
        error = (((output - x) / span) ** 2).mean((1, 2, 3))
        expected = {"loss": error, "mean_squared_error": error, "latent_error": ((again - w) ** 2).mean(1)}
        assert_close(alae.terms(*arrays, span=span), expected)


def test_evaluation_is_its_transcription():
    model, phase, _ = setup(config_of())
    forward = Forward(config_of())
    w = forward.encode(forward.x)
    output = forward.generate(w)
    error = ((output - forward.x) ** 2).mean((1, 2, 3))
    again = ((forward.encode(output) - w) ** 2).mean(1)
    expected = {"loss": error, "mean_squared_error": error, "latent_error": again}
    assert_close(dict(jax.jit(model.evaluate(phase))(*variables(), batch(), KEY)), expected)
