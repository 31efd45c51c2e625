"""Arrays on the mesh that surrounds them, which may be anybody's and whose axes have one of JAX's three types.

Over Auto axes XLA lays out every operation. Over Manual ones, within `shard_map`, an array is the part of one device.
Over Explicit ones, as `jax.make_mesh` makes them by default, an array's type says how it is split, and JAX refuses an
operation whose result it would have to lay out by itself; these functions say how. Without a mesh they do nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

ResultT = TypeVar("ResultT")
AxisName = str | tuple[str, ...]  # of a mapped axis, or of several in the order in which they split a batch


def split(x: jax.Array) -> jax.Array:
    """Each device holds its part of the batch, as of data, over Auto axes.

    Otherwise each would compute all of what is only made of draws, such as samples from a prior and what becomes of
    them. Over Explicit axes that is the caller's to say.

    Args:
        x: [B, ...]; it stays as it is if the devices cannot share B equally.
    """
    mesh = jax.sharding.get_abstract_mesh()
    devices = math.prod(size for axis, size in mesh.shape.items() if axis not in mesh.manual_axes)
    if not mesh.auto_axes or len(x) % devices:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(mesh.auto_axes))


def whole(x: jax.Array) -> jax.Array:
    """All of an array on every device, if its type says that it is split over Explicit axes."""
    sharding = jax.typeof(x).sharding
    if all(axes is None for axes in sharding.spec):
        return x
    return jax.sharding.reshard(x, sharding.update(spec=PartitionSpec()))


def automatic(function: Callable[..., ResultT], *arguments: Any, batch: jax.Array | None = None) -> ResultT:
    """Calls a function, within which Explicit axes are Auto ones.

    Args:
        function: of trees of arrays and of other values.
        *arguments: its arguments.
        batch: an array whose first axis is that of all results, over which they are split as it is; None if they are
            to be whole on every device.

    Returns:
        What the function returns.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.explicit_axes:
        return function(*arguments)
    leaves, structure = jax.tree.flatten(arguments)
    arrays = {i: jnp.asarray(leaf) for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray)}

    def run(arrays: dict[int, jax.Array]) -> ResultT:
        return function(*jax.tree.unflatten(structure, [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]))

    results = PartitionSpec() if batch is None else PartitionSpec(*jax.typeof(batch).sharding.spec[:1])
    return jax.sharding.auto_axes(run, axes=mesh.explicit_axes, out_sharding=results)(arrays)
