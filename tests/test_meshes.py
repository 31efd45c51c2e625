"""Whatever mesh surrounds them, of axes of whatever type: draws, losses and models give what they give without one."""

from __future__ import annotations

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cpu import test_convolution
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from losses.test_api import ARRAYS, BATCH, FUNCTIONS, LOSSES
from zoo import BATCH as ZOO_BATCH
from zoo import TABLE

from mvae_jax import gaussian, random
from mvae_jax.train import state as states

KEY = jax.random.key(7)
AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit


@dataclasses.dataclass(frozen=True)
class Setting:
    """A mesh, the axes over which batches are split, and those of them that `shard_map` makes Manual."""

    sizes: tuple[int, ...]
    types: tuple[AxisType, ...]
    split: tuple[str, ...] = ()
    manual: tuple[str, ...] = ()
    is_set: bool = True

    def run(self, function, batch, shared=()):
        """`function(batch, shared, axis_name)`, of which some results are split as the batch and others are whole."""
        mesh = jax.make_mesh(self.sizes, ("data", "other")[: len(self.sizes)], axis_types=self.types)
        axis_name = self.manual[0] if len(self.manual) == 1 else self.manual or None
        function = functools.partial(function, axis_name=axis_name)
        if self.manual:
            over, whole = PartitionSpec(self.manual), PartitionSpec()
            function = jax.shard_map(
                function, mesh=mesh, in_specs=(over, whole), out_specs=(over, whole), axis_names=set(self.manual)
            )
        shardings = NamedSharding(mesh, PartitionSpec(self.split or None)), NamedSharding(mesh, PartitionSpec())
        if not self.is_set:
            return jax.jit(function, in_shardings=shardings)(batch, shared)
        with jax.set_mesh(mesh):
            return jax.jit(function)(*map(jax.device_put, (batch, shared), shardings))


DATA, BOTH = ("data",), ("data", "other")
SETTINGS = {
    "one_device": Setting((1,), (EXPLICIT,), DATA),
    "two_devices": Setting((2,), (EXPLICIT,), DATA),
    "four_devices": Setting((4,), (EXPLICIT,), DATA),
    "replicated": Setting((4,), (EXPLICIT,)),
    "two_axes": Setting((2, 2), (EXPLICIT, EXPLICIT), BOTH),
    "explicit_and_auto": Setting((2, 2), (EXPLICIT, AUTO), BOTH),
    "auto_and_explicit": Setting((2, 2), (AUTO, EXPLICIT), DATA),
    "auto": Setting((4,), (AUTO,), DATA),
    "in_shardings": Setting((4,), (AUTO,), DATA, is_set=False),
    "manual": Setting((4,), (EXPLICIT,), DATA, manual=DATA),
    "manual-two_axes": Setting((2, 2), (AUTO, AUTO), BOTH, manual=BOTH),
    "manual-rest_auto": Setting((2, 2), (AUTO, AUTO), BOTH, manual=DATA),
    "manual-rest_explicit": Setting((2, 2), (EXPLICIT, EXPLICIT), BOTH, manual=DATA),
}


