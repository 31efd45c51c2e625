"""Draws: one key per example, whatever the batch is spread over."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mvae_jax import random

KEY = jax.random.key(7)


def test_example_keys_are_folded_from_the_index():
    keys = random.example_keys(KEY, 5)
    for index in range(5):
        np.testing.assert_array_equal(
            jax.random.key_data(keys[index]), jax.random.key_data(jax.random.fold_in(KEY, index))
        )


@pytest.mark.parametrize("draw", [random.standard_normal, random.uniform])
@pytest.mark.parametrize("mapped", [jax.vmap, jax.pmap])
def test_shards_draw_what_the_whole_batch_draws(draw, mapped):
    whole = draw(KEY, (8, 3))
    shards = mapped(lambda _: draw(KEY, (2, 3), "data"), axis_name="data")(jnp.arange(4))
    np.testing.assert_array_equal(shards.reshape(8, 3), whole)


def test_sharded_jit_draws_what_one_device_draws():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    draw = jax.jit(functools.partial(random.standard_normal, shape=(8, 3)), out_shardings=split)
    np.testing.assert_array_equal(draw(KEY), random.standard_normal(KEY, (8, 3)))


def test_an_example_keeps_its_noise_in_a_larger_batch():
    np.testing.assert_array_equal(random.standard_normal(KEY, (9, 2, 2))[:4], random.standard_normal(KEY, (4, 2, 2)))


def test_noise_has_the_right_distribution():
    normal = np.asarray(random.standard_normal(KEY, (4000, 5)))
    uniform = np.asarray(random.uniform(KEY, (4000, 5)))
    assert scipy.stats.kstest(normal.ravel(), "norm").pvalue > 0.01
    assert scipy.stats.kstest(uniform.ravel(), "uniform").pvalue > 0.01
    np.testing.assert_allclose(np.corrcoef(normal.T), np.eye(5), atol=0.06)  # 3.8 standard errors
    assert random.uniform(KEY, (6,)).shape == (6,)


@pytest.mark.parametrize("draw", [random.standard_normal, random.uniform])
def test_the_flag_of_float64_changes_no_draw(draw):
    expected = draw(KEY, (4, 3))
    with jax.enable_x64(True):
        got = draw(KEY, (4, 3))
    assert got.dtype == expected.dtype == jnp.float32
    np.testing.assert_array_equal(got, expected)
