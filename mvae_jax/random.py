"""Random draws with one key per example of the global batch, so that none depends on how the batch is spread.

The draws of an example are the same on one device and on many, under `jit` in global view, `vmap`, `pmap` and
`shard_map`, whatever the types of the mesh's axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from mvae_jax import meshes


def example_keys(key: jax.Array, batch_size: int, axis_name: meshes.AxisName | None = None) -> jax.Array:
    """One key per example, folded from the example's index in the global batch.

    Args:
        key: a key that serves nothing else.
        batch_size: B, examples held here.
        axis_name: mapped axis over which the batch is split, in order, or several; None if B is the whole batch, as
            under `jit` with sharded arrays.

    Returns:
        Keys, [B].
    """
    start = 0 if axis_name is None else jax.lax.axis_index(axis_name) * batch_size
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, meshes.split(start + jnp.arange(batch_size)))


def standard_normal(key: jax.Array, shape: Sequence[int], axis_name: meshes.AxisName | None = None) -> jax.Array:
    """Draws from N(0, I), one key per example.

    Args:
        key: a key that serves nothing else.
        shape: (B, ...), the batch first.
        axis_name: as in `example_keys`.

    Returns:
        Noise of the given shape, float32.
    """
    return _drawn(jax.random.normal, key, shape, axis_name)


def uniform(key: jax.Array, shape: Sequence[int], axis_name: meshes.AxisName | None = None) -> jax.Array:
    """Draws from the uniform distribution on [0, 1), one key per example.

    Args:
        key: a key that serves nothing else.
        shape: (B, ...), the batch first.
        axis_name: as in `example_keys`.

    Returns:
        Noise of the given shape, float32.
    """
    return _drawn(jax.random.uniform, key, shape, axis_name)


def _drawn(
    draw: Callable[..., jax.Array], key: jax.Array, shape: Sequence[int], axis_name: meshes.AxisName | None
) -> jax.Array:
    keys = example_keys(key, shape[0], axis_name)
    return meshes.split(jax.vmap(lambda own_key: draw(own_key, shape[1:], jnp.float32))(keys))
