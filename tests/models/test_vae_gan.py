"""VAE/GAN, its GAN and the VAE with a learned similarity: terms, routing, gating, phases, optimiser and switches."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from zoo import faces

from mvae_jax import images, nets, random
from mvae_jax.augmentation import Perturbation, perturb
from mvae_jax.models import ZOO, vae_gan
from mvae_jax.nets import larsen
from mvae_jax.train import state as states
from mvae_jax.train.step import make_train_step

BATCH, SIZE, LATENT = 6, 8, 3
KEY = jax.random.key(7)
SMALL = {
    "image_size": SIZE,
    "latent_size": LATENT,
    "decoder_widths": (4, 3),
    "grid_width": 3,
    "discriminator_widths": (3, 4, 5),
    "discriminator_hidden": 6,
    "augment": False,
    "batch_size": BATCH,
}
ENCODING = {"encoder_widths": (3, 4), "encoder_hidden": 5}
# As the configuration above says, but spelled out.
NETS = {
    "encoder": larsen.Encoder(LATENT, (3, 4), 5),
    "decoder": larsen.Decoder(3, SIZE, (4, 3), 3),
    "discriminator": larsen.Discriminator((3, 4, 5), 6),
}
STEPS = 3  # per epoch
RATE = 1e-2


def config_of(name, **fields):
    return ZOO[name].config(**{**SMALL, **({} if name == "gan" else ENCODING), **fields})


@functools.cache
def batch():
    return {"image": jnp.asarray(faces(BATCH, SIZE)["image"])}


@functools.cache
def variables(*groups):
    """Parameters and batch statistics, no longer zeros and ones where initialisation left those."""
    params, state = vae_gan.build(config_of("vae_gan")).init(jax.random.key(0), batch())
    generator = np.random.default_rng(3)
    params, state = jax.device_get((dict(params), dict(state)))
    params = jax.tree.map(lambda p: p + 0.2 * generator.normal(size=p.shape).astype(np.float32), params)
    state = jax.tree.map(lambda s: s + generator.uniform(0.1, 0.5, s.shape).astype(np.float32), state)
    chosen = groups or tuple(params)
    return jax.tree.map(jnp.asarray, tuple({group: tree[group] for group in chosen} for tree in (params, state)))


def groups_of(name):
    return ("decoder", "discriminator") if name == "gan" else ("encoder", "decoder", "discriminator")


def setup(name, config, index=0):
    """Model, phase and round."""
    model, phase = ZOO[name].build(config), ZOO[name].phases(config, STEPS)[index]
    (round_,) = model.rounds(phase)
    return model, phase, round_


def assert_close(got, expected, rtol=2e-5, atol=2e-5):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path))


# --- the transcription ---------------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Forward:
    """Outputs of the networks and new statistics, in order; NumPy makes terms of them."""

    def __init__(self, config, train=True):
        self.config, self.train, (self.params, self.state), self.new = config, train, variables(), {}

    def run(self, group, value, train=None):
        train = self.train if train is None else train
        value = jnp.asarray(value, jnp.float32)
        out, self.new[group] = nets.apply(NETS[group], self.params[group], self.state[group], value, train=train)
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), out)

    def images(self, key=KEY):
        x = np.asarray(batch()["image"], np.float64) / 127.5 - 1
        if not self.config.augment:
            return x
        keys = random.example_keys(jax.random.fold_in(key, 1), BATCH)
        return perturb(keys, jnp.asarray(x, jnp.float32), self.config.augmentation, jax.random.fold_in(key, 2))

    def codes(self, x, key):
        mean, logvar = self.run("encoder", x)
        return mean, logvar, mean + np.exp(logvar / 2) * np.asarray(random.standard_normal(key, mean.shape))

    def prior(self, key):
        return np.asarray(random.standard_normal(key, (BATCH, LATENT)))

    def errors(self, x, reconstruction, mean, logvar, train):
        _, features = self.run("discriminator", np.concatenate([reconstruction, x]), train)
        return {
            "similarity": 0.5 * ((features[:BATCH] - features[BATCH:]) ** 2).sum((1, 2, 3)),
            "kl": -0.5 * (1 + logvar - mean**2 - np.exp(logvar)).sum(1),
            "mean_squared_error": (((reconstruction - x) / 2) ** 2).mean((1, 2, 3)),
        }

    def discriminator_metrics(self, real, fake):
        epsilon = self.config.epsilon
        return {
            "discriminator/real_error": -np.log(sigmoid(real) + epsilon),
            "discriminator/fake_error": -np.log(1 - sigmoid(fake) + epsilon),
            "discriminator/real_accuracy": real > 0,
            "discriminator/fake_accuracy": fake < 0,
        }

    def adversarial(self, x, *fakes):
        """Objectives of discriminator and decoder, and the means of the discriminator metrics."""
        logits, _ = self.run("discriminator", np.concatenate([x, *fakes]))
        found = {
            name: values.mean() for name, values in self.discriminator_metrics(logits[:BATCH], logits[BATCH:]).items()
        }
        sides = found["discriminator/real_error"], found["discriminator/fake_error"]
        weight = self.config.real_weight
        return weight * sides[0] + (1 - weight) * sides[1], -len(fakes) * sides[1], found


SWITCHES = {
    "default": {},
    "gamma": {"gamma": 0.3},
    "no complement": {"gamma": 0.3, "complement": False},
    "reconstructions discriminated": {"discriminate_reconstructions": True, "real_weight": 0.3},
    "separate statistics": {"separate_statistics": True},
    "epsilon": {"epsilon": 0.1, "real_weight": 0.75},
    "sums": {"batch_reduction": "sum", "gamma": 0.3},
    "augmented": {"augment": True, "augmentation": Perturbation(flip_batches=True)},
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_vae_gan_is_its_transcription(switch):
    config = config_of("vae_gan", **SWITCHES[switch])
    forward = Forward(config)
    x = forward.images()
    mean, logvar, z = forward.codes(x, jax.random.fold_in(KEY, 3))
    z_prior = forward.prior(jax.random.fold_in(KEY, 4))
    if config.separate_statistics:
        generated = np.tanh(forward.run("decoder", z_prior))
        reconstruction = np.tanh(forward.run("decoder", z))  # the later one leaves its statistics
    else:
        reconstruction, generated = np.split(np.tanh(forward.run("decoder", np.concatenate([z, z_prior]))), 2)
    found = {name: values.mean() for name, values in forward.errors(x, reconstruction, mean, logvar, True).items()}
    fakes = (generated, reconstruction) if config.discriminate_reconstructions else (generated,)
    discriminator, decoder, metrics = forward.adversarial(x, *fakes)
    loss = found["similarity"] + found["kl"]
    share = 1 - config.gamma if config.complement else 1
    objectives = {
        "encoder": loss,
        "decoder": config.gamma * found["similarity"] + share * decoder,
        "discriminator": discriminator,
    }
    if config.batch_reduction == "sum":
        objectives = {name: BATCH * value for name, value in objectives.items()}
    out = setup("vae_gan", config)[2].losses(*variables(), batch(), KEY, 0)
    assert_close(dict(out.objectives), objectives)
    assert_close(dict(out.metrics), {"loss": loss, **found, **metrics})
    assert_close(dict(out.state), forward.new)


@pytest.mark.parametrize(("name", "fields"), [("gan", {}), ("gan", {"batch_reduction": "sum"}), ("vae_dis", {})])
def test_the_gan_is_its_transcription(name, fields):
    """Also as the first phase of the VAE with a learned similarity."""
    config = config_of(name, **fields)
    forward = Forward(config)
    generated = np.tanh(forward.run("decoder", forward.prior(jax.random.fold_in(KEY, 4))))
    discriminator, decoder, metrics = forward.adversarial(forward.images(), generated)
    _, phase, round_ = setup(name, config)
    assert set(phase.learning_rates) == {"decoder", "discriminator"}
    out = round_.losses(*variables(*groups_of(name)), batch(), KEY, 0)
    factor = BATCH if config.batch_reduction == "sum" else 1
    assert_close(dict(out.objectives), {"decoder": factor * decoder, "discriminator": factor * discriminator})
    assert_close(dict(out.metrics), {"loss": discriminator, **metrics})
    assert_close(dict(out.state), forward.new)


def test_the_learned_similarity_is_its_transcription():
    """The discriminator normalises by running statistics; encoder and decoder by those of the batch."""
    config = config_of("vae_dis")
    forward = Forward(config)
    x = forward.images()
    mean, logvar, z = forward.codes(x, jax.random.fold_in(KEY, 3))
    reconstruction = np.tanh(forward.run("decoder", z))
    found = {name: values.mean() for name, values in forward.errors(x, reconstruction, mean, logvar, False).items()}
    loss = found["similarity"] + found["kl"]
    _, phase, round_ = setup("vae_dis", config, 1)
    assert round_.trains == {"vae": ("encoder", "decoder")}
    assert set(phase.learning_rates) == {"encoder", "decoder"}
    out = round_.losses(*variables(), batch(), KEY, 0)
    assert_close(dict(out.objectives), {"vae": loss})
    assert_close(dict(out.metrics), {"loss": loss, **found})
    assert_close(dict(out.state), {group: forward.new[group] for group in ("encoder", "decoder")})


@pytest.mark.parametrize(("name", "index"), [("vae_gan", 0), ("vae_dis", 1), ("gan", 0), ("vae_dis", 0)])
def test_evaluation_is_its_transcription(name, index):
    config = config_of(name, augment=True)  # which is for training
    forward = Forward(dataclasses.replace(config, augment=False), train=False)
    x = forward.images()
    if "encoder" in ZOO[name].phases(config, STEPS)[index].learning_rates:
        mean, logvar, z = forward.codes(x, KEY)
        found = forward.errors(x, np.tanh(forward.run("decoder", z)), mean, logvar, False)
        loss = found["similarity"] + found["kl"]
    else:
        generated = np.tanh(forward.run("decoder", forward.prior(KEY)))
        found = forward.discriminator_metrics(*(forward.run("discriminator", value)[0] for value in (x, generated)))
        loss = 0.5 * (found["discriminator/real_error"] + found["discriminator/fake_error"])
    model, phase, _ = setup(name, config, index)
    assert_close(model.evaluate(phase)(*variables(*groups_of(name)), batch(), KEY), {"loss": loss, **found})


def test_terms_are_functions_of_arrays():
    rng = np.random.default_rng(0)
    x, reconstruction = rng.uniform(-1, 1, (2, 3, 4, 4, 3))
    x_features, features = rng.normal(size=(2, 3, 2, 2, 5))
    mean, logvar, real, fake = rng.normal(size=(4, 3, 2))
    arrays = [jnp.asarray(a, jnp.float32) for a in (x, reconstruction, x_features, features, mean, logvar)]
    expected = {
        "similarity": 0.5 * ((features - x_features) ** 2).sum((1, 2, 3)),
        "kl": 0.5 * (np.exp(logvar) + mean**2 - 1 - logvar).sum(1),
        "mean_squared_error": (((reconstruction - x) / 2) ** 2).mean((1, 2, 3)),
    }
    assert_close(vae_gan.terms(*arrays), expected)

    def similarity(x_features, features):
        return vae_gan.terms(*arrays[:2], x_features, features, *arrays[4:])["similarity"].sum()

    originals, generated = jax.grad(similarity, (0, 1))(*arrays[2:4])
    np.testing.assert_array_equal(originals, np.zeros_like(x_features))
    np.testing.assert_allclose(generated, features - x_features, rtol=1e-5)

    config = config_of("gan", epsilon=0.01, real_weight=0.3)
    real, fake = real[:, 0], fake[:, 0]
    terms = vae_gan.discriminator_terms(config, jnp.asarray(real, jnp.float32), jnp.asarray(fake, jnp.float32))
    errors = -np.log(sigmoid(real) + 0.01), -np.log(sigmoid(-fake) + 0.01)
    assert_close(
        terms,
        {
            "discriminator/real_error": errors[0],
            "discriminator/fake_error": errors[1],
            "discriminator/real_accuracy": (real > 0).astype(np.float32),
            "discriminator/fake_accuracy": (fake < 0).astype(np.float32),
        },
    )
    assert_close(vae_gan.discriminator_error(config, terms), 0.3 * errors[0] + 0.7 * errors[1])


def test_functions_are_those_of_the_networks():
    forward, model = Forward(config_of("vae_gan"), train=False), vae_gan.build(config_of("vae_gan"))
    x, z = forward.images(), forward.prior(KEY)
    pixels = jnp.asarray(x, jnp.float32)
    logits, features = forward.run("discriminator", x)
    assert_close(tuple(model.encode(*variables(), pixels)), forward.run("encoder", x))
    assert_close(model.decode(*variables(), jnp.asarray(z)), np.tanh(forward.run("decoder", z)))
    assert_close(model.sample(*variables(), KEY, BATCH), np.tanh(forward.run("decoder", z)))
    assert_close(model.functions["discriminate"](*variables(), pixels), logits)
    assert_close(model.functions["similarity_features"](*variables(), pixels), features)
    generator = vae_gan.build(config_of("gan"))
    assert generator.encode is None
    params, state = generator.init(KEY, batch())
    assert set(params) == set(state) == set(groups_of("gan"))
    assert_close(generator.sample(*variables(*groups_of("gan")), KEY, BATCH), model.sample(*variables(), KEY, BATCH))


# --- who moves whom ------------------------------------------------------------------------------------------------


def step(name, config, optimizers=None, **fields):
    """The state before and after a step, by the model's own optimisers or others, and metrics."""
    model, phase, round_ = setup(name, config)
    optimizers = optimizers or model.optimizers(phase)
    params, model_state = variables(*groups_of(name))
    opt_state = {group: tx.init(params[group]) for group, tx in optimizers.items()}
    zero = jnp.int32(0)
    old = states.TrainState(zero, KEY, params, model_state, opt_state, ema=None, skipped=zero)
    run = jax.jit(make_train_step((round_,), optimizers, dataclasses.replace(phase, **fields)))
    new, metrics = run(old, batch())
    assert metrics["step/finite"] == 1.0
    return old, new, metrics


