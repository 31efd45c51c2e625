"""Models that the tests of exports share, as drawn."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import zoo

from mvae_jax import runs


@functools.cache
def run_of(name):
    """A model as drawn, as if it had been trained for some steps."""
    row = zoo.TABLE[name]
    model, batch = row.model(), jax.tree.map(jnp.asarray, row.batch(2))
    params, state = jax.jit(model.init)(jax.random.key(0), batch)
    config = json.loads(json.dumps(dataclasses.asdict(row.config)))
    settings = {"format": runs.FORMAT, "model": name, "config": {"seed": 3, "model": config}}
    return runs.Run(model, row.config, row.start(params), state, "training", 7, settings)
