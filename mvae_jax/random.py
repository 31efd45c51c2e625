"""Random draws with one key per example of the global batch, so that none depends on how the batch is spread.

The draws of an example are the same on one device and on many, under `jit` in global view, `vmap` and `pmap`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec


def example_keys(key: jax.Array, batch_size: int, axis_name: str | None = None) -> jax.Array:
    """One key per example, folded from the example's index in the global batch.

    Args:
        key: a key that serves nothing else.
        batch_size: B, examples held here.
        axis_name: mapped axis over which the batch is split, in order; None if B is the whole batch, as under
            `jit` with sharded arrays.

    Returns:
        Keys, [B].
    """
    start = 0 if axis_name is None else jax.lax.axis_index(axis_name) * batch_size
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, split_over_devices(start + jnp.arange(batch_size)))


def split_over_devices(x: jax.Array) -> jax.Array:
    """In a program for several devices, traced in global view: each device holds its part of the batch, as of data.

    Otherwise each would compute all of what is only made of draws, such as samples from a prior and what becomes of
    them. `train.program` traces with the mesh set; without one, and under `pmap`, this does nothing.

    Args:
        x: [B, ...].
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual or len(x) % mesh.size:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(mesh.axis_names))


def standard_normal(key: jax.Array, shape: Sequence[int], axis_name: str | None = None) -> jax.Array:
    """Draws from N(0, I), one key per example.

    Args:
        key: a key that serves nothing else.
        shape: (B, ...), the batch first.
        axis_name: as in `example_keys`.

    Returns:
        Noise of the given shape, float32.
    """
    keys = example_keys(key, shape[0], axis_name)
    return split_over_devices(jax.vmap(lambda own_key: jax.random.normal(own_key, shape[1:], jnp.float32))(keys))


def uniform(key: jax.Array, shape: Sequence[int], axis_name: str | None = None) -> jax.Array:
    """Draws from the uniform distribution on [0, 1), one key per example.

    Args:
        key: a key that serves nothing else.
        shape: (B, ...), the batch first.
        axis_name: as in `example_keys`.

    Returns:
        Noise of the given shape, float32.
    """
    keys = example_keys(key, shape[0], axis_name)
    return split_over_devices(jax.vmap(lambda own_key: jax.random.uniform(own_key, shape[1:], jnp.float32))(keys))
