"""What keeps numbers right: float32 whatever comes in, and norms whose gradients are numbers everywhere."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp

F = TypeVar("F", bound=Callable[..., Any])


def in_float32(function: F) -> F:
    """Decorator of a function of arrays, or of trees of them: it gets floating-point ones as float32.

    In float16 a sum over an image overflows, in bfloat16 it has 8 bits, and 1e-8 vanishes beside 1 in both. A cast that
    is compiled with what follows takes no memory. Integers, keys and all else pass as they are.
    """

    @functools.wraps(function)
    def computed(*arguments: Any, **named: Any) -> Any:
        arguments, named = map_in_order(_as_float32, (arguments, named))
        return function(*arguments, **named)

    return cast(F, computed)


def map_in_order(function: Callable[[Any], Any], tree: Any) -> Any:
    """`jax.tree.map`, by which dictionaries would be sorted."""

    def map_branch(branch: Any) -> Any:
        if type(branch) is dict:
            return {name: map_in_order(function, value) for name, value in branch.items()}
        return function(branch)

    return jax.tree.map(map_branch, tree, is_leaf=lambda branch: type(branch) is dict)


def _as_float32(leaf: Any) -> Any:
    dtype = getattr(leaf, "dtype", jnp.float32)
    return leaf.astype(jnp.float32) if jnp.issubdtype(dtype, jnp.floating) and dtype != jnp.float32 else leaf


def in_32_bits(function: F) -> F:
    """Decorator of a whole computation that JAX compiles and runs: as if `jax_enable_x64` were not set.

    With it, libraries that a step is made of would compute some numbers in float64, and others would be drawn.
    """

    @functools.wraps(function)
    def computed(*arguments: Any, **named: Any) -> Any:
        with jax.enable_x64(False):
            return function(*arguments, **named)

    return cast(F, computed)


def norm(x: jax.Array, axis: int | Sequence[int], *, keepdims: bool = False) -> jax.Array:
    """Euclidean norm over some axes, with gradient zero at zero.

    Of float32: below 1e-19, where squares vanish, it is zero, and above 1e19 infinite.

    Args:
        x: [...].
        axis: over which.
        keepdims: keep these axes, of length 1.

    Returns:
        Norms, in the units of `x`.
    """
    squared = jnp.sum(jnp.square(x), axis=axis, keepdims=keepdims)
    # The root has an infinite slope at zero, and 0 * inf in the unselected branch would still give NaN.
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)
