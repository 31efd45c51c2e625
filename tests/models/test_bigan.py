"""BiGAN and the latent regressors: objectives, statistics, routing, conventions of codes, and the schedule."""

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
from mvae_jax.models import ZOO, bigan
from mvae_jax.nets import bigan as networks
from mvae_jax.train import state as states
from mvae_jax.train.step import make_train_step

BATCH, SIZE, LATENT, WIDTHS = 6, 4, 3, (6, 5)
KEY = jax.random.key(7)
SMALL = {
    "image_size": SIZE,
    "latent_size": LATENT,
    "channels": 3,
    "widths": WIDTHS,
    "batch_size": BATCH,
    "epochs": 4,
    "decayed_epochs": 1,
}
GROUPS = ("generator", "encoder", "discriminator")
NAMES = ("bigan", "latent_regressor", "joint_latent_regressor")
STEPS = 5  # per epoch
RATE = 0.05
# Each model, and BiGAN as ALI.
CASES = {
    "bigan": ("bigan", {}),
    "ali": ("bigan", {"encoder": "gaussian"}),
    "latent_regressor": ("latent_regressor", {}),
    "joint_latent_regressor": ("joint_latent_regressor", {"regression_weight": 0.7}),
}
# As the configuration above says, but spelled out.
NETS = {
    "generator": networks.Generator((SIZE, SIZE, 3), WIDTHS[::-1]),
    "encoder": networks.Encoder(LATENT, WIDTHS),
    "discriminator": networks.Discriminator(WIDTHS),
}
ALI_ENCODER = networks.Encoder(LATENT, WIDTHS, heads=2)


def config_of(name, **fields):
    return ZOO[name].config(**{**SMALL, **fields})


@functools.cache
def batch():
    return {"image": jnp.asarray(faces(BATCH, SIZE)["image"])}


@functools.cache
def variables(case):
    """Parameters and batch statistics, no longer zeros and ones where initialisation left those."""
    name, fields = CASES[case]
    params, state = jax.device_get(ZOO[name].build(config_of(name, **fields)).init(jax.random.key(0), batch()))
    assert set(params) == set(state) == set(GROUPS)
    generator = np.random.default_rng(3)
    params = jax.tree.map(lambda p: p + 0.5 * generator.normal(size=p.shape).astype(np.float32), params)
    state = jax.tree.map(lambda s: s + generator.uniform(0.1, 0.5, s.shape).astype(np.float32), state)
    return jax.tree.map(jnp.asarray, (params, state))


def setup(case, **more):
    """Model, phase and round."""
    name, fields = CASES[case]
    config = config_of(name, **{**fields, **more})
    model, (phase,) = ZOO[name].build(config), ZOO[name].phases(config, STEPS)
    (round_,) = model.rounds(phase)
    return model, phase, round_


@functools.cache
def losses_of(case, **more):
    return jax.jit(setup(case, **more)[2].losses)


def results(case, key=KEY):
    return losses_of(case)(*variables(case), batch(), key, 0)


def assert_close(got, expected, rtol=2e-5, atol=3e-5):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path))


# --- the transcription ----------------------------------------------------------------------------------------------


def softplus(x):
    return np.log1p(np.exp(x))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


applied = jax.jit(lambda net, train, *values: nets.apply(net, *values, train=train), static_argnums=(0, 1))


class Forward:
    """Outputs of the networks, each pass with the statistics that the one before it left."""

    def __init__(self, case, train=True):
        self.case, self.train = case, train
        self.params, self.state = variables(case)
        self.state = dict(self.state)
        self.x = np.asarray(batch()["image"], np.float64) / 255

    def run(self, group, *values):
        net = ALI_ENCODER if self.case == "ali" and group == "encoder" else NETS[group]
        values = [jnp.asarray(value, jnp.float32) for value in values]
        out, self.state[group] = applied(net, self.train, self.params[group], self.state[group], *values)
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), out)

    def generate(self, z):
        return sigmoid(self.run("generator", z))


