"""Rounds of one step often begin with the same forward pass; it is computed once.

XLA merges equal operations too, but rewrites each beforehand to suit its users. The users of a forward pass that is
differentiated are others than those of one that is not, and so whole decoders were computed twice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

ResultT = TypeVar("ResultT")
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


def merge_repeated(function: Callable[..., ResultT]) -> Callable[..., ResultT]:
    """Rewrites a function so that equal operations on the same values are done once.

    Its result cannot be differentiated by custom rules any more: they are resolved. It is traced once for arguments
    of the same types on the same mesh, wherever it is called.

    Args:
        function: a pure function of trees of arrays.
    """
    traced: dict[Hashable, tuple[ClosedJaxpr, Any]] = {}

    @functools.wraps(function)
    def merged(*arguments: Any) -> ResultT:
        leaves, structure = jax.tree.flatten(arguments)
        types = structure, jax.sharding.get_abstract_mesh(), *map(jax.typeof, leaves)
        if types not in traced:
            traced[types] = jax.make_jaxpr(function, return_shape=True)(*arguments)
        closed, shapes = traced[types]
        return jax.tree.unflatten(jax.tree.structure(shapes), _run(closed, leaves, {}, ""))

    return merged


def _run(closed: ClosedJaxpr, arguments: Sequence[Any], known: dict[Hashable, Sequence[Any]], scope: str) -> list[Any]:
    """Evaluates equations, calls opened; those in `known` have results already. `scope` names them in profiles."""
    values = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values |= dict(zip(closed.jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    outputs: Sequence[Any]
    for equation in closed.jaxpr.eqns:
        primitive, params, inputs = equation.primitive, equation.params, [read(atom) for atom in equation.invars]
        name = "/".join(filter(None, (scope, str(equation.source_info.name_stack))))
        if primitive.name in _CALLS:
            outputs = _run(params[_CALLS[primitive.name]], inputs, known, name)
        else:
            identities = tuple(map(_identity, equation.invars, inputs))
            # Equal: the same operation, with the same parameters, on the very same values.
            key = primitive, identities, tuple((field, _comparable(params[field])) for field in sorted(params))
            if key not in known or equation.effects:  # an effect is to happen as often as it was written
                with jax.named_scope(name), equation.ctx.manager:  # on the mesh that it was traced on
                    results = primitive.bind(*inputs, **primitive.get_bind_params(params))
                known[key] = results if primitive.multiple_results else [results]
            outputs = known[key]
        values |= dict(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]


def _identity(atom: Any, value: Any) -> Hashable:
    """Literals are the same by type and content; other values live as long as `known`, so their ids are unique."""
    if isinstance(atom, Literal):
        return str(atom.aval), np.asarray(value).tobytes()
    return id(value)


def _comparable(value: Any) -> Hashable:
    """Parameters without a value to compare, such as bodies of loops, equal nothing but themselves."""
    return (type(value), value) if isinstance(value, Hashable) else id(value)
