"""BiGAN's networks: sizes, draws, and their outputs and statistics in NumPy."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax import nets
from mvae_jax.nets import bigan
from mvae_jax.nets.bigan import Discriminator, Encoder, Generator

WIDTHS, LATENT, SHAPE = (6, 5, 4), 3, (2, 3, 2)
SMALL = {
    "generator": Generator(SHAPE, WIDTHS),
    "encoder": Encoder(LATENT, WIDTHS, heads=2),
    "discriminator": Discriminator(WIDTHS),
}


@functools.cache
def inputs():
    generator = np.random.default_rng(0)
    arrays = generator.uniform(size=(7, *SHAPE)), generator.uniform(-1, 1, (7, LATENT))
    return tuple(jnp.asarray(array, jnp.float32) for array in arrays)


def inputs_of(name, joint=False):
    x, z = inputs()
    return {"generator": (z,), "encoder": (x,), "discriminator": (x, z) if joint else (x,)}[name]


@functools.cache
def variables(name, joint=False):
    """Parameters and statistics, no longer zeros and ones where initialisation left those."""
    generator = np.random.default_rng(1)
    params, stats = jax.device_get(nets.init(SMALL[name], jax.random.key(0), *inputs_of(name, joint)))
    params = jax.tree.map(lambda p: p + 0.5 * generator.normal(size=p.shape).astype(np.float32), params)
    stats = jax.tree.map(lambda s: s + generator.uniform(0.1, 0.5, s.shape).astype(np.float32), stats)
    return jax.tree.map(jnp.asarray, (params, stats))


# --- the transcription ----------------------------------------------------------------------------------------------


class Forward:
    """Layers of one pass in float64, which takes parameters and statistics in the order of their numbers."""

    def __init__(self, params, stats, train):
        self.params, self.stats = (jax.tree.map(lambda p: np.asarray(p, np.float64), tree) for tree in (params, stats))
        self.train, self.new, self.dense_used = train, {}, 0

    def dense(self, h, name=None):
        name = name or f"Dense_{self.dense_used}"
        self.dense_used += name.startswith("Dense")
        layer = self.params[name]
        return h @ layer["kernel"] + layer.get("bias", 0.0)

    def norm(self, h):
        name = f"BatchNorm_{len(self.new)}"
        old, affine = self.stats[name], self.params.get(name, {"scale": 1.0, "bias": 0.0})
        mean, variance = (h.mean(0), h.var(0)) if self.train else (old["mean"], old["var"])
        self.new[name] = {
            "mean": 0.99 * old["mean"] + 0.01 * h.mean(0),
            "var": 0.99 * old["var"] + 0.01 * h.var(0, ddof=1),
        }
        return (h - mean) / np.sqrt(variance + 1e-8) * affine["scale"] + affine["bias"]


applied = jax.jit(lambda net, train, *values: nets.apply(net, *values, train=train), static_argnums=(0, 1))


def leaky(h):
    return np.where(h > 0, h, 0.2 * h)


def flat(x):
    return np.asarray(x, np.float64).reshape(len(x), -1)


def generate(forward, z):
    h = z = np.asarray(z, np.float64)
    for layer in range(len(WIDTHS)):
        units = forward.dense(h)
        h = np.maximum(forward.norm(units + forward.dense(z) if layer else units), 0)
    return forward.dense(h).reshape(-1, *SHAPE)


def hidden(forward, x, z=None):
    h = flat(x)
    for layer in range(len(WIDTHS)):
        h = forward.dense(h)
        if layer and z is not None:
            h = h + forward.dense(np.asarray(z, np.float64))
        h = leaky(forward.norm(h) if layer else h)
    return h


def encode(forward, x):
    h = hidden(forward, x)
    return forward.dense(h, "mean"), forward.dense(h, "logvar")


def judge(forward, x, z=None):
    return forward.dense(hidden(forward, x, z))[:, 0]


TRANSCRIPTIONS = {"generator": generate, "encoder": encode, "discriminator": judge}
CASES = [("generator", False), ("encoder", False), ("discriminator", False), ("discriminator", True)]


@pytest.mark.parametrize(("name", "joint"), CASES)
def test_networks_in_numpy(name, joint):
    values = inputs_of(name, joint)
    for train in (True, False):
        forward = Forward(*variables(name, joint), train)
        expected = TRANSCRIPTIONS[name](forward, *values)
        found, stats = applied(SMALL[name], train, *variables(name, joint), *values)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5), found, expected)
        if train:
            assert jax.tree.structure(dict(stats)) == jax.tree.structure(forward.new)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), dict(stats), forward.new)


@pytest.mark.parametrize(("options", "expected"), [({}, 0.9950), ({"epsilon": 1e-5}, 0.3015)])
def test_a_discriminator_tells_the_images_of_a_collapsed_batch_apart(options, expected):
    """Pixels of .5 -+ .001, passed through by kernels of 1: .001 / sqrt(.001^2 + epsilon) after the norm."""
    net = Discriminator((1, 1), **options)
    params = {f"Dense_{layer}": {"kernel": jnp.ones((1, 1))} for layer in range(3)}
    stats = {"BatchNorm_0": {"mean": jnp.zeros(1), "var": jnp.ones(1)}}
    logits = applied(net, True, params, stats, jnp.asarray([0.501, 0.499])[:, None, None, None])[0]
    np.testing.assert_allclose(logits, [expected, -0.2 * expected], rtol=1e-3)


def test_variances_keep_their_digits_far_from_zero():
    """Units of mean 3 and deviation 3e-4, whose squares differ in the eighth digit."""
    x = jnp.asarray(3 + 3e-4 * np.random.default_rng(0).normal(size=(128, 64)), jnp.float32)
    exact = np.asarray(x, np.float64)
    expected = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-8)
    stats = {"mean": jnp.zeros(64), "var": jnp.ones(64)}
    found = nets.apply(bigan._norm(None, epsilon=1e-8), {}, stats, x, train=True)[0]
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_features_are_the_last_hidden_layer_in_evaluation_mode():
    x, _ = inputs()
    expected = hidden(Forward(*variables("encoder"), False), x)
    found = nets.features(SMALL["encoder"], *variables("encoder"), x)
    assert found.shape == (7, WIDTHS[-1])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_heads():
    x, _ = inputs()
    one = Encoder(LATENT, WIDTHS)
    params, stats = variables("encoder")
    (mean,), _ = nets.apply(one, {k: v for k, v in params.items() if k != "logvar"}, stats, x, train=False)
    np.testing.assert_array_equal(mean, nets.apply(SMALL["encoder"], params, stats, x, train=False)[0][0])


# --- sizes and draws ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("net", "shapes", "expected"),
    [
        # No biases and no gains; a latent enters the second hidden layer as well.
        (Generator(), ((2, 50),), 50 * 1024 + (1024 + 50) * 1024 + 1024 * 784),
        (Encoder(), ((2, 28, 28, 1),), 784 * 1024 + 1024 * 1024 + 1024 * 50),
        (Encoder(heads=2), ((2, 28, 28, 1),), 784 * 1024 + 1024 * 1024 + 2 * 1024 * 50),
        (Discriminator(), ((2, 28, 28, 1),), 784 * 1024 + 1024 * 1024 + 1024),
        (Discriminator(), ((2, 28, 28, 1), (2, 50)), 784 * 1024 + (1024 + 50) * 1024 + 1024),
    ],
)
def test_the_published_sizes(net, shapes, expected):
    zeros = [jnp.zeros(shape) for shape in shapes]
    params, stats = jax.eval_shape(lambda: nets.init(net, jax.random.key(0), *zeros))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == expected
    norms = 2 if isinstance(net, Generator) else 1
    assert [leaf.shape for leaf in jax.tree.leaves(stats)] == [(1024,)] * (2 * norms)


@pytest.mark.parametrize(
    ("net", "shapes"),
    [
        (Generator((20, 10, 1), (300, 100)), ((2, 90),)),
        (Encoder(90, (300, 100), heads=2), ((2, 20, 10, 1),)),
        (Encoder(90, (300, 100), zero_heads=True), ((2, 20, 10, 1),)),
        (Discriminator((300, 100)), ((2, 20, 10, 1), (2, 90))),
    ],
)
def test_kernels_are_drawn_with_a_deviation_of_a_fiftieth_or_start_at_zero(net, shapes):
    params, _ = nets.init(net, jax.random.key(1), *(jnp.zeros(shape) for shape in shapes))
    zero = {"Discriminator": ["Dense_3"], "Encoder": ["mean", "logvar"] if getattr(net, "zero_heads", False) else []}
    for path, leaf in jax.tree.leaves_with_path(params):
        assert path[-1].key == "kernel"
        if path[-2].key in zero.get(type(net).__name__, []):
            assert not leaf.any()
        else:
            assert abs(leaf.std() / 0.02 - 1) < 4 / math.sqrt(2 * leaf.size)
            assert abs(leaf.mean() / 0.02) < 4 / math.sqrt(leaf.size)


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_computes_low_and_keeps_parameters_float32(name):
    low, values = SMALL[name].clone(dtype="bfloat16"), inputs_of(name)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nets.init(low, jax.random.key(0), *values)))
    exact, rough = (applied(net, False, *variables(name), *values)[0] for net in (SMALL[name], low))
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(rough), strict=True):
        assert b.dtype == jnp.float32
        np.testing.assert_allclose(b, a, atol=0.05 * float(jnp.abs(a).max()))
        assert (a != b).any()


@pytest.mark.parametrize("name", SMALL)
def test_statistics_are_those_of_the_whole_batch_where_it_is_split(name):
    x = jax.tree.map(lambda value: value[:6], inputs_of(name))
    whole, stats = applied(SMALL[name], True, *variables(name), *x)
    split = SMALL[name].clone(axis_name="batch")
    halves = jax.tree.map(lambda value: value.reshape(2, 3, *value.shape[1:]), x)
    run = functools.partial(applied, split, True, *variables(name))
    parts, split_stats = jax.jit(jax.vmap(run, axis_name="batch"))(*halves)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a.reshape(b.shape), b, atol=2e-5), parts, whole)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, atol=1e-5), split_stats, stats)
