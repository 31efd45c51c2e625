"""Flax networks, and the functions with which models run them.

Every network is a `flax.linen` module called as `net(*inputs, train=...)`. It computes in its `dtype`, keeps
parameters and batch statistics in float32, and returns float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

__all__ = ["apply", "features", "init", "keep_features"]


def init(net: nn.Module, key: jax.Array, *inputs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draws the parameters of a network.

    Args:
        net: the network.
        key: typed random key.
        *inputs: example inputs, as for `net`.

    Returns:
        (params, stats): parameters and batch statistics; `stats` is {} for a network without batch norm.
    """
    variables = jax.jit(lambda key, inputs: net.init(key, *inputs, train=False))(key, inputs)
    return variables["params"], variables.get("batch_stats", {})


def apply(
    net: nn.Module, params: Mapping[str, Any], stats: Mapping[str, Any], *inputs: Any, train: bool
) -> tuple[Any, Mapping[str, Any]]:
    """Runs a network.

    Args:
        net: the network.
        params: its parameters.
        stats: its batch statistics, {} if it has none.
        *inputs: its inputs.
        train: normalise by the statistics of this batch and update the running ones; otherwise by the running ones.

    Returns:
        (output, new_stats): `new_stats` is `stats` itself unless `train`.
    """
    variables = {"params": params, "batch_stats": stats}
    if not train:
        return net.apply(variables, *inputs, train=False), stats
    output, updated = net.apply(variables, *inputs, train=True, mutable=["batch_stats"])
    return output, updated.get("batch_stats", stats)


def keep_features(net: nn.Module, h: jax.Array) -> None:
    """Within an encoder: lets `features` have its last hidden layer, [B, ...]."""
    net.sow("intermediates", "features", h.reshape(len(h), -1).astype(jnp.float32))


def features(net: nn.Module, params: Mapping[str, Any], stats: Mapping[str, Any], *inputs: Any) -> jax.Array:
    """Runs an encoder in evaluation mode up to its last hidden layer, float32 [B, F]; arguments as for `apply`."""
    variables = {"params": params, "batch_stats": stats}
    _, kept = net.apply(variables, *inputs, train=False, mutable=["intermediates"])
    return kept["intermediates"]["features"][0]