def settings(*slow):
    """All settings, of which some are left to `make test-all`."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in SETTINGS]


def assert_close(got, expected, tolerance=1e-5):
    for (path, a), b in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(got), strict=True):
        a, message = np.asarray(a), jax.tree_util.keystr(path)
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * max(1, np.abs(a).max(initial=0)), err_msg=message)


# --- draws and losses ----------------------------------------------------------------------------------------------

X, Y, Z = (np.random.default_rng(seed).normal(size=(BATCH, 6)).astype(np.float32) for seed in range(3))
T = np.linspace(0, 1, BATCH, dtype=np.float32)[:, None]


def named(function):
    """With the name of a mapped axis, for a function that has no use for one."""
    return lambda *arrays, axis_name: function(*arrays)


# Public function -> the same, of arrays [B, ...] and `axis_name`, and its arrays.
DRAWS = {
    "random.example_keys": (lambda x, axis_name: jax.random.key_data(random.example_keys(KEY, len(x), axis_name)), X),
    "random.standard_normal": (lambda x, axis_name: random.standard_normal(KEY, x.shape, axis_name), X),
    "random.uniform": (lambda x, axis_name: random.uniform(KEY, x.shape, axis_name), X),
}
COUPLED = ("kl_terms", "total_correlation")
FUNCTIONS_OF_ARRAYS = {
    **{f"losses.{name}": (LOSSES[name] if name in COUPLED else named(LOSSES[name]), *ARRAYS[name]) for name in LOSSES},
    "gaussian.log_prob": (named(gaussian.log_prob), X, Y, Z),
    "gaussian.sample": (lambda mean, logvar, axis_name: gaussian.sample(KEY, mean, logvar, axis_name), X, Y),
    "gaussian.kl_divergence": (named(gaussian.kl_divergence), X, Y, Z, X),
    "gaussian.mixture_log_prob": (named(lambda x, *y: gaussian.mixture_log_prob(x, y[:2], y[2:])), X, Y, Z, X, Z),
    "gaussian.product_of_experts": (named(lambda *x: gaussian.product_of_experts(x[:2], x[2:])), X, Y, Z, X),
    "gaussian.lerp": (named(gaussian.lerp), X, Y, T),
    "gaussian.slerp": (named(gaussian.slerp), X, Y, T),
    "gaussian.wasserstein_distance": (named(gaussian.wasserstein_distance), X, Y, Z, X),
}


def test_the_tables_cover_the_public_functions():
    public = {f"losses.{name}" for name in FUNCTIONS}
    for module in (gaussian, random):
        room = module.__name__.removeprefix("mvae_jax.")
        functions = inspect.getmembers(module, inspect.isfunction)
        public |= {f"{room}.{n}" for n, f in functions if f.__module__ == module.__name__ and not n.startswith("_")}
    assert public == {*DRAWS, *FUNCTIONS_OF_ARRAYS}
    takes = {name for name in FUNCTIONS if "axis_name" in inspect.signature(LOSSES[name]).parameters}
    assert takes == set(COUPLED)


ROWS = {name: arrays for name, (_, *arrays) in {**DRAWS, **FUNCTIONS_OF_ARRAYS}.items()}


def values_and_gradients(arrays, shared, axis_name):
    """{name: draws, or gradients of the sum of squared results beside these} for {name: arrays}; nothing is shared."""
    values = {}
    for name, (function, *_) in {**DRAWS, **FUNCTIONS_OF_ARRAYS}.items():

        def squares(x, function=function):
            results = function(*x, axis_name=axis_name)
            return sum(jnp.square(part).sum() for part in jax.tree.leaves(results)), results

        try:
            if name in DRAWS:
                values[name] = function(*arrays[name], axis_name=axis_name)
            else:
                values[name] = jax.grad(squares, has_aux=True)(arrays[name])
        except Exception as error:
            error.add_note(name)
            raise
    return values, ()


@functools.cache
def without_a_mesh():
    return jax.jit(functools.partial(values_and_gradients, axis_name=None))(ROWS, ())[0]


@pytest.mark.parametrize("name", settings("two_devices", "replicated", "two_axes", "auto_and_explicit"))
def test_draws_losses_and_gradients(name):
    got, _ = SETTINGS[name].run(values_and_gradients, ROWS)
    assert_close(got, without_a_mesh())
    for draw in DRAWS:
        np.testing.assert_array_equal(got[draw], without_a_mesh()[draw])


def test_a_loss_is_split_as_its_batch():
    with jax.set_mesh(jax.make_mesh((4,), ("data",))):
        arrays = jax.device_put(ROWS, PartitionSpec("data"))
        types = jax.eval_shape(functools.partial(values_and_gradients, axis_name=None), arrays, ())[0]
    for name in FUNCTIONS_OF_ARRAYS:
        for leaf in jax.tree.leaves(types[name]):
            assert leaf.sharding.spec[0] == "data", name


@pytest.mark.parametrize("types", [(EXPLICIT, EXPLICIT), (EXPLICIT, AUTO), (AUTO, AUTO)])
def test_draws_of_single_calls(types):
    mesh = jax.make_mesh((2, 2), BOTH, axis_types=types)
    for name, (draw, x) in DRAWS.items():
        with jax.set_mesh(mesh):
            got = draw(x, axis_name=None)
        np.testing.assert_array_equal(got, without_a_mesh()[name])


# --- networks and models -------------------------------------------------------------------------------------------


def convolutions(images, parameters, axis_name):
    """Logits and R1 penalties of examples, and the gradients of their sum."""

    def summed(parameters, images):
        results = test_convolution.network(parameters, images)
        return sum(part.sum() for part in results), results

    (by_parameters, by_images), results = jax.grad(summed, (0, 1), has_aux=True)(parameters, images)
    return (results, by_images), by_parameters


@pytest.mark.parametrize("name", settings(*set(SETTINGS) - {"four_devices", "manual-rest_explicit"}))
def test_convolutions(name):
    arrays = test_convolution.IMAGES, test_convolution.PARAMETERS
    expected = jax.jit(functools.partial(convolutions, axis_name=None))(*arrays)
    assert_close(SETTINGS[name].run(convolutions, *arrays), expected)


@functools.cache
def prepared(name):
    """Terms and objectives of a model as a function for `Setting.run`, and its arguments."""
    row = TABLE[name]
    model, batch, phase = row.model(), row.batch(ZOO_BATCH), row.phases()[-1]
    state = jax.jit(lambda key, batch: states.create(model, row.phases()[0], key, batch))(KEY, batch)
    shared = jax.tree.map(np.asarray, (row.start(state.params), state.model_state))

    def losses(batch, shared, axis_name):
        params, model_state = shared
        objectives = {}
        for round_ in model.rounds(phase, axis_name):
            for objective in round_.trains:

                def loss(params, round_=round_, objective=objective):
                    value = round_.losses(params, model_state, batch, KEY, jnp.int32(1)).objectives[objective]
                    return value if axis_name is None else jax.lax.pmean(value, axis_name)

                objectives[objective] = jax.value_and_grad(loss)(params)
        # Validation has no mapped axis.
        terms = model.evaluate(phase)(params, model_state, batch, KEY) if axis_name is None else {}
        return terms, objectives

    return losses, batch, shared, jax.jit(functools.partial(losses, axis_name=None))(batch, shared)


FAMILIES = (
    *("multimodal", "attribute_classifier", "beta_tcvae", "cvae", "alae", "style_alae", "bigan", "vae_gan"),
    *("mvae", "mopoe", "mmvae_plus", "jmvae"),
)
QUICK = ("beta_tcvae", "four_devices")  # it draws, and compares the examples of a batch


@pytest.mark.parametrize(
    ("model", "name"),
    [
        pytest.param(model, name, marks=() if (model, name) == QUICK else pytest.mark.slow)
        for model in FAMILIES
        for name in ("four_devices", "explicit_and_auto", "manual", "manual-rest_explicit")
    ],
)
def test_models(model, name):
    losses, batch, shared, expected = prepared(model)
    terms, objectives = SETTINGS[name].run(losses, batch, shared)
    assert_close(objectives, expected[1], 5e-5)
    if terms:
        assert_close(terms, expected[0], 5e-5)