def sgd_step(name, config):
    """A step of gradient descent that remembers the gradient."""
    descent = dict.fromkeys(groups_of(name), optax.sgd(1.0, momentum=0.5))
    return step(name, config, descent, learning_rates=dict.fromkeys(descent, RATE))


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def test_each_objective_moves_its_own_network_alone():
    """Gradients of each term by each network, one by one, put together as the paper says.

    The encoder gets no gradient from the adversarial losses, the discriminator none from the similarity, and the
    decoder gamma times one and 1 - gamma times the other.
    """
    gamma, key = 0.3, jax.random.fold_in(KEY, 0)  # what the step at 0 draws from
    old, new, _ = sgd_step("vae_gan", config_of("vae_gan", gamma=gamma, gating=False))
    (params, state), x = variables(), images.to_float(batch()["image"])

    def terms(params):
        def run(group, value):
            return nets.apply(NETS[group], params[group], state[group], value, train=True)[0]

        mean, logvar = run("encoder", x)
        noise, z_prior = (random.standard_normal(jax.random.fold_in(key, n), mean.shape) for n in (3, 4))
        pictures = jnp.tanh(run("decoder", jnp.concatenate([mean + jnp.exp(logvar / 2) * noise, z_prior])))
        features = run("discriminator", jnp.concatenate([pictures[:BATCH], x]))[1]
        target = jax.lax.stop_gradient(features[BATCH:])
        chances = jax.nn.sigmoid(run("discriminator", jnp.concatenate([x, pictures[BATCH:]]))[0])
        return {
            "kl": -0.5 * jnp.sum(1 + logvar - mean**2 - jnp.exp(logvar)) / BATCH,
            "similarity": 0.5 * jnp.sum((features[:BATCH] - target) ** 2) / BATCH,
            "real": jnp.mean(jnp.log(chances[:BATCH] + 1e-3)),
            "fake": jnp.mean(jnp.log(1 - chances[BATCH:] + 1e-3)),
        }

    by_term = jax.jit(jax.jacrev(terms))(params)
    gradients = {term: {group: flat(tree) for group, tree in groups.items()} for term, groups in by_term.items()}
    expected = {
        "encoder": gradients["kl"]["encoder"] + gradients["similarity"]["encoder"],
        "decoder": gamma * gradients["similarity"]["decoder"] + (1 - gamma) * gradients["fake"]["decoder"],
        "discriminator": -(gradients["real"]["discriminator"] + gradients["fake"]["discriminator"]) / 2,
    }
    for group, gradient in expected.items():
        moved = (flat(old.params[group]) - flat(new.params[group])) / RATE
        largest = np.abs(gradient).max()
        assert largest > 1e-3
        np.testing.assert_allclose(moved, gradient, atol=3e-5 * largest + 1e-5, err_msg=group)
    # What is left out would have shown: the similarity does depend on the discriminator.
    assert np.abs(gradients["similarity"]["discriminator"]).max() > 0.1


