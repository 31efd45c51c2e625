"""Arguments of measures: numbers, all of them, and of no fewer than 32 bits."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax.numerics import in_float32, map_in_order

F = TypeVar("F", bound=Callable[..., Any])


def measure(*, infinite: Collection[str] = (), unchecked: Collection[str] = ()) -> Callable[[F], F]:
    """Decorator of a measure: a value that is not finite is refused, and 16 bits become float32.

    NaN is below, above and equal to nothing, so that comparisons, ranks and counts judge it as if it were a number.
    Arrays are looked at, and trees of them. Under `jit` no values are known, and none are looked at.

    Args:
        infinite: names of arguments that may hold infinite values, but no NaN.
        unchecked: names of arguments of which the measure itself finds out.
    """

    def decorate(function: F) -> F:
        names = tuple(inspect.signature(function).parameters)

        @functools.wraps(function)
        def measured(*arguments: Any, **named: Any) -> Any:
            for name, value in (*zip(names, arguments, strict=False), *named.items()):
                if name not in unchecked:
                    check_finite(value, name, infinite=name in infinite)
            arguments, named = map_in_order(_widened, (arguments, named))
            return function(*arguments, **named)

        return cast(F, measured)

    return decorate


def device_measure(*, infinite: Collection[str] = ()) -> Callable[[F], F]:
    """As `measure`, of one that JAX computes: all floating-point arrays become float32."""
    return lambda function: measure(infinite=infinite)(in_float32(function))


def check_finite(values: Any, name: str, *, infinite: bool = False) -> None:
    """Refuses values that are not finite.

    Args:
        values: an array, or a tree of arrays and numbers; what is not floating-point is not looked at. A single number
            is an option, and may be infinite.
        name: what they are, for the message.
        infinite: whether they may be infinite.

    Raises:
        ValueError: there is such a value.
    """
    infinite = infinite or isinstance(values, float)
    leaves = [leaf for leaf in jax.tree.leaves(values) if _is_floating(leaf)]
    wrong = sum(_count_wrong(leaf, infinite) for leaf in leaves)
    if wrong:
        raise ValueError(
            f"{wrong} of {sum(map(np.size, leaves))} values of {name} are not {'numbers' if infinite else 'finite'}; "
            "look at the model or at the data that gave them."
        )


def _count_wrong(leaf: Any, infinite: bool) -> int:
    numpy: Any = jnp if isinstance(leaf, jax.Array) else np  # which JAX's own would round to float32 first
    return int((numpy.isnan(leaf) if infinite else ~numpy.isfinite(leaf)).sum())


def _is_floating(leaf: Any) -> bool:
    if isinstance(leaf, jax.core.Tracer):
        return False
    return isinstance(leaf, float) or jnp.issubdtype(getattr(leaf, "dtype", bool), jnp.floating)


def _widened(leaf: Any) -> Any:
    return leaf.astype(np.float32) if _is_floating(leaf) and getattr(leaf, "itemsize", 4) < 4 else leaf