def uniform_draw(key=KEY):
    u = np.asarray(random.uniform(jax.random.fold_in(key, 1), (BATCH, LATENT)), np.float64)
    return 2 * u - 1


def discriminator_metrics(real, fake):
    return {
        "discriminator/real_error": softplus(-real).mean(),
        "discriminator/fake_error": softplus(fake).mean(),
        "discriminator/real_accuracy": (real > 0).mean(),
        "discriminator/fake_accuracy": (fake < 0).mean(),
    }


@pytest.mark.parametrize("case", ["bigan", "ali"])
def test_the_joint_objectives_are_their_transcription(case):
    """Real pairs go before generated ones, each with their statistics; labels are exchanged for E and G."""
    forward, z = Forward(case), uniform_draw()
    fake = forward.generate(z)
    code, *logvar = forward.run("encoder", forward.x)
    if case == "ali":
        noise = np.asarray(random.standard_normal(jax.random.fold_in(KEY, 2), (BATCH, LATENT)), np.float64)
        code = code + np.exp(logvar[0] / 2) * noise
        assert np.abs(noise).min() > 1e-3
    latent = 2 * sigmoid(code) - 1
    real_logits, fake_logits = forward.run("discriminator", forward.x, latent), forward.run("discriminator", fake, z)
    out = results(case)
    expected = {
        "discriminator": (softplus(-real_logits) + softplus(fake_logits)).mean() / 2,
        "generator": (softplus(real_logits) + softplus(-fake_logits)).mean() / 2,
    }
    assert_close(dict(out.objectives), expected)
    assert_close(dict(out.metrics), discriminator_metrics(real_logits, fake_logits))
    assert_close(dict(out.state), jax.tree.map(np.asarray, forward.state))


@pytest.mark.parametrize("case", ["latent_regressor", "joint_latent_regressor"])
def test_the_regressors_are_their_transcription(case):
    """The encoder learns from generated images alone; its error is the mean cross-entropy with (z + 1) / 2."""
    forward, z = Forward(case), uniform_draw()
    fake = forward.generate(z)
    before = forward.state["encoder"]
    (code,) = forward.run("encoder", fake)
    forward.state["encoder"] = before
    forward.run("encoder", forward.x)
    real_logits, fake_logits = forward.run("discriminator", forward.x), forward.run("discriminator", fake)
    target, guess = (z + 1) / 2, sigmoid(code)
    regression = -(target * np.log(guess) + (1 - target) * np.log(1 - guess)).mean()
    weight = {"latent_regressor": 0.0, "joint_latent_regressor": 0.7}[case]
    out = results(case)
    expected = {
        "discriminator": (softplus(-real_logits) + softplus(fake_logits)).mean() / 2,
        "generator": softplus(-fake_logits).mean() + weight * regression,
        "encoder": regression,
    }
    assert_close(dict(out.objectives), expected)
    assert_close(dict(out.metrics), {"encoder/error": regression, **discriminator_metrics(real_logits, fake_logits)})
    assert_close(dict(out.state), jax.tree.map(np.asarray, forward.state))


