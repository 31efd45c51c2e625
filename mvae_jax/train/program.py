"""The compiled form of a train step: many steps in one call, one device or many."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mvae_jax.cpu import xla
from mvae_jax.objective import Partial
from mvae_jax.train.devices import DATA_AXIS, Placement
from mvae_jax.train.state import TrainState
from mvae_jax.train.step import Metrics, Step

_VALIDATION_DRAWS = 2**31 - 1  # fold_in data that no training step uses


@dataclasses.dataclass(frozen=True)
class MetricSums:
    """Running sums of metrics on the device, so that the host needs to look only now and then.

    Attributes:
        names: the M metrics.
        sums: sum of the finite values of each, float32 [M].
        counts: how many values were finite, float32 [M]; of a `Partial` the sum of the shares of the batches.
    """

    names: tuple[str, ...]
    sums: Any
    counts: Any

    @classmethod
    def zeros(cls, names: tuple[str, ...]) -> MetricSums:
        """The sums of no steps, on the host."""
        return cls(names, *np.zeros((2, len(names)), np.float32))

    def add(self, metrics: Metrics) -> MetricSums:
        """Adds one step's metrics; a value that is not finite counts for nothing."""
        given = [metrics[name] for name in self.names]
        pairs = [metric if isinstance(metric, Partial) else Partial(metric, jnp.ones(())) for metric in given]
        values, counts = (jnp.stack([x.astype(jnp.float32) for x in part]) for part in zip(*pairs, strict=True))
        sums, counts = (jnp.where(jnp.isfinite(values), part, 0.0) for part in (values, counts))
        return MetricSums(self.names, self.sums + sums, self.counts + counts)

    def means(self) -> dict[str, float]:
        """Fetches the means, "loss" first; a metric without any finite value is left out."""
        sums, counts = jax.device_get((self.sums, self.counts))
        means = {name: float(s) / float(c) for name, s, c in zip(self.names, sums, counts, strict=True) if c}
        return dict(sorted(means.items(), key=lambda item: (item[0] != "loss", item[0])))


jax.tree_util.register_dataclass(MetricSums, ["sums", "counts"], ["names"])


