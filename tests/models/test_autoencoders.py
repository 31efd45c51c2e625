"""Autoencoder, VAE, beta-VAE and beta-TCVAE: every term, weight and switch, against NumPy and against each other."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import faces

from mvae_jax import gaussian, losses, nets, random
from mvae_jax.models import ZOO, autoencoders
from mvae_jax.models.autoencoders import VariationalConfig
from mvae_jax.objective import Posterior

BATCH, SIZE, LATENT = 4, 8, 3
VALUES = SIZE * SIZE * 3  # of an image
STEPS = 3  # per epoch
KEY = jax.random.key(7)
SMALL = {"image_size": SIZE, "widths": (4, 6), "latent_size": LATENT, "batch_size": BATCH, "epochs": 4}
NAMES = ("vae", "beta_vae", "beta_tcvae")
LOG_SCALE = -0.9  # where it is learned; the configurations begin elsewhere
PARTS = losses.KLTerms._fields


def config_of(name, **fields):
    return ZOO[name].config(**{**SMALL, **fields})


@functools.cache
def batch(size=SIZE, channels=3):
    return {"image": jnp.asarray(faces(BATCH, size)["image"][..., :channels])}


@functools.cache
def variables(network="convolutional", heads=2):
    """Parameters and batch statistics, no longer zeros and ones where initialisation left those."""
    config, generator = config_of("vae", network=network), np.random.default_rng(3)
    x, z = jnp.zeros((1, SIZE, SIZE, 3)), jnp.zeros((1, LATENT))
    encoder = nets.init(config.encoder(heads), jax.random.key(0), x)
    decoder = nets.init(config.decoder(), jax.random.key(1), z)
    params = {"encoder": encoder[0], "decoder": decoder[0]}
    state = {"encoder": encoder[1], "decoder": decoder[1]}
    params, state = jax.device_get((params, state))
    params = jax.tree.map(lambda p: p + 0.2 * generator.normal(size=p.shape).astype(np.float32), params)
    state = jax.tree.map(lambda s: s + generator.uniform(0.1, 0.5, s.shape).astype(np.float32), state)
    return jax.tree.map(jnp.asarray, ({**params, "observation": {"log_scale": np.float32(LOG_SCALE)}}, state))


def round_of(name, config, steps=STEPS, axis_name=None):
    (phase,) = ZOO[name].phases(config, steps)
    (round_,) = ZOO[name].build(config).rounds(phase, axis_name)
    return round_


def heads_of(name):
    return 1 if name == "autoencoder" else 2


@functools.cache
def trained(name, config, step=0, steps=STEPS):
    """What the round returns."""
    values = variables(config.network, heads_of(name))
    run = round_of(name, config, steps).losses
    if config.compute_dtype == "bfloat16":  # operations in float32 are compiled once for all configurations
        run = jax.jit(run)
    return run(*values, batch(), KEY, jnp.asarray(step))


@functools.cache
def gradients(name, config, steps=STEPS):
    """The objective and its gradient by parameters, as one vector."""
    params, state = variables(config.network, heads_of(name))
    ((objective, _),) = round_of(name, config).trains.items()

    def loss(params):
        return round_of(name, config, steps).losses(params, state, batch(), KEY, jnp.asarray(0)).objectives[objective]

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    return float(value), flat(gradient)


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def evaluated(name, config, key=KEY):
    (phase,) = ZOO[name].phases(config, STEPS)
    values = variables(config.network, heads_of(name))
    return ZOO[name].build(config).evaluate(phase)(*values, batch(), key)


def assert_close(got, expected, rtol=2e-5, atol=2e-5):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path))


# --- the transcription ---------------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def log_normal(x, mean, scale):
    return -0.5 * np.log(2 * np.pi) - np.log(scale) - 0.5 * ((x - mean) / scale) ** 2


def log_sum_exp(x, axis):
    top = x.max(axis, keepdims=True)
    return np.log(np.exp(x - top).sum(axis)) + top.squeeze(axis)


@dataclasses.dataclass
class Forward:
    """What networks put out, and what NumPy makes of it: [B, D], or [B, H, W, C]."""

    x: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    z: np.ndarray
    logits: np.ndarray
    state: dict

    @classmethod
    def of(cls, config, key, train):
        (params, state), new = variables(config.network), {}
        x = np.asarray(batch()["image"], np.float64) / 255

        def run(group, net, value):
            value = jnp.asarray(value, jnp.float32)
            out, new[group] = nets.apply(net, params[group], state[group], value, train=train)
            return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), out)

        mean, s = run("encoder", config.encoder(2), x)
        scale = np.exp(s / 2) if config.posterior_scale == "exponential" else np.log1p(np.exp(np.exp(s)))
        z = mean + scale * np.asarray(random.standard_normal(key, mean.shape))
        return cls(x, mean, scale, z, run("decoder", config.decoder(), z), new)

    def negative_log_likelihood(self, config):
        y, sigma = sigmoid(self.logits), np.exp(LOG_SCALE) if config.learn_scale else config.observation_scale
        pixels = {
            "gaussian": 0.5 * np.log(2 * np.pi * sigma**2) + (self.x - y) ** 2 / (2 * sigma**2),
            "laplace": np.log(2 * sigma) + np.abs(self.x - y) / sigma,
            "bernoulli": -self.x * np.log(y) - (1 - self.x) * np.log(1 - y),
        }
        return pixels[config.likelihood].sum((1, 2, 3))

    def kl(self, config):
        """By dimension."""
        if config.kl == "one_sample":
            return log_normal(self.z, self.mean, self.scale) - log_normal(self.z, 0, 1)
        return 0.5 * (self.scale**2 + self.mean**2 - 1) - np.log(self.scale)

    def terms(self, config):
        return {
            "reconstruction": self.negative_log_likelihood(config),
            "mean_squared_error": ((self.x - sigmoid(self.logits)) ** 2).mean((1, 2, 3)),
            "kl": self.kl(config).sum(1),
        }

    def parts(self, estimator, *, variance_as_scale=False, dataset_size=STEPS * BATCH):
        """Mutual information, total correlation and dimension-wise KL by an estimator that has tests of its own."""
        logvar = 2 * np.log(self.scale**2 if variance_as_scale else self.scale)
        arrays = [jnp.asarray(value, jnp.float32) for value in (self.z, self.mean, logvar)]
        found = losses.kl_terms(*arrays, dataset_size=dataset_size, estimator=estimator)
        return {name: np.asarray(value, np.float64) for name, value in found._asdict().items()}


def training_forward(config):
    return Forward.of(config, jax.random.fold_in(KEY, 1), config.batch_statistics)


SWITCHES = {
    "default": {},
    "scale": {"observation_scale": 0.3},
    "laplace": {"likelihood": "laplace", "observation_scale": 0.2},
    "bernoulli": {"likelihood": "bernoulli"},
    "learned scale": {"learn_scale": True},
    "learned scale of laplace": {"likelihood": "laplace", "learn_scale": True},
    "one sample": {"kl": "one_sample"},
    "free bits": {"free_bits": 1.0},
    "warm-up": {"warmup_epochs": 2},
    "softplus": {"posterior_scale": "softplus"},
    "running statistics": {"batch_statistics": False},
    "dense": {"network": "dense"},
    "bigan": {"network": "bigan", "likelihood": "bernoulli"},
    "everything": {"kl": "one_sample", "free_bits": 1.0, "warmup_epochs": 4, "learn_scale": True, "network": "dense"},
}
CASES = [
    *(("vae", switch) for switch in SWITCHES),
    *(("beta_vae", switch) for switch in ("default", "free bits", "everything")),
    *(("beta_tcvae", switch) for switch in ("default", "one sample", "softplus", "warm-up", "everything")),
]


def own_fields(name):
    """Weights unlike each other and unlike one."""
    return {
        "vae": {},
        "beta_vae": {"beta": 3.0},
        "beta_tcvae": {f"{part}_weight": weight for part, weight in zip(PARTS, (0.5, 4.0, 2.5), strict=True)},
    }[name]


@pytest.mark.parametrize(("name", "switch"), CASES)
def test_training_is_its_transcription(name, switch):
    step, config = 3, config_of(name, **SWITCHES[switch], **own_fields(name))
    forward = training_forward(config)
    terms, kl = forward.terms(config), forward.kl(config).mean(0)
    if config.free_bits:
        config = dataclasses.replace(config, free_bits=float(np.median(kl)))  # one dimension is below, one above
    divergence = np.maximum(kl, config.free_bits or -np.inf).sum()
    if name == "beta_vae":
        divergence *= 3.0
    if name == "beta_tcvae":
        estimated = forward.parts("mws")
        divergence += sum((own_fields(name)[f"{part}_weight"] - 1) * estimated[part].mean() for part in PARTS)
        terms |= forward.parts("mss")
    ramp = min(1.0, step / (config.warmup_epochs * STEPS)) if config.warmup_epochs else 1.0
    total = terms["reconstruction"].mean() + ramp * divergence
    metrics = {"loss": total, **{term: values.mean() for term, values in terms.items()}}
    if config.learn_scale:
        metrics["observation_scale"] = np.exp(LOG_SCALE)
    out = trained(name, config, step)
    assert_close(dict(out.objectives), {"vae": total})
    assert_close(dict(out.metrics), metrics)
    assert_close(dict(out.state), jax.tree.map(np.asarray, forward.state))


@pytest.mark.parametrize(
    ("name", "switch"), [("vae", "everything"), ("vae", "laplace"), ("beta_vae", "default"), ("beta_tcvae", "default")]
)
def test_evaluation_is_its_transcription(name, switch):
    """The full weight of the divergence and no free bits, running statistics, nothing that couples examples."""
    config = config_of(name, **SWITCHES[switch], **own_fields(name))
    terms = Forward.of(config, KEY, train=False).terms(config)
    weight = 3.0 if name == "beta_vae" else 1.0
    expected = {"loss": terms["reconstruction"] + weight * terms["kl"], **terms}
    assert_close(dict(evaluated(name, config)), expected)


def test_terms_are_functions_of_arrays():
    """Of any arrays, without a network."""
    rng = np.random.default_rng(0)
    logits, x = rng.normal(size=(BATCH, SIZE, SIZE, 3)), rng.uniform(size=(BATCH, SIZE, SIZE, 3))
    z, mean, logvar = rng.normal(size=(3, BATCH, LATENT))
    forward = Forward(x, mean, np.exp(logvar / 2), z, logits, {})
    arrays = [jnp.asarray(value, jnp.float32) for value in (logits, x, z, mean, logvar)]
    for switch in ("scale", "learned scale", "laplace", "bernoulli", "one sample"):
        config = config_of("vae", **SWITCHES[switch])
        kl = autoencoders.divergence(config, *arrays[2:])
        assert_close(kl, forward.kl(config))
        log_scale = LOG_SCALE if config.learn_scale else math.log(config.observation_scale)
        assert_close(autoencoders.terms(config, *arrays[:2], kl, log_scale), forward.terms(config))
    for error, power in (("l1", 1), ("l2", 2)):
        terms = autoencoders.deterministic.terms(config_of("autoencoder", error=error), *arrays[:2])
        assert_close(terms, {"loss": (np.abs(logits - x) ** power).mean(3).sum((1, 2))})


def test_the_decomposition_of_posteriors_that_equal_the_prior():
    """log q(z | x) - log q(z) is log N for "mws" and 0 for "mss", and so is that of every dimension."""
    z, zeros = (
        jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, LATENT)), jnp.float32),
        jnp.zeros((BATCH, LATENT)),
    )
    weights = own_fields("beta_tcvae")
    for estimator, log_size in (("mws", math.log(100)), ("mss", 0.0)):
        config = config_of("beta_tcvae", estimator=estimator, **weights)
        excess, parts = autoencoders.decomposition(config, z, zeros, zeros, dataset_size=100)
        expected = log_size * ((0.5 - 1) + (4.0 - 1) * (LATENT - 1) - (2.5 - 1) * LATENT)
        np.testing.assert_allclose(excess, np.full(BATCH, expected), rtol=1e-5, atol=1e-4)
        assert_close(parts, dict.fromkeys(PARTS, np.zeros(BATCH)), atol=1e-5)


# --- phases, optimisers, parameters ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["autoencoder", *NAMES])
def test_the_published_schedule(name):
    (phase,) = ZOO[name].phases(ZOO[name].config(), 1580)
    assert (phase.name, phase.start, phase.steps) == ("training", 0, 30 * 1580)
    assert (phase.batch_size, phase.image_size) == (128, 64)
    assert phase.learning_rates == {"encoder": 1e-4, "decoder": 1e-4}
    assert phase.options == ({} if name == "autoencoder" else {"warmup_steps": 0, "dataset_size": 202_240})
    assert (phase.reset_optimizers, phase.ema_decay) == (False, None)


def test_the_published_weights():
    assert autoencoders.VAEConfig().divergence_weights == {"kl": 1.0}
    assert autoencoders.BetaVAEConfig().divergence_weights == {"kl": 5.0}
    expected = {"mutual_information": 1.0, "total_correlation": 20.0, "dimension_wise_kl": 1.0}
    assert autoencoders.BetaTCVAEConfig().divergence_weights == expected
    assert autoencoders.VAEConfig().latent_size == 32


def test_adam_has_the_epsilon_of_keras():
    model, (phase,) = autoencoders.build(autoencoders.VAEConfig()), autoencoders.phases(autoencoders.VAEConfig(), 1)
    optimizers = model.optimizers(phase)
    assert set(optimizers) == {"encoder", "decoder"}
    gradient = np.array([1e-7, -3e-7, 1.0])
    tx = optimizers["encoder"]
    update, _ = tx.update(jnp.asarray(gradient, jnp.float32), tx.init(jnp.zeros(3)))
    np.testing.assert_allclose(update, -gradient / (np.abs(gradient) + 1e-7), rtol=1e-5)


def test_the_scale_of_observations_is_a_group_where_it_is_learned():
    config = config_of("vae", learn_scale=True, observation_scale=0.25)
    params, state = autoencoders.build(config).init(KEY, batch())
    assert set(params) == {"encoder", "decoder", "observation"}
    assert set(state) == {"encoder", "decoder"}
    assert jnp.exp(params["observation"]["log_scale"]) == pytest.approx(0.25)
    assert set(autoencoders.phases(config, 1)[0].learning_rates) == set(params)
    assert round_of("vae", config).trains == {"vae": ("encoder", "decoder", "observation")}
    assert set(autoencoders.build(config_of("vae")).init(KEY, batch())[0]) == {"encoder", "decoder"}


@pytest.mark.parametrize("name", ["autoencoder", *NAMES])
def test_data_of_other_shapes_are_refused(name):
    with pytest.raises(ValueError, match=r"batch\['image'\] has shape \(4, 16, 16, 3\); expected \(B, 8, 8, 3\)"):
        ZOO[name].build(config_of(name)).init(KEY, batch(16))
    with pytest.raises(ValueError, match=r"has shape \(4, 8, 8, 3\); expected \(B, 8, 8, 1\)"):
        ZOO[name].build(config_of(name, channels=1)).init(KEY, batch())


# --- the divergence and its weight ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["beta_vae", "beta_tcvae"])
def test_the_weight_of_all_divergences_rises_from_zero_in_the_warm_up(name):
    config = config_of(name, network="dense", warmup_epochs=2)
    full = trained(name, config_of(name, network="dense"))
    divergence = full.metrics["loss"] - full.metrics["reconstruction"]
    for step, share in {0: 0.0, 3: 0.5, 5: 5 / 6, 6: 1.0, 7: 1.0, 11: 1.0}.items():
        metrics = trained(name, config, step).metrics
        gap = metrics["loss"] - metrics["reconstruction"]
        assert gap == pytest.approx(share * float(divergence), rel=1e-5, abs=1e-5), step
        assert metrics["kl"] == pytest.approx(float(full.metrics["kl"]), rel=1e-6)


def test_dimensions_below_their_free_bits_have_no_pull():
    """Far above all divergences only the reconstruction is left, with a constant; far below they change nothing."""
    plain, zero = config_of("beta_vae", network="dense", beta=3.0), config_of("beta_vae", network="dense", beta=0.0)
    free = dataclasses.replace(plain, free_bits=100.0)
    value, gradient = gradients("beta_vae", free)
    expected, expected_gradient = gradients("beta_vae", zero)
    assert value - 3.0 * LATENT * 100.0 == pytest.approx(expected, abs=1e-3)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5 * np.abs(expected_gradient).max())
    below = gradients("beta_vae", dataclasses.replace(plain, free_bits=1e-4))
    assert below[0] == pytest.approx(gradients("beta_vae", plain)[0], rel=1e-6)
    np.testing.assert_allclose(below[1], gradients("beta_vae", plain)[1], rtol=1e-4, atol=1e-5)


def test_free_bits_count_the_batch_of_all_devices():
    """A dimension that is below its bits on one device only is not free."""
    config = config_of("vae", network="dense")
    (params, state), kl = variables("dense"), training_forward(config).kl(config)
    config = dataclasses.replace(config, free_bits=float(kl.mean(0).min()) * 0.99)
    assert (np.minimum(kl[:2].mean(0), kl[2:].mean(0)) < config.free_bits).any()

    def run(axis_name):
        def loss(params, data):
            return round_of("vae", config, axis_name=axis_name).losses(params, state, data, KEY, 0).objectives["vae"]

        return jax.value_and_grad(loss)

    halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch())
    parts = jax.jit(jax.vmap(run("data"), in_axes=(None, 0), axis_name="data"))(params, halves)
    assert_close(jax.tree.map(lambda x: x.mean(0), parts), jax.jit(run(None))(params, batch()), rtol=1e-4, atol=1e-4)


def test_a_beta_of_one_is_the_vae():
    for kl in ("closed_form", "one_sample"):
        fields = {"network": "dense", "kl": kl}
        expected = gradients("vae", config_of("vae", **fields))
        same = gradients("beta_vae", config_of("beta_vae", beta=1.0, **fields))
        assert same[0] == expected[0]
        np.testing.assert_array_equal(same[1], expected[1])
        ones = gradients("beta_tcvae", config_of("beta_tcvae", total_correlation_weight=1.0, **fields))
        assert ones[0] == pytest.approx(expected[0], rel=1e-6)
        np.testing.assert_allclose(ones[1], expected[1], atol=1e-6 * np.abs(expected[1]).max())


def test_weights_of_one_cost_nothing():
    """Floating-point operations of the gradient, before any optimisation by the compiler."""

    def flops(name, config):
        params, state = variables("dense")

        def loss(params):
            return round_of(name, config).losses(params, state, batch(), KEY, jnp.asarray(0)).objectives["vae"]

        return jax.jit(jax.grad(loss)).lower(params).cost_analysis()["flops"]

    dense = {"network": "dense"}
    cost = flops("vae", config_of("vae", **dense))
    assert flops("beta_tcvae", config_of("beta_tcvae", total_correlation_weight=1.0, **dense)) == cost
    assert flops("beta_tcvae", config_of("beta_tcvae", **dense)) > cost


# --- total correlation ----------------------------------------------------------------------------------------------


@functools.cache
def part_gradients(part, estimator):
    """Mean and gradient of one part of the divergence, from the dense encoder alone."""
    params, _ = variables("dense")
    x = batch()["image"] / 255.0

    def mean_part(params):
        (mean, logvar), _ = nets.apply(
            config_of("vae", network="dense").encoder(2), params["encoder"], {}, x, train=True
        )
        z = gaussian.sample(jax.random.fold_in(KEY, 1), mean, logvar)
        found = losses.kl_terms(z, mean, logvar, dataset_size=STEPS * BATCH, estimator=estimator)
        return getattr(found, part).mean()

    value, gradient = jax.jit(jax.value_and_grad(mean_part))(params)
    return float(value), flat(gradient)


@pytest.mark.parametrize("estimator", ["mws", "mss"])
@pytest.mark.parametrize("kl", ["closed_form", "one_sample"])
def test_the_total_correlation_is_added_to_the_divergence(kl, estimator):
    """With weights (1, beta, 1): the VAE and beta - 1 times the total correlation, value and gradient."""
    fields = {"network": "dense", "kl": kl}
    value, gradient = gradients("beta_tcvae", config_of("beta_tcvae", estimator=estimator, **fields))
    expected, expected_gradient = (
        plain + 19.0 * extra
        for plain, extra in zip(
            gradients("vae", config_of("vae", **fields)), part_gradients("total_correlation", estimator), strict=True
        )
    )
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=2e-5 * np.abs(expected_gradient).max())


@pytest.mark.parametrize("estimator", ["mws", "mss"])
def test_with_one_sample_the_parts_have_their_weights(estimator):
    """The three parts telescope: log q(z | x) - log p(z) is their sum, whatever the estimator."""
    fields = {"network": "dense", "kl": "one_sample", "estimator": estimator}
    value, gradient = gradients("beta_tcvae", config_of("beta_tcvae", **fields, **own_fields("beta_tcvae")))
    reconstruction = gradients("beta_vae", config_of("beta_vae", network="dense", beta=0.0))
    parts = [part_gradients(part, estimator) for part in PARTS]
    weights = (0.5, 4.0, 2.5)
    expected = reconstruction[0] + sum(weight * part[0] for weight, part in zip(weights, parts, strict=True))
    assert value == pytest.approx(expected, rel=1e-5)
    expected = reconstruction[1] + sum(weight * part[1] for weight, part in zip(weights, parts, strict=True))
    np.testing.assert_allclose(gradient, expected, atol=2e-5 * np.abs(expected).max())


def test_constants_of_the_estimator_move_no_gradient():
    """Ten times as many examples: log q(z) falls by log 10, and so does each log q(z_d)."""
    config = config_of("beta_tcvae", network="dense", **own_fields("beta_tcvae"))
    (small, gradient), (large, other) = (gradients("beta_tcvae", config, steps) for steps in (STEPS, 10 * STEPS))
    shift = math.log(10) * ((0.5 - 1) + (4.0 - 1) * (LATENT - 1) - (2.5 - 1) * LATENT)
    assert large - small == pytest.approx(shift, abs=2e-4)
    assert abs(shift) > 1e-2
    np.testing.assert_allclose(other, gradient, atol=2e-6 * np.abs(gradient).max())


@pytest.mark.parametrize("estimator", ["mws", "mss"])
@pytest.mark.parametrize("variance_as_scale", [False, True])
def test_metrics_show_the_stratified_estimate_of_the_true_posterior(estimator, variance_as_scale):
    config = config_of("beta_tcvae", network="dense", estimator=estimator, variance_as_scale=variance_as_scale)
    out, forward = trained("beta_tcvae", config), training_forward(config)
    reported = {name: float(out.metrics[name]) for name in PARTS}
    assert_close(reported, {name: value.mean() for name, value in forward.parts("mss").items()})
    taken = forward.parts(estimator, variance_as_scale=variance_as_scale)["total_correlation"].mean()
    rest = float(out.metrics["reconstruction"] + out.metrics["kl"])
    assert out.objectives["vae"] == pytest.approx(rest + 19.0 * taken, rel=1e-5)


def test_the_released_total_correlation_but_for_a_constant():
    """-log p + kl + (beta - 1) tc with the variance for a scale and without -log(N M), as released (SC-03)."""
    config = dataclasses.replace(
        autoencoders.BetaTCVAEConfig.reference(), **SMALL, total_correlation_weight=6.0, network="dense"
    )
    forward = training_forward(config)
    pairs = log_normal(forward.z[:, None], forward.mean[None], (forward.scale**2)[None])  # [i, j, d]
    tc = log_sum_exp(pairs.sum(2), 1) - log_sum_exp(pairs, 1).sum(1)
    kl = (log_normal(forward.z, forward.mean, forward.scale) - log_normal(forward.z, 0, 1)).sum(1)
    released = (forward.negative_log_likelihood(config) + kl + 5.0 * tc).mean()
    constant = 5.0 * (LATENT - 1) * math.log(STEPS * BATCH * BATCH)
    assert trained("beta_tcvae", config).objectives["vae"] == pytest.approx(released + constant, rel=1e-5)
    repaired = trained("beta_tcvae", dataclasses.replace(config, variance_as_scale=False)).objectives["vae"]
    assert abs(repaired - released - constant) > 0.1


# --- as released ----------------------------------------------------------------------------------------------------

RELEASED = {
    "batch_statistics": (True, False),
    "kl": ("closed_form", "one_sample"),
    "posterior_scale": ("exponential", "softplus"),
    "observation_scale": (2**-0.5, pytest.approx(0.698160, abs=5e-7)),
}
REFERENCES = {
    "autoencoder": {"batch_statistics": (True, False), "output": ("sigmoid", "linear")},
    "vae": RELEASED,
    "beta_vae": {**RELEASED, "beta": (5.0, 1.0)},
    "beta_tcvae": {**RELEASED, "total_correlation_weight": (20.0, 1.0), "variance_as_scale": (False, True)},
}


@pytest.mark.parametrize("name", REFERENCES)
def test_what_the_released_code_does_otherwise(name):
    default, reference = (dataclasses.asdict(config) for config in (ZOO[name].config(), ZOO[name].config.reference()))
    different = {field: (default[field], reference[field]) for field in default if default[field] != reference[field]}
    assert different == REFERENCES[name]


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in REFERENCES.items() for field in fields])
def test_each_released_choice_changes_the_loss(name, field):
    (objective,) = round_of(name, config_of(name)).trains
    released = getattr(ZOO[name].config.reference(), field)
    before, after = (
        trained(name, config).objectives[objective]
        for config in (config_of(name), config_of(name, **{field: released}))
    )
    assert abs(before - after) > 1e-3 * abs(before)


def test_the_released_standard_deviation_has_a_floor():
    """softplus(exp(s)) >= log 2 (SC-02), where exp(s / 2) has none; gradients stay finite there."""
    (params, state), x = variables("dense"), batch()["image"] / 127.5 - 1
    head = jax.tree.map(jnp.zeros_like, params["encoder"]["logvar"])

    @functools.partial(jax.jit, static_argnums=1)
    def logvar(s, posterior_scale):
        encoder = {**params["encoder"], "logvar": {**head, "bias": head["bias"] + s}}
        model = autoencoders.build(config_of("vae", network="dense", posterior_scale=posterior_scale))
        return model.encode({**params, "encoder": encoder}, state, x)[1]

    slope = jax.jit(jax.grad(lambda s: logvar(s, "softplus").sum()))
    for s in (-80.0, -2.0, 0.0, 1.5):
        released = np.exp(0.5 * np.asarray(logvar(s, "softplus"), np.float64))
        np.testing.assert_allclose(released, np.log1p(np.exp(np.exp(s))), rtol=1e-5)
        assert (released >= math.log(2) - 1e-6).all()
        np.testing.assert_array_equal(logvar(s, "exponential"), s)
        assert np.isfinite(slope(s))


@pytest.mark.parametrize("name", ["autoencoder", *NAMES])
def test_without_batch_statistics_training_is_evaluation(name):
    """SC-04: the running ones never move."""
    key = jax.random.fold_in(KEY, 1)  # with which training draws
    for batch_statistics in (False, True):
        config = config_of(name, batch_statistics=batch_statistics)
        _, state = variables(heads=heads_of(name))
        out, found = trained(name, config), evaluated(name, config, key)
        moved = [(a != b).any() for a, b in zip(jax.tree.leaves(out.state), jax.tree.leaves(state), strict=True)]
        assert len(moved) == 10
        assert all(moved) if batch_statistics else not any(moved)
        for term in {"loss"} & set(found) if name == "autoencoder" else ("reconstruction", "mean_squared_error", "kl"):
            same = float(out.metrics[term]) == pytest.approx(float(found[term].mean()), rel=1e-5)
            assert same != batch_statistics, term


# --- observations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("likelihood", "power"), [("gaussian", 2), ("laplace", 1)])
def test_the_best_scale_is_the_root_of_the_mean_squared_error(likelihood, power):
    """The slope by log scale is 1 - error / scale^power per value: zero at scale^power = mean error (sigma-VAE)."""
    config = config_of("vae", network="dense", likelihood=likelihood, learn_scale=True)
    forward, (params, state) = training_forward(config), variables("dense")
    error = (np.abs(forward.x - sigmoid(forward.logits)) ** power).mean()
    losses_ = round_of("vae", config).losses

    @jax.jit
    @jax.grad
    def slope(log_scale):
        moved = {**params, "observation": {"log_scale": log_scale}}
        return losses_(moved, state, batch(), KEY, jnp.asarray(0)).objectives["vae"] / VALUES

    best = math.log(error) / power
    assert slope(best) == pytest.approx(0.0, abs=1e-5)
    for away in (-0.3, 0.3):
        assert slope(best + away) == pytest.approx(1 - math.exp(-power * away), rel=1e-4)
    if likelihood == "gaussian":
        assert error == pytest.approx(float(trained("vae", config).metrics["mean_squared_error"]), rel=1e-5)


def test_the_default_scale_makes_the_likelihood_a_sum_of_squares():
    metrics = trained("vae", config_of("vae")).metrics
    constant = 0.5 * VALUES * math.log(math.pi)
    assert metrics["reconstruction"] - constant == pytest.approx(
        VALUES * float(metrics["mean_squared_error"]), rel=1e-5
    )


@pytest.mark.parametrize(
    ("fields", "power"),
    [
        ({}, 2),
        ({"observation_scale": 0.3}, 2),
        ({"likelihood": "laplace", "observation_scale": 0.3}, 1),
        ({"likelihood": "bernoulli"}, 0),
    ],
)
def test_reduction_identities(fields, power):
    """Sums over values and dimensions weigh as means do with the effective weight, up to constants and one factor."""
    config = config_of("beta_vae", beta=3.0, **fields)
    effective = config.effective_weight(3.0)
    forward = training_forward(config)
    error = np.abs(forward.x - sigmoid(forward.logits)) ** power if power else None
    mean_error = forward.negative_log_likelihood(config).mean() / VALUES if error is None else error.mean()
    factor = {2: 2 * config.observation_scale**2, 1: config.observation_scale, 0: 1.0}[power] / VALUES
    constant = {
        2: 0.5 * math.log(2 * math.pi * config.observation_scale**2),
        1: math.log(2 * config.observation_scale),
        0: 0.0,
    }
    loss = float(trained("beta_vae", config).objectives["vae"])
    means = mean_error + effective * forward.kl(config).mean()
    assert factor * (loss - constant[power] * VALUES) == pytest.approx(means, rel=2e-5)


def test_effective_weights_by_hand():
    assert autoencoders.BetaVAEConfig().effective_weight(5.0) == pytest.approx(5 * 32 / 12_288)
    assert autoencoders.VAEConfig.reference().effective_weight(1.0) == pytest.approx(
        2 * 0.698160**2 * 32 / 12_288, rel=1e-5
    )
    assert autoencoders.VAEConfig(likelihood="laplace", observation_scale=0.1).effective_weight(2.0) == pytest.approx(
        0.2 / 384
    )
    assert autoencoders.VAEConfig(likelihood="bernoulli", observation_scale=0.1).effective_weight(2.0) == pytest.approx(
        2 / 384
    )


# --- inference ------------------------------------------------------------------------------------------------------


def hidden_layer(name, config):
    """What the heads of an encoder in evaluation mode are linear functions of: solved for, from what they put out."""
    heads, x = heads_of(name), jnp.asarray(batch()["image"] / 255.0, jnp.float32)
    params, state = variables(config.network, heads)
    width = params["encoder"]["mean"]["kernel"].shape[0]
    # As many heads as there are units: with the identity for a kernel, each tells one of them.
    probe = dataclasses.replace(config, latent_size=width).encoder(heads)
    identity = {"kernel": jnp.eye(width), "bias": jnp.zeros(width)}
    encoder = {**params["encoder"], **dict.fromkeys(("mean", "logvar")[:heads], identity)}
    return np.asarray(nets.apply(probe, encoder, state["encoder"], x, train=False)[0][0])


@pytest.mark.parametrize("switch", ["default", "learned scale", "bernoulli", "softplus"])
def test_functions_are_those_of_evaluation(switch):
    config = config_of("vae", **SWITCHES[switch])
    model, values, forward = autoencoders.build(config), variables(), Forward.of(config, KEY, train=False)
    x, z = jnp.asarray(2 * forward.x - 1, jnp.float32), jnp.asarray(forward.z, jnp.float32)
    assert_close(jax.jit(model.encode)(*values, x), Posterior(forward.mean, 2 * np.log(forward.scale)))
    decoded = jax.jit(model.decode)(*values, z)
    assert_close(decoded, 2 * sigmoid(forward.logits) - 1)
    assert set(model.functions) == {"log_likelihood", "features"}
    found = jax.jit(model.functions["log_likelihood"])(*values, x, z)
    assert_close(found, -forward.negative_log_likelihood(config))
    assert_close(jax.jit(model.functions["features"])(*values, x), hidden_layer("vae", config))


@pytest.mark.parametrize("name", NAMES)
def test_samples_belong_to_their_key_and_row(name):
    model, values = ZOO[name].build(config_of(name)), variables()
    sample = jax.jit(model.sample, static_argnums=3)
    five, three = sample(*values, KEY, 5), sample(*values, KEY, 3)
    assert five.shape == (5, SIZE, SIZE, 3)
    np.testing.assert_allclose(five[:3], three, atol=1e-6)
    assert float(jnp.abs(five).max()) <= 1
    assert_close(five, jax.jit(model.decode)(*values, random.standard_normal(KEY, (5, LATENT))))
    assert (sample(*values, jax.random.key(8), 3) != three).any()


# --- the autoencoder ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "output"),
    [("convolutional", "linear"), ("dense", "linear"), ("bigan", "sigmoid"), ("dense", "sigmoid")],
)
@pytest.mark.parametrize("error", ["l1", "l2"])
def test_the_autoencoder_sums_over_pixels_and_averages_over_channels(error, network, output):
    config = config_of("autoencoder", error=error, network=network, output=output)
    params, state = variables(network, heads=1)
    x, model = np.asarray(batch()["image"], np.float64) / 255, autoencoders.build(config)

    def outputs(train):
        (z,), encoder = nets.apply(
            config.encoder(1), params["encoder"], state["encoder"], jnp.asarray(x, jnp.float32), train=train
        )
        image, decoder = nets.apply(config.decoder(), params["decoder"], state["decoder"], z, train=train)
        image = np.asarray(image, np.float64) if output == "linear" else sigmoid(np.asarray(image, np.float64))
        difference = image - x
        pixels = (np.abs(difference) if error == "l1" else difference**2).mean(3)
        return z, image, pixels.sum((1, 2)), {"encoder": encoder, "decoder": decoder}

    _, _, expected, stats = outputs(train=True)
    out = trained("autoencoder", config)
    assert_close(
        (dict(out.objectives), dict(out.metrics)), ({"autoencoder": expected.mean()}, {"loss": expected.mean()})
    )
    assert_close(dict(out.state), stats)
    z, image, expected, _ = outputs(train=False)
    assert_close(dict(evaluated("autoencoder", config)), {"loss": expected})
    mean, logvar = model.encode(params, state, jnp.asarray(2 * x - 1, jnp.float32))
    assert_close(mean, np.asarray(z))
    assert logvar is None
    assert_close(model.decode(params, state, z), 2 * image - 1)
    bounded = float(jnp.abs(model.decode(params, state, 100 * z)).max()) <= 1
    assert bounded == (output == "sigmoid")
    assert model.sample is None
    assert set(model.functions) == {"features"}
    features = jax.jit(model.functions["features"])(params, state, jnp.asarray(2 * x - 1, jnp.float32))
    assert_close(features, hidden_layer("autoencoder", config))


@pytest.mark.parametrize("name", ["autoencoder", "vae"])
def test_the_networks_of_bigan(name):
    """Its encoder and generator, as sizes tell: no biases and no gains, and the latent enters twice."""
    config = config_of(name, network="bigan")
    params, state = jax.eval_shape(lambda: ZOO[name].build(config).init(KEY, batch()))
    count = {group: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params[group])) for group in params}
    heads = heads_of(name)
    assert count["encoder"] == VALUES * 4 + 4 * 6 + heads * 6 * LATENT
    assert count["decoder"] == LATENT * 6 + (6 + LATENT) * 4 + 4 * VALUES
    assert [len(jax.tree.leaves(state[group])) for group in ("encoder", "decoder")] == [2, 4]


@pytest.mark.parametrize("name", ["autoencoder", "vae"])
def test_the_optimiser_of_bigan(name):
    """Betas of .5 and .999, L2 of 2.5e-5, and a rate that falls to a hundredth over the second half of the steps."""
    config = config_of(name, optimizer="bigan", learning_rate=2e-4, network="dense")
    (phase,) = ZOO[name].phases(config, 5)  # of 20 steps
    for rate in phase.learning_rates.values():
        found = [rate(jnp.int32(step)) for step in (0, 10, 15, 20)]
        np.testing.assert_allclose(found, [2e-4, 2e-4, 2e-5, 2e-6], rtol=1e-5)
    optimizers = ZOO[name].build(config).optimizers(phase)
    assert set(optimizers) == set(phase.learning_rates) == {"encoder", "decoder"}
    weight, gradients = 2.0, (3e-5, -1e-4)
    tx = optimizers["encoder"]
    params = {"kernel": jnp.full(1, weight)}
    state, mean, square = tx.init(params), 0.0, 0.0
    for step, gradient in enumerate(gradients, start=1):
        update, state = tx.update({"kernel": jnp.full(1, gradient)}, state, params)
        gradient += 2.5e-5 * weight
        mean, square = 0.5 * mean + 0.5 * gradient, 0.999 * square + 0.001 * gradient**2
        expected = -(mean / (1 - 0.5**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        assert float(update["kernel"][0]) == pytest.approx(expected, rel=1e-4)


# --- every field of the configurations does something ---------------------------------------------------------------


def effects(name, config):
    """Numbers and shapes that a field may change, by what it changes."""
    model, (phase,) = ZOO[name].build(config), ZOO[name].phases(config, STEPS)
    data = batch(config.image_size, config.channels)
    params, _ = jax.eval_shape(lambda key: model.init(key, data), KEY)
    given = variables(config.network, heads_of(name))
    shapes = jax.tree.map(lambda leaf: leaf.shape, params)
    result = {
        "schedule": (phase.steps, phase.batch_size, phase.image_size, phase.options),
        "rates": phase.learning_rates,
        "shapes": shapes,
    }
    if shapes == jax.tree.map(lambda leaf: leaf.shape, {group: given[0][group] for group in shapes}):
        (value,) = trained(name, config, step=2).objectives.values()
        result["loss"] = float(value)
    return result


COMMON = {
    "image_size": ({"image_size": 16, "widths": (4, 6, 6)}, {"schedule", "shapes", "loss"}),
    "channels": (1, {"shapes", "loss"}),
    "network": ("dense", {"shapes", "loss"}),
    "widths": ((4, 5), {"shapes", "loss"}),
    "latent_size": (2, {"shapes", "loss"}),
    "batch_statistics": (False, {"loss"}),
    "epochs": (5, {"schedule"}),
    "batch_size": (5, {"schedule"}),
    "learning_rate": (0.1, {"rates"}),
    "optimizer": ("bigan", {"rates"}),
    "compute_dtype": ("bfloat16", {"loss"}),
}
VARIATIONAL = {
    "likelihood": ("laplace", {"loss"}),
    "observation_scale": (0.1, {"loss"}),
    "learn_scale": (True, {"rates", "shapes", "loss"}),
    "kl": ("one_sample", {"loss"}),
    "free_bits": (50.0, {"loss"}),
    "warmup_epochs": (3, {"schedule", "loss"}),
    "posterior_scale": ("softplus", {"loss"}),
}
OWN = {
    "autoencoder": {"error": ("l1", {"loss"}), "output": ("linear", {"loss"})},
    "vae": {},
    "beta_vae": {"beta": (2.0, {"loss"})},
    "beta_tcvae": {
        "mutual_information_weight": (0.5, {"loss"}),
        "total_correlation_weight": (1.0, {"loss"}),
        "dimension_wise_kl_weight": (2.0, {"loss"}),
        "estimator": ("mss", {"loss"}),
        "variance_as_scale": (True, {"loss"}),
    },
}


def test_the_tables_of_effects_are_complete():
    variational = {field.name for field in dataclasses.fields(VariationalConfig)}
    assert set(COMMON) | set(VARIATIONAL) == variational
    for name, own in OWN.items():
        inherited = set(COMMON) if name == "autoencoder" else variational
        assert {field.name for field in dataclasses.fields(ZOO[name].config)} == inherited | set(own)


@functools.cache
def unchanged(name):
    return effects(name, config_of(name))


@pytest.mark.parametrize(
    ("name", "field", "value", "expected"),
    [
        *(("vae", field, *effect) for field, effect in {**COMMON, **VARIATIONAL}.items()),
        *(("autoencoder", field, *effect) for field, effect in COMMON.items()),
        *((name, field, *effect) for name, own in OWN.items() for field, effect in own.items()),
    ],
)
def test_every_field_has_its_effect_and_no_other(name, field, value, expected):
    changed = effects(name, config_of(name, **(value if isinstance(value, dict) else {field: value})))
    names = unchanged(name)
    assert {effect for effect in names if names[effect] != changed.get(effect)} == expected


@pytest.mark.parametrize("name", ["autoencoder", *NAMES])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"network": "transformer"}, r"network is 'transformer'; choose one of 'convolutional', .*'bigan'\."),
        ({"optimizer": "sgd"}, r"optimizer is 'sgd'; choose one of 'adam', 'bigan'\."),
        ({"compute_dtype": "float16"}, r"compute_dtype is 'float16'; choose one of 'float32', 'bfloat16'\."),
        ({"widths": ()}, r"widths are \(\); expected at least one, and each at least 1\."),
        ({"widths": (8, 0)}, r"widths are \(8, 0\); expected at least one, and each at least 1\."),
        ({"image_size": 48}, r"image_size is 48; expected 64 for 5 widths, each of which halves .*change widths or"),
        ({"image_size": 64, "widths": (8, 8)}, r"image_size is 64; expected 8 for 2 widths"),
        ({"image_size": 0, "network": "dense"}, r"image_size is 0; expected at least 1\."),
        ({"channels": 0}, r"channels is 0; expected at least 1\."),
        ({"latent_size": 0}, r"latent_size is 0; expected at least 1\."),
        ({"epochs": 0}, r"epochs is 0; expected at least 1\."),
        ({"batch_size": -1}, r"batch_size is -1; expected at least 1\."),
        ({"learning_rate": float("nan")}, r"learning_rate is nan; expected a number above 0\."),
    ],
)
def test_impossible_configurations_are_refused(name, fields, message):
    with pytest.raises(ValueError, match=message):
        ZOO[name].config(**fields)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"likelihood": "poisson"}, r"likelihood is 'poisson'; choose one of 'gaussian', 'laplace', 'bernoulli'\."),
        ({"kl": "mean"}, r"kl is 'mean'; choose one of 'closed_form', 'one_sample'\."),
        ({"posterior_scale": "exp"}, r"posterior_scale is 'exp'; choose one of 'exponential', 'softplus'\."),
        ({"observation_scale": 0.0}, r"observation_scale is 0\.0; expected a number above 0\."),
        ({"free_bits": -0.1}, r"free_bits is -0\.1; expected at least 0\."),
        ({"warmup_epochs": -1}, r"warmup_epochs is -1; expected at least 0\."),
        ({"learn_scale": True, "likelihood": "bernoulli"}, r"learn_scale is true, .* no scale: use another likelihood"),
    ],
)
def test_impossible_variational_configurations_are_refused(name, fields, message):
    with pytest.raises(ValueError, match=message):
        ZOO[name].config(**fields)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("autoencoder", {"error": "l3"}, r"error is 'l3'; choose one of 'l1', 'l2'\."),
        ("autoencoder", {"output": "tanh"}, r"output is 'tanh'; choose one of 'linear', 'sigmoid'\."),
        ("beta_vae", {"beta": -1.0}, r"beta is -1\.0; expected at least 0\."),
        ("beta_vae", {"beta": float("nan")}, r"beta is nan; expected at least 0\."),
        ("beta_tcvae", {"estimator": "mc"}, r"estimator is 'mc'; choose one of 'mws', 'mss'\."),
        ("beta_tcvae", {"batch_size": 1}, r"batch_size is 1; expected at least 2, to estimate a total correlation\."),
        *(
            ("beta_tcvae", {f"{part}_weight": -1.0}, rf"{part}_weight is -1\.0; expected at least 0\.")
            for part in PARTS
        ),
    ],
)
def test_impossible_configurations_of_one_model_are_refused(name, fields, message):
    with pytest.raises(ValueError, match=message):
        ZOO[name].config(**fields)


def test_dense_networks_take_any_image_size():
    config = config_of("vae", network="dense", image_size=5)
    params, _ = jax.eval_shape(lambda: autoencoders.build(config).init(KEY, batch(5)))
    assert params["encoder"]["Dense_0"]["kernel"].shape == (75, 4)
    assert params["decoder"]["Dense_2"]["kernel"].shape == (4, 75)