@pytest.mark.parametrize("case", ["latent_regressor", "joint_latent_regressor"])
def test_statistics_of_the_encoder_are_those_of_real_images(case):
    """After 900 steps, of which a momentum of .99 has forgotten the beginning (AL-11)."""
    params, state = variables(case)
    losses = losses_of(case)
    for step in range(900):
        state = losses(params, state, batch(), jax.random.fold_in(KEY, step), step).state
    h = np.asarray(batch()["image"], np.float64).reshape(BATCH, -1) / 255
    h = h @ np.asarray(params["encoder"]["Dense_0"]["kernel"], np.float64)
    h = np.where(h > 0, h, 0.2 * h) @ np.asarray(params["encoder"]["Dense_1"]["kernel"], np.float64)
    (norm,) = state["encoder"].values()
    assert_close(norm, {"mean": h.mean(0), "var": h.var(0, ddof=1)}, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_steps_have_draws_of_their_own(case):
    for a, b in zip(
        results(case).objectives.values(), results(case, jax.random.key(8)).objectives.values(), strict=True
    ):
        assert abs(a - b) > 1e-3


# --- who moves ------------------------------------------------------------------------------------------------------


@functools.cache
def gradients(case):
    """{objective: {group: gradient}}, by differentiating each alone."""
    params, state = variables(case)

    def losses(params):
        return dict(setup(case)[2].losses(params, state, batch(), KEY, 0).objectives)

    return jax.jit(jax.jacrev(losses))(params)


@functools.cache
def moved_by(case):
    """How far a step of gradient descent moves each parameter, per unit of the rate."""
    model, phase, round_ = setup(case)
    phase = dataclasses.replace(phase, learning_rates=dict.fromkeys(GROUPS, RATE))
    optimizers = {group: optax.sgd(1.0) for group in GROUPS}
    params, model_state = variables(case)
    state = jax.jit(lambda data: states.create(model, phase, KEY, data))(batch())
    opt_state = {group: optimizers[group].init(params[group]) for group in GROUPS}
    state = state.replace(params=params, model_state=model_state, opt_state=opt_state)
    # The step folds its number into the key; the losses above have the key itself.
    fixed = dataclasses.replace(
        round_, losses=lambda params, state, data, key, step: round_.losses(params, state, data, KEY, 0)
    )
    new, metrics = jax.jit(make_train_step([fixed], optimizers, phase))(state, batch())
    assert metrics["step/finite"] == 1
    return jax.tree.map(lambda a, b: (np.asarray(a) - np.asarray(b)) / RATE, params, new.params)


def norm(tree):
    return float(optax.tree.norm(tree))


@pytest.mark.parametrize("case", ["bigan", "latent_regressor", "joint_latent_regressor"])
def test_each_network_follows_its_own_objective(case):
    found, expected = moved_by(case), gradients(case)
    follows = {"generator": "generator", "discriminator": "discriminator"}
    follows["encoder"] = "generator" if case == "bigan" else "encoder"
    for group, objective in follows.items():
        assert_close(found[group], expected[objective][group], atol=5e-5)
        assert norm(expected[objective][group]) > 1e-2
        for other in set(expected) - {objective}:  # a wrong one would have been seen
            if norm(expected[other][group]):
                difference = jax.tree.map(lambda a, b: a - b, expected[objective][group], expected[other][group])
                assert norm(difference) > 1e-2


def test_the_regression_moves_the_encoder_alone_unless_it_is_joint():
    """What the generator gets besides is the weight times the gradient of the encoder's error (JLR)."""
    regression = gradients("joint_latent_regressor")["encoder"]
    assert norm(regression["generator"]) > 1e-2
    assert norm(regression["discriminator"]) == 0
    plain, joint = gradients("latent_regressor")["generator"], gradients("joint_latent_regressor")["generator"]
    assert norm(plain["encoder"]) == 0
    assert norm(joint["encoder"]) > 1e-2  # which its round does not let through
    extra = jax.tree.map(lambda a, b: a - b, joint["generator"], plain["generator"])
    assert_close(extra, jax.tree.map(lambda leaf: 0.7 * leaf, regression["generator"]), atol=2e-5)
    for group in ("encoder", "discriminator"):
        assert_close(moved_by("latent_regressor")[group], moved_by("joint_latent_regressor")[group], atol=2e-5)


def test_a_regression_without_weight_costs_nothing():
    """Floating-point operations of the generator's gradient, before any optimisation by the compiler."""

    def flops(weight):
        params, state = variables("joint_latent_regressor")
        round_ = setup("joint_latent_regressor", regression_weight=weight)[2]

        def loss(params):
            return round_.losses(params, state, batch(), KEY, 0).objectives["generator"]

        return jax.jit(jax.grad(loss)).lower(params).cost_analysis()["flops"]

    assert flops(0.0) < 0.9 * flops(0.25)


@pytest.mark.parametrize("case", CASES)
def test_what_trains_whom(case):
    trains = setup(case)[2].trains
    if case in ("bigan", "ali"):
        assert trains == {"generator": ("generator", "encoder"), "discriminator": ("discriminator",)}
    else:
        assert trains == {group: (group,) for group in GROUPS}


# --- phases, optimisers, configurations -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_published_schedule(name):
    (phase,) = ZOO[name].phases(ZOO[name].config(), 468)
    assert (phase.name, phase.start, phase.steps) == ("training", 0, 400 * 468)
    assert (phase.batch_size, phase.image_size, phase.ema_decay) == (128, 28, None)
    assert set(phase.learning_rates) == set(GROUPS)
    for rate in phase.learning_rates.values():
        found = [rate(jnp.int32(epoch * 468)) for epoch in (0, 200, 300, 400)]
        np.testing.assert_allclose(found, [2e-4, 2e-4, 2e-5, 2e-6], rtol=1e-5)
    assert ZOO["joint_latent_regressor"].config().regression_weight == 0.25


def test_the_optimiser_is_adam_with_l2_but_for_gains():
    """At a gradient of zero the first step is minus the sign of what decays."""
    model, phase, _ = setup("bigan", l2=1e-3)
    assert set(model.optimizers(phase)) == set(GROUPS)
    params, tx = variables("bigan")[0]["generator"], model.optimizers(phase)["generator"]
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates = jax.jit(lambda params: tx.update(zeros, tx.init(params), params)[0])(params)
    for (path, update), leaf in zip(jax.tree.leaves_with_path(updates), jax.tree.leaves(params), strict=True):
        expected = 0 * leaf if path[-1].key == "scale" else -jnp.sign(leaf)
        np.testing.assert_allclose(update, expected, atol=0.05)
    zero, one = {"bias": jnp.zeros(())}, {"bias": jnp.ones(())}
    _, adam, _ = tx.update(one, tx.init(zero), zero)[1]
    assert (float(adam.mu["bias"]), float(adam.nu["bias"])) == pytest.approx((0.5, 0.001), rel=1e-5)


def effects(name, config):
    """Numbers and shapes that a field may change, by what it changes."""
    model, (phase,) = ZOO[name].build(config), ZOO[name].phases(config, STEPS)
    data = {"image": jnp.zeros((2, config.image_size, config.image_size, config.channels), jnp.uint8)}
    given = variables(name)[0]
    shapes = jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(lambda: model.init(KEY, data))[0])
    found = {
        "schedule": (phase.steps, phase.batch_size, phase.image_size),
        "rates": [float(phase.learning_rates["encoder"](jnp.int32(step))) for step in (0, 13, 18)],
        "shapes": shapes,
    }
    if shapes == jax.tree.map(lambda leaf: leaf.shape, given):
        (round_,) = model.rounds(phase)
        objectives = jax.jit(lambda: dict(round_.losses(*variables(name), batch(), KEY, 0).objectives))()
        found["losses"] = {objective: float(value) for objective, value in objectives.items()}
        tx = model.optimizers(phase)["encoder"]
        kernel = {"kernel": given["encoder"]["Dense_0"]["kernel"]}
        found["optimiser"] = float(tx.update(kernel, tx.init(kernel), kernel)[1][1].mu["kernel"].sum())
    return found


