"""Where arrays live and how a step is compiled for one device or many."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mvae_jax.train.state import TrainState
from mvae_jax.train.step import Metrics, Step

DATA_AXIS = "data"


@dataclasses.dataclass(frozen=True)
class Placement:
    """A one-dimensional mesh: the batch is split over it, everything else is replicated.

    Attributes:
        mesh: devices along the axis "data".
    """

    mesh: Mesh

    @property
    def replicated(self) -> NamedSharding:
        """Sharding of state and resident data."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def split(self) -> NamedSharding:
        """Sharding of a batch along its first axis."""
        return NamedSharding(self.mesh, PartitionSpec(DATA_AXIS))

    def replicate(self, tree: Any) -> Any:
        """Puts a copy of each array on every device."""
        return jax.device_put(tree, self.replicated)

    def check_batch_size(self, batch_size: int) -> None:
        """Refuses a batch that the devices cannot share equally.

        Raises:
            ValueError: `batch_size` is not a multiple of the number of devices.
        """
        devices = self.mesh.size
        if batch_size % devices:
            raise ValueError(
                f"batch size {batch_size} cannot be split over {devices} devices; "
                f"use a multiple of {devices}, or fewer devices."
            )


def place(devices: Sequence[jax.Device] | None = None) -> Placement:
    """Lays a mesh over the given devices, by default all of them."""
    return Placement(Mesh(np.array(jax.devices() if devices is None else devices), (DATA_AXIS,)))


@dataclasses.dataclass(frozen=True)
class MetricSums:
    """Running sums of metrics on the device, so that the host needs to look only now and then.

    Attributes:
        sums: metric -> sum of its finite values.
        counts: metric -> how many values were finite.
    """

    sums: Mapping[str, Any]
    counts: Mapping[str, Any]

    def add(self, metrics: Metrics) -> MetricSums:
        """Adds one step's metrics; a value that is not finite counts for nothing."""
        finite = {name: jnp.isfinite(value) for name, value in metrics.items()}
        return MetricSums(
            {name: self.sums[name] + jnp.where(finite[name], value, 0.0) for name, value in metrics.items()},
            {name: self.counts[name] + finite[name] for name in metrics},
        )

    def means(self) -> dict[str, float]:
        """Fetches the means, "loss" first; a metric without any finite value is left out."""
        sums, counts = jax.device_get((self.sums, self.counts))
        names = sorted(sums, key=lambda name: (name != "loss", name))
        return {name: float(sums[name] / counts[name]) for name in names if counts[name]}


jax.tree_util.register_dataclass(MetricSums, ["sums", "counts"], [])


CompiledStep = Callable[
    [TrainState, MetricSums, Mapping[str, jax.Array], jax.Array], tuple[TrainState, MetricSums, jax.Array]
]


def compile_step(
    step: Step,
    placement: Placement,
    state: TrainState,
    arrays: Mapping[str, jax.Array],
    batch_size: int,
) -> tuple[CompiledStep, MetricSums]:
    """Compiles `step` ahead of time, in global view: it is written as if there were one device.

    Args:
        step: a function (state, batch) -> (state, metrics) from `make_train_step`, without an axis name.
        placement: where to run.
        state: the state, replicated.
        arrays: the resident data set, {name: [N, ...]}, replicated; the batch is gathered on the device.
        batch_size: examples per step.

    Returns:
        A function (state, sums, arrays, indices [B]) -> (state, sums, finite), and the sums of no steps, on the
        host. State and sums are donated; `finite` is 1 if the step was taken and 0 if it was refused.

    Raises:
        ValueError: the batch cannot be split over the devices.
    """
    placement.check_batch_size(batch_size)

    def run(
        state: TrainState, sums: MetricSums, arrays: Mapping[str, jax.Array], indices: jax.Array
    ) -> tuple[TrainState, MetricSums, jax.Array]:
        batch = {name: array[indices] for name, array in arrays.items()}
        batch = jax.lax.with_sharding_constraint(batch, placement.split)
        new, metrics = step(state, batch)
        return new, sums.add(metrics), metrics["step/finite"]

    indices = jax.ShapeDtypeStruct((batch_size,), jnp.int32, sharding=placement.split)
    batch = {name: jax.ShapeDtypeStruct((batch_size, *array.shape[1:]), array.dtype) for name, array in arrays.items()}
    names = jax.eval_shape(step, state, batch)[1]
    zeros = MetricSums(dict.fromkeys(names, np.zeros((), np.float32)), dict.fromkeys(names, np.zeros((), np.int32)))
    jitted = jax.jit(run, donate_argnums=(0, 1), out_shardings=placement.replicated)
    return jitted.lower(state, placement.replicate(zeros), arrays, indices).compile(), zeros