@pytest.mark.parametrize(
    ("real", "fake", "decoder", "discriminator"),
    [
        (0.6, 0.8, True, True),
        (0.3, 0.8, True, False),  # the discriminator is ahead
        (0.6, 0.3, True, False),
        (0.6, 1.1, False, True),  # and behind
        (1.1, 0.6, False, True),
        (0.3, 1.1, True, True),  # both would wait
    ],
)
def test_gates(real, fake, decoder, discriminator):
    metrics = {"discriminator/real_error": jnp.float32(real), "discriminator/fake_error": jnp.float32(fake)}
    for name, margin in (("vae_gan", 0.35), ("gan", 0.35), ("vae_dis", 0.35)):
        _, _, round_ = setup(name, config_of(name, margin=margin))
        assert round_.gates(metrics) == {"decoder": decoder, "discriminator": discriminator}
    assert setup("vae_gan", config_of("vae_gan", gating=False))[2].gates is None
    assert setup("vae_dis", config_of("vae_dis"), 1)[2].gates is None


def test_published_gates():
    for name, margin in (("vae_gan", 0.35), ("gan", 0.4), ("vae_dis", 0.4)):
        config = ZOO[name].config()
        assert (config.gating, config.equilibrium, config.margin, config.epsilon) == (True, 0.68, margin, 1e-3)