SHAPED = {"shapes", "losses", "optimiser"}
COMMON = {
    "image_size": (5, {"schedule"} | SHAPED),
    "channels": (1, SHAPED),
    "latent_size": (2, SHAPED),
    "widths": ((6, 4), SHAPED),
    "epochs": (5, {"schedule", "rates"}),
    "decayed_epochs": (2, {"rates"}),
    "batch_size": (5, {"schedule"}),
    "learning_rate": (0.1, {"rates"}),
    "l2": (0.5, {"optimiser"}),
    "norm_epsilon": (1e-3, {"losses"}),
    "mean_errors": (False, {"losses"}),
    "compute_dtype": ("bfloat16", {"losses"}),
}
OWN = {
    "bigan": {"encoder": ("gaussian", SHAPED), "squash_codes": (False, {"losses"})},
    "latent_regressor": {},
    "joint_latent_regressor": {"regression_weight": (0.5, {"losses"})},
}
FIELDS = [
    *(("latent_regressor", field, *effect) for field, effect in COMMON.items()),
    *((name, field, *effect) for name, own in OWN.items() for field, effect in own.items()),
]


def test_the_tables_of_effects_are_complete():
    for name, own in OWN.items():
        assert {field.name for field in dataclasses.fields(ZOO[name].config)} == set(COMMON) | set(own)


