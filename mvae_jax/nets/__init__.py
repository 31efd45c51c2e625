"""Flax networks, and the functions with which models run them.

`init`, `apply` and `features` draw the parameters of a network, run it, and look into it. The modules hold the networks
of one paper each; `blocks` has what several papers share. Every network is a `flax.linen` module called as
`net(*inputs, train=...)`. It computes in its `dtype`, keeps parameters and batch statistics in float32, and returns
float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mvae_jax import _lazy

__all__ = ["apply", "evaluate", "features", "init", "keep_features"]
__getattr__, __dir__ = _lazy.modules(__name__)


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


def evaluate(net: nn.Module, params: Mapping[str, Any], stats: Mapping[str, Any], *inputs: Any) -> Any:
    """Output of a network in evaluation mode; arguments as for `apply`."""
    return apply(net, params, stats, *inputs, train=False)[0]


def keep_features(net: nn.Module, h: jax.Array) -> None:
    """Hands an encoder's last hidden layer, [B, ...], to `features`; to be called within the encoder."""
    net.sow("intermediates", "features", h.reshape(h.shape[0], -1).astype(jnp.float32))


def features(net: nn.Module, params: Mapping[str, Any], stats: Mapping[str, Any], *inputs: Any) -> jax.Array:
    """Runs an encoder in evaluation mode up to its last hidden layer, float32 [B, F]; arguments as for `apply`."""
    variables = {"params": params, "batch_stats": stats}
    _, kept = net.apply(variables, *inputs, train=False, mutable=["intermediates"])
    return kept["intermediates"]["features"][0]