@pytest.mark.parametrize(("equilibrium", "waiting"), [(20.0, "discriminator"), (-20.0, "decoder")])
def test_who_waits_keeps_all_it_has(equilibrium, waiting):
    """Parameters, statistics and optimiser; the metrics tell it."""
    old, new, metrics = sgd_step("gan", config_of("gan", equilibrium=equilibrium))
    for group in ("decoder", "discriminator"):
        same = [
            bool((a == b).all())
            for tree in ("params", "model_state", "opt_state")
            for a, b in zip(
                jax.tree.leaves(getattr(old, tree)[group]), jax.tree.leaves(getattr(new, tree)[group]), strict=True
            )
        ]
        assert metrics[f"{group}/updated"] == (group != waiting)
        assert all(same) if group == waiting else not any(same)


def test_the_learned_similarity_goes_on_from_the_gan():
    """Bit by bit at the border; from there on the discriminator is frozen."""
    config = config_of("vae_dis")
    model, phases = vae_gan.build(config), vae_gan.phases(config, STEPS)
    begin = jax.jit(lambda: states.create(model, phases[0], jax.random.key(0), batch()))()

    def take(state, phase):
        run = make_train_step(model.rounds(phase), model.optimizers(phase), phase)
        state, metrics = jax.jit(run)(state, batch())
        assert metrics["step/finite"] == 1.0
        return state

    def moved(old, new, part="params"):
        return {
            group
            for group, tree in getattr(old, part).items()
            if any(
                (a != b).any() for a, b in zip(*map(jax.tree.leaves, (tree, getattr(new, part)[group])), strict=True)
            )
        }

    trained = take(begin, phases[0])
    assert moved(begin, trained) == moved(begin, trained, "model_state") == {"decoder", "discriminator"}
    handed = states.start_phase(trained, model, phases[1])
    assert not moved(trained, handed)
    assert not moved(trained, handed, "model_state")
    assert set(trained.opt_state) == {"decoder", "discriminator"}
    assert set(handed.opt_state) == {"encoder", "decoder"}
    assert not any(leaf.any() for leaf in jax.tree.leaves(handed.opt_state))  # squares of another objective
    final = take(handed.replace(step=jnp.int32(phases[1].start)), phases[1])
    assert moved(handed, final) == moved(handed, final, "model_state") == {"encoder", "decoder"}