@functools.cache
def unchanged(name):
    return effects(name, config_of(name))


@pytest.mark.parametrize(("name", "field", "value", "expected"), FIELDS)
def test_every_field_has_its_effect_and_no_other(name, field, value, expected):
    before, changed = unchanged(name), effects(name, config_of(name, **{field: value}))
    assert {effect for effect in before if before[effect] != changed.get(effect)} == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decayed_epochs": 401}, r"decayed_epochs is 401; expected at most epochs, 400\."),
        ({"epochs": 100}, r"decayed_epochs is 200; expected at most epochs, 100\."),
        ({"decayed_epochs": -1}, r"decayed_epochs is -1; expected at least 0\."),
        ({"compute_dtype": "float16"}, r"compute_dtype is 'float16'; choose one of 'float32', 'bfloat16'\."),
        ({"widths": ()}, r"widths are \(\); expected at least one, and each at least 1\."),
        ({"image_size": 0}, r"image_size is 0; expected at least 1\."),
        ({"channels": 0}, r"channels is 0; expected at least 1\."),
        ({"latent_size": 0}, r"latent_size is 0; expected at least 1\."),
        ({"epochs": 0}, r"epochs is 0; expected at least 1\."),
        ({"batch_size": 0}, r"batch_size is 0; expected at least 1\."),
        ({"l2": -1e-3}, r"l2 is -0\.001; expected at least 0\."),
        ({"norm_epsilon": 0.0}, r"norm_epsilon is 0\.0; expected a number above 0\."),
        ({"learning_rate": float("nan")}, r"learning_rate is nan; expected a number above 0\."),
    ],
)
def test_impossible_configurations_are_refused(name, fields, message):
    with pytest.raises(ValueError, match=message):
        ZOO[name].config(**fields)


def test_impossible_configurations_of_one_model_are_refused():
    with pytest.raises(ValueError, match=r"encoder is 'normal'; choose one of 'deterministic', 'gaussian'\."):
        ZOO["bigan"].config(encoder="normal")
    with pytest.raises(ValueError, match=r"regression_weight is -0\.1; expected at least 0\."):
        ZOO["joint_latent_regressor"].config(regression_weight=-0.1)
    with pytest.raises(ValueError, match=r"batch\['image'\] has shape \(6, 4, 4, 3\); expected \(B, 4, 4, 1\)"):
        ZOO["bigan"].build(config_of("bigan", channels=1)).init(KEY, batch())


# --- terms ----------------------------------------------------------------------------------------------------------


def test_terms_are_functions_of_logits_and_codes():
    real, fake, code, u = (
        np.random.default_rng(n).normal(size=shape) for n, shape in enumerate([4, 4, (4, 3), (4, 3)])
    )
    z = np.tanh(u)
    arrays = [jnp.asarray(value, jnp.float32) for value in (real, fake, code, z)]
    metrics = discriminator_metrics(real, fake)
    joint = jax.device_get(bigan.joint_terms(*arrays[:2]))
    assert_close(
        {name: joint[name] for name in ("generator/error", "encoder/error")},
        {"generator/error": softplus(-fake), "encoder/error": softplus(real)},
    )
    regressor = jax.device_get(bigan.regressor_terms(*arrays))
    target = (z + 1) / 2
    entropy = -(target * np.log(sigmoid(code)) + (1 - target) * np.log(1 - sigmoid(code))).sum(1)
    assert_close(
        {name: regressor[name] for name in ("generator/error", "encoder/error")},
        {"generator/error": softplus(-fake), "encoder/error": entropy},
    )
    for terms in (joint, regressor):
        assert all(values.shape == (4,) for values in terms.values())
        assert_close({name: terms[name].mean() for name in metrics}, metrics)