class Dispatch(NamedTuple):
    """Result of one call of a `Program`, as arrays that the devices may still be computing.

    Attributes:
        state: the state after its steps.
        sums: the metrics' sums after them.
        finite: for each step 1 if it was taken and 0 if it was refused, float32 [most_steps].
        signals: the largest of all hosts' signals, float32 [W].
    """

    state: TrainState
    sums: MetricSums
    finite: jax.Array
    signals: jax.Array


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled train step, see `compile_step`.

    Attributes:
        compiled: the executable.
        placement: where it runs.
        most_steps: how many steps it can take at once.
        zeros: the sums of no steps, on the devices.
    """

    compiled: Any
    placement: Placement
    most_steps: int
    zeros: MetricSums

    @property
    def flops(self) -> float | None:
        """Floating-point operations of a step, as XLA counts them; None where it does not."""
        try:
            return float(self.compiled.cost_analysis()["flops"])
        except (NotImplementedError, KeyError, TypeError, jax.errors.JaxRuntimeError):
            return None

    def __call__(
        self,
        state: TrainState,
        sums: MetricSums,
        arrays: Mapping[str, jax.Array],
        indices: np.ndarray,
        signals: np.ndarray,
    ) -> Dispatch:
        """Starts some steps and returns before they are done.

        Args:
            state: the state, which is donated.
            sums: sums to add to, which stay as they are.
            arrays: the examples, as `Placement.spread` has laid them out.
            indices: examples of each step, int32 [steps, B], the same on all hosts; at most `most_steps` rows.
            signals: those of this host, float32 [W]; the hosts get the largest of each.
        """
        # One shape for any number of steps, so that one program serves all of them: the loop ends before the padding.
        steps, rest = len(indices), self.most_steps - len(indices)
        padded = np.concatenate([indices, np.zeros((rest, indices.shape[1]), np.int32)]) if rest else indices
        if self.placement.mesh.size == 1:  # saves the copies
            return self.compiled(state, sums, arrays, padded, np.int32(steps), signals[None])
        everywhere = self.placement.replicate((padded, np.int32(steps)))
        # A row for each device: a maximum over the devices is then one over the hosts.
        rows = np.tile(signals, (len(self.placement.mesh.local_devices), 1))
        return self.compiled(
            state, sums, arrays, *everywhere, jax.make_array_from_process_local_data(self.placement.split, rows)
        )


def compile_step(
    step: Step,
    placement: Placement,
    state: Any,
    arrays: Mapping[str, Any],
    batch_size: int,
    *,
    most_steps: int = 1,
    signal_count: int = 1,
) -> Program:
    """Compiles `step` ahead of time into a program that takes any number of steps up to `most_steps` at once.

    The steps follow one another in a loop on the device, whose length is an argument. So one step and many are the
    same program, and many give bit by bit what single ones do.

    Args:
        step: a function (state, batch) -> (state, metrics) from `make_train_step`, made with the axis name of
            the placement.
        placement: where to run.
        state: the state, or its shapes.
        arrays: the examples as `Placement.spread` lays them out, or their shapes with their shardings; the batch is
            gathered on the device.
        batch_size: examples per step.
        most_steps: largest number of steps in one call, at least 1.
        signal_count: W, how many numbers the hosts exchange with a call.

    Raises:
        ValueError: the batch cannot be split over the devices.
    """
    placement.check_batch_size(batch_size)
    mapped = placement.axis_name is not None
    # In the same view as the compilation below: JAX keeps traces by it, and need not trace the step again there.
    with placement.global_view():
        names = _metric_names(step, placement, state, arrays, batch_size)

    def run(
        state: TrainState,
        sums: MetricSums,
        arrays: Mapping[str, jax.Array],
        indices: jax.Array,
        steps: jax.Array,
        signals: jax.Array,
    ) -> Dispatch:
        def take_step(number: jax.Array, carry: tuple[TrainState, MetricSums, jax.Array]) -> Any:
            state, sums, finite = carry
            state, metrics = step(state, placement.collect(arrays, indices[number]))
            return state, sums.add(metrics), finite.at[number].set(metrics["step/finite"])

        # Steps beyond `steps` keep their zeros; the caller cuts them off.
        carry = (state, sums, jnp.zeros(most_steps))
        state, sums, finite = lax.fori_loop(0, steps, take_step, carry)
        return Dispatch(state, sums, finite, lax.pmax(signals, DATA_AXIS) if mapped else signals.max(0))

    on_all = functools.partial(jax.ShapeDtypeStruct, sharding=placement.replicated)
    zeros = placement.replicate(MetricSums.zeros(names))
    signal_rows = jax.ShapeDtypeStruct((placement.mesh.size, signal_count), jnp.float32, sharding=placement.split)
    shapes = (
        placement.targets(state),
        jax.tree.map(lambda x: on_all(x.shape, x.dtype), zeros),
        arrays,
        on_all((most_steps, batch_size), jnp.int32),
        on_all((), jnp.int32),
        signal_rows,
    )
    if mapped:
        devices = list(placement.mesh.devices.flat)
        split = (None, None, 0, None, None, 0)  # examples and signals; all else is the same on every device
        transformed = jax.pmap(run, DATA_AXIS, in_axes=split, out_axes=None, donate_argnums=0, devices=devices)
    else:
        # Stated, so that the state that comes out is laid out as the one that goes in, and can be its successor.
        shardings = Dispatch(placement.shardings(state), *[placement.replicated] * 3)  # type: ignore[arg-type]
        transformed = jax.jit(run, donate_argnums=0, out_shardings=shardings)
    with placement.global_view():
        lowered = transformed.lower(*shapes)
    return Program(xla.compile_lowered(lowered, placement.mesh), placement, most_steps, zeros)


Evaluation = Callable[[TrainState, Mapping[str, jax.Array]], dict[str, float]]


def compile_evaluation(
    terms: Callable[..., Mapping[str, jax.Array | Partial]],
    placement: Placement,
    state: Any,
    examples: Mapping[str, Any],
    batch_size: int,
) -> Evaluation:
    """Compiles the mean of a model's terms over all examples that have them, each of which counts once.

    Args:
        terms: the function that `Model.evaluate` returned.
        placement: where to run; always in global view.
        state: the state, or its shapes.
        examples: the data set, {name: [N, ...]}, or its shapes.
        batch_size: examples at a time.

    Returns:
        A function of the state and of the examples as `Placement.spread` lays them out -> {name: mean}. It takes the
        moving average of the parameters where there is one. A `Partial` that no example has is left out.
    """
    placement = dataclasses.replace(placement, transform="jit")
    count = next(iter(examples.values())).shape[0]

    def of_batch(
        state: TrainState, arrays: Mapping[str, jax.Array], indices: jax.Array
    ) -> Mapping[str, jax.Array | Partial]:
        # By the first index of a batch: validation draws the same numbers whenever it is done.
        key = jax.random.fold_in(jax.random.fold_in(state.key, _VALIDATION_DRAWS), indices[0])
        params = {**state.params, **(state.ema or {})}
        return terms(params, state.model_state, placement.collect(arrays, indices), key)

    indices = jax.ShapeDtypeStruct((batch_size,), jnp.int32, sharding=placement.replicated)
    shapes = placement.targets(state), placement.spread_targets(examples), indices
    with placement.global_view():
        lowered = jax.jit(of_batch, out_shardings=placement.replicated).lower(*shapes)
    compiled = xla.compile_lowered(lowered, placement.mesh)

    def means(state: TrainState, arrays: Mapping[str, jax.Array]) -> dict[str, float]:
        parts = []
        for begin in range(0, count, batch_size):
            # One shape for all: the last batch is filled up, and what fills it is dropped.
            indices = np.minimum(np.arange(begin, begin + batch_size, dtype=np.int32), count - 1)
            out = compiled(state, arrays, placement.replicate(indices))
            parts.append(jax.tree.map(lambda values, left=count - begin: values[:left], out))
        parts = jax.device_get(parts)  # at once: until here the batches followed one another without the host
        whole = jax.tree.map(lambda *values: np.concatenate(values), *parts)
        there = {name: x.values[x.there] if isinstance(x, Partial) else x for name, x in whole.items()}
        return {name: float(values.mean()) for name, values in there.items() if len(values)}

    return means


def _metric_names(
    step: Step, placement: Placement, state: Any, arrays: Mapping[str, Any], batch_size: int
) -> tuple[str, ...]:
    """Names of the metrics that a step returns."""
    placed = functools.partial(jax.ShapeDtypeStruct, sharding=placement.replicated)  # the types of the loop's body
    state = placement.targets(state)
    if placement.axis_name is None:  # in global view a step sees the whole batch
        batch = {name: placed((batch_size, *x.shape[1:]), x.dtype) for name, x in arrays.items()}
    else:  # a mapped one sees its device's part, and its collectives need the axis; arrays are [devices, ...]
        devices = placement.mesh.size
        step = jax.vmap(step, in_axes=(None, 0), axis_name=placement.axis_name)
        batch = {name: placed((devices, batch_size // devices, *x.shape[2:]), x.dtype) for name, x in arrays.items()}
    return tuple(sorted(jax.eval_shape(step, state, batch)[1]))