# --- optimiser and phases ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_rmsprop_with_decay_of_the_kernels(reduction):
    """Two steps in NumPy on the gradient of the sum over the batch, of the size of epsilon in places."""
    config, size = config_of("vae_gan", batch_reduction=reduction, weight_decay=0.05), 6
    model, phase, _ = setup("vae_gan", config)
    optimizers = model.optimizers(phase)
    assert set(optimizers) == {"encoder", "decoder", "discriminator"}
    names = {"Conv_0": ("kernel", "bias"), "BatchNorm_0": ("scale",), "mean": ("kernel",), "logvar": ("kernel",)}
    generator = np.random.default_rng(0)
    params, gradients = (
        {layer: {leaf: generator.normal(size=5) for leaf in leaves} for layer, leaves in names.items()} for _ in "pg"
    )
    gradients = jax.tree.map(lambda g: g * np.array([1e-9, 1e-8, 1e-7, 1e-3, 10.0]), gradients)
    params["Conv_0"]["kernel"][:2] = 0.0  # without decay, so that its tiny gradients count
    divisor = size if reduction == "mean" else 1
    tx = optimizers["encoder"]
    values = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
    given = jax.tree.map(lambda g: jnp.asarray(g / divisor, jnp.float32), gradients)
    opt_state = tx.init(values)
    squares = jax.tree.map(np.zeros_like, params)
    for _ in range(2):
        updates, opt_state = tx.update(given, opt_state, values)
        total = jax.tree.map(np.copy, gradients)
        total["Conv_0"]["kernel"] += 2 * 0.05 * params["Conv_0"]["kernel"]
        squares = jax.tree.map(lambda v, g: 0.9 * v + 0.1 * g**2, squares, total)
        assert_close(updates, jax.tree.map(lambda v, g: -g / (np.sqrt(v) + 1e-8), squares, total), rtol=2e-5, atol=1e-6)