# --- inference ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_codes_and_images_in_evaluation_mode(case):
    (model, phase, _), values, forward = setup(case), variables(case), Forward(case, train=False)
    pixels = jnp.asarray(2 * forward.x - 1, jnp.float32)
    code, *expected_logvar = forward.run("encoder", forward.x)
    mean, logvar = jax.jit(model.encode)(*values, pixels)
    assert_close(mean, code)
    if case == "ali":
        assert_close(logvar, expected_logvar[0])
    else:
        assert logvar is None
    z = 2 * sigmoid(code) - 1  # a code is the logit of (z + 1) / 2
    output = forward.generate(z)
    assert_close(jax.jit(model.decode)(*values, mean), 2 * output - 1)
    error = ((output - forward.x) ** 2).mean((1, 2, 3))
    found = jax.jit(model.evaluate(phase))(*values, batch(), KEY)
    assert_close(dict(found), {"loss": error, "mean_squared_error": error})

    assert set(model.functions) == {"features", "discriminate"}
    logits = forward.run("discriminator", forward.x, *([z] if case in ("bigan", "ali") else []))
    assert_close(jax.jit(model.functions["discriminate"])(*values, pixels), logits)
    net = ALI_ENCODER if case == "ali" else NETS["encoder"]
    x = jnp.asarray(forward.x, jnp.float32)
    hidden = nets.features(net, values[0]["encoder"], values[1]["encoder"], x)
    assert hidden.shape == (BATCH, WIDTHS[-1])
    assert_close(jax.jit(model.functions["features"])(*values, pixels), np.asarray(hidden))


@pytest.mark.parametrize(("case", "squashed"), [*((case, True) for case in CASES), ("bigan", False), ("ali", False)])
def test_discriminator_and_generator_see_codes_within_the_priors_support(case, squashed, monkeypatch):
    """Of an encoder whose output is far outside (AL-10)."""
    options = {} if squashed else {"squash_codes": False}
    (model, _, round_), (params, state), seen, run = setup(case, **options), variables(case), [], nets.apply
    params = {**params, "encoder": {**params["encoder"], "mean": {"kernel": 50 * params["encoder"]["mean"]["kernel"]}}}

    def apply(net, params, stats, *inputs, train):
        if not isinstance(net, networks.Encoder):
            seen.extend(array for array in inputs if array.ndim == 2)
        return run(net, params, stats, *inputs, train=train)

    monkeypatch.setattr(nets, "apply", apply)
    round_.losses(params, state, batch(), KEY, 0)
    code = model.encode(params, state, batch()["image"] / jnp.float32(127.5) - 1)[0]
    model.decode(params, state, code)
    assert float(jnp.abs(code).max()) > 30
    # G's z, what D sees of either side, and G's code.
    assert len(seen) == (4 if case in ("bigan", "ali") else 2)
    largest = max(float(jnp.abs(array).max()) for array in seen)
    assert (largest <= 1) == squashed
    assert squashed or largest > 30


@pytest.mark.parametrize("name", NAMES)
def test_the_defaults_are_the_released_code(name):
    assert ZOO[name].config.reference() == ZOO[name].config()


@pytest.mark.parametrize("case", ["bigan", "latent_regressor"])
def test_samples_are_images_of_uniform_draws(case):
    (model, _, _), values, forward = setup(case), variables(case), Forward(case, train=False)
    u = np.asarray(random.uniform(KEY, (5, LATENT)), np.float64)
    sample = jax.jit(model.sample, static_argnums=3)
    five = sample(*values, KEY, 5)
    assert_close(five, 2 * forward.generate(2 * u - 1) - 1)
    assert_close(sample(*values, KEY, 3), np.asarray(five[:3]))
    assert float(jnp.abs(five).max()) <= 1
    if case == "latent_regressor":  # `decode` takes what `encode` would ideally have found
        logits = jnp.asarray(np.log(u / (1 - u)), jnp.float32)
        assert_close(model.decode(*values, logits), np.asarray(five))
