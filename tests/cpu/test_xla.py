"""Compiler options: what a program is compiled with, and that it computes the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from mvae_jax.cpu import xla


class Recorded:
    """A lowered program that keeps the options with which it is compiled."""

    def __init__(self, lowered):
        self.lowered, self.tried = lowered, []

    def compile(self, options):
        self.tried.append(dict(options))
        return self.lowered.compile(options)


def sum_of_products(x):
    return jnp.sum(jnp.tanh(x @ x.T), axis=1)


@pytest.fixture
def mesh():
    return Mesh(np.array(jax.devices("cpu")[:1]), ("data",))


def lowered():
    return Recorded(jax.jit(sum_of_products).lower(jax.ShapeDtypeStruct((64, 64), jnp.float32)))


@pytest.mark.parametrize(
    ("has_amx", "runs_once", "width"), [(True, False, 512), (False, False, None), (True, True, None)]
)
def test_vectors_are_wide_where_that_pays_and_the_program_runs_more_than_once(
    monkeypatch, mesh, has_amx, runs_once, width
):
    monkeypatch.setattr(xla, "_has_amx", lambda: has_amx)
    recorded = lowered()
    x = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    result = xla.compile_lowered(recorded, mesh, runs_once=runs_once)(x)
    assert recorded.tried[-1].get("xla_cpu_prefer_vector_width") == width
    np.testing.assert_allclose(result, np.tanh(x.astype(float) @ x.T).sum(1), rtol=1e-4, atol=1e-4)


def test_an_option_that_this_xla_lacks_is_left_out_and_the_others_stay(monkeypatch, mesh):
    monkeypatch.setattr(xla, "_OPTIONS", {**xla._OPTIONS, "xla_cpu_no_such_option": 1})
    recorded = lowered()
    xla.compile_lowered(recorded, mesh)
    assert "xla_cpu_no_such_option" in recorded.tried[0]
    assert recorded.tried[-1].keys() == recorded.tried[0].keys() - {"xla_cpu_no_such_option"}