def test_means_and_sums_make_the_same_step():
    results = []
    for reduction in ("mean", "sum"):
        old, new, metrics = step("gan", config_of("gan", batch_reduction=reduction))
        moves = jax.tree.map(lambda a, b: (a - b) / 0.025 * 64, new.params, old.params)
        results.append((moves, new.model_state, metrics))
    (mean, mean_state, mean_metrics), (total, total_state, total_metrics) = results
    steps = np.abs(flat(mean))
    assert 3.1 < np.median(steps) < 3.17  # 1 / sqrt(.1), whatever the gradient
    # A gradient that is zero but for rounding would step by either sign: there is none here.
    np.testing.assert_allclose(flat(mean), flat(total), atol=2e-3)
    assert_close(mean_state, total_state, rtol=2e-7, atol=0)  # the last bit depends on what XLA fuses
    for objective in ("decoder", "discriminator"):
        ratio = total_metrics[f"{objective}/objective"] / mean_metrics[f"{objective}/objective"]
        assert ratio == pytest.approx(BATCH, rel=1e-6)
    assert mean_metrics["loss"] == total_metrics["loss"]


def test_the_published_schedule():
    """250 periods, each of 250 batches in the published run, at rates for sums over 64 images."""
    default, faces_of_celeba = vae_gan.VAEGANConfig(), 182_637
    assert default.epochs * (faces_of_celeba // default.batch_size) == pytest.approx(62_500, rel=5e-3)
    (phase,) = vae_gan.phases(vae_gan.VAEGANConfig(epochs=250), steps_per_epoch=250)
    assert (phase.name, phase.start, phase.steps, phase.batch_size, phase.image_size) == ("training", 0, 62_500, 64, 64)
    assert set(phase.learning_rates) == {"encoder", "decoder", "discriminator"}
    for group, rate in phase.learning_rates.items():
        for period in (0, 1, 7, 125, 249):
            expected = (0.025 - (period / 250) ** 0.75 * (0.025 - 1e-5)) / 64
            for step in (250 * period, 250 * period + 249):
                assert rate(jnp.int32(step)) == pytest.approx(expected, rel=1e-5), (group, step)
    (short,) = vae_gan.phases(vae_gan.GANConfig(epochs=1), steps_per_epoch=10)
    rates = [float(short.learning_rates["decoder"](jnp.int32(step))) for step in range(10)]
    np.testing.assert_allclose(rates, [(0.025 - (s / 10) ** 0.75 * (0.025 - 1e-5)) / 64 for s in range(10)], rtol=1e-5)


def test_phases_of_the_learned_similarity():
    adversarial, similarity = vae_gan.phases(vae_gan.VAEDisConfig(epochs=2, adversarial_epochs=3), steps_per_epoch=10)
    assert (adversarial.name, adversarial.start, adversarial.steps) == ("adversarial", 0, 30)
    assert (similarity.name, similarity.start, similarity.steps) == ("similarity", 30, 20)
    assert similarity.reset_optimizers
    rate = similarity.learning_rates["encoder"]
    assert [float(rate(jnp.int32(step))) for step in (0, 20)] == pytest.approx([0.025 / 64, 1e-5 / 64], rel=1e-3)


@pytest.mark.parametrize("name", ["vae_gan", "gan"])
def test_reference_is_the_released_code(name):
    default, released = ZOO[name].config(), ZOO[name].config.reference()
    changed = {
        field.name: getattr(released, field.name)
        for field in dataclasses.fields(released)
        if getattr(released, field.name) != getattr(default, field.name)
    }
    expected = {"batch_reduction": "sum", "shuffle": False, "augmentation": Perturbation(flip_batches=True)}
    assert changed == expected | ({"separate_statistics": True} if name == "vae_gan" else {})
    assert [ZOO[name].phases(config, 1)[0].shuffle for config in (default, released)] == [True, False]


def test_published_sizes():
    config = vae_gan.VAEGANConfig()
    x = {"image": np.zeros((2, 64, 64, 3), np.uint8)}
    params, _ = jax.eval_shape(lambda: vae_gan.build(config).init(KEY, jax.tree.map(jnp.asarray, x)))
    counts = {group: sum(leaf.size for leaf in jax.tree.leaves(tree)) for group, tree in params.items()}
    assert counts == {"encoder": 17_808_960 + 262_400, "decoder": 4_693_155, "discriminator": 10_953_857}
    assert (config.gamma, config.discriminate_reconstructions, config.weight_decay) == (1e-6, False, 1e-5)


# --- what is refused -----------------------------------------------------------------------------------------------


def test_data_of_other_shapes_are_refused():
    for name in ("vae_gan", "gan", "vae_dis"):
        with pytest.raises(ValueError, match=r"batch\['image'\] has shape \(6, 8, 8, 3\); expected \(B, 16, 16, 3\)"):
            ZOO[name].build(config_of(name, image_size=16)).init(KEY, batch())


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("gan", {"image_size": 30}, r"image_size is 30; expected a multiple of 4 for the decoder's 2 widths"),
        ("gan", {"decoder_widths": ()}, r"decoder_widths are \(\); expected at least one"),
        ("gan", {"discriminator_widths": (4,)}, r"discriminator_widths are \(4,\); expected at least two"),
        ("gan", {"real_weight": 1.0}, r"real_weight is 1\.0; expected between 0 and 1"),
        ("gan", {"batch_reduction": "none"}, r"batch_reduction is 'none'; choose one of 'mean', 'sum'"),
        ("gan", {"compute_dtype": "float16"}, r"compute_dtype is 'float16'; choose one of"),
        ("gan", {"epsilon": -1.0}, r"epsilon is -1\.0; expected at least 0"),
        ("gan", {"learning_rate": 0.0}, r"learning_rate is 0\.0; expected a number above 0"),
        ("gan", {"epochs": 0}, r"epochs is 0; expected at least 1"),
        ("gan", {"augment": True, "channels": 1}, r"channels is 1, but contrast and hue .* or augment to False"),
        ("vae_gan", {"encoder_widths": (0,)}, r"encoder_widths are \(0,\); expected at least one"),
        ("vae_gan", {"gamma": 1.5}, r"gamma is 1\.5; expected between 0 and 1"),
        ("vae_dis", {"adversarial_epochs": 0}, r"adversarial_epochs is 0; expected at least 1"),
    ],
)
def test_impossible_configurations_are_refused(name, fields, message):
    with pytest.raises(ValueError, match=message):
        config_of(name, **fields)


def test_grey_images():
    config = config_of("vae_gan", channels=1, augment=True, augmentation=Perturbation(contrast=0.0, hue=0.0))
    grey = {"image": batch()["image"][..., :1]}
    model, _, round_ = setup("vae_gan", config)
    shapes = jax.eval_shape(lambda: round_.losses(*model.init(KEY, grey), grey, KEY, 0).objectives)
    assert {leaf.shape for leaf in jax.tree.leaves(shapes)} == {()}
