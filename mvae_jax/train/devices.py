"""Placement of arrays: on one device, several, or those of several hosts."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_log = logging.getLogger(__name__)

DATA_AXIS = "data"
_PROGRAM_BYTES = 2**20  # of the compiled program of a large step
# A smaller array costs more as a collective of its own than it takes as memory.
_LEAST_SHARDED = 2**14


@dataclasses.dataclass(frozen=True)
class Placement:
    """A one-dimensional mesh: batches and resident data are split over it, the state is replicated or sharded.

    Attributes:
        mesh: devices along the axis "data", in the same order on all hosts.
        transform: "jit" compiles steps in global view; "pmap" maps them over the devices of one host.
        shard_state: split each large array of the state over the devices; only with "jit".
    """

    mesh: Mesh
    transform: str = "jit"
    shard_state: bool = False

    def __post_init__(self) -> None:
        if self.transform not in ("jit", "pmap"):
            raise ValueError(f"transform is {self.transform!r}; choose 'jit' or 'pmap'.")
        if self.transform == "pmap" and (self.shard_state or jax.process_count() > 1):
            what = "a sharded state" if self.shard_state else f"{jax.process_count()} processes"
            raise ValueError(f"transform is 'pmap', which does not work with {what}; use 'jit'.")

    @property
    def axis_name(self) -> str | None:
        """Axis name for the rounds of a model: the mapped axis under "pmap", None in global view."""
        return DATA_AXIS if self.transform == "pmap" else None

    @property
    def replicated(self) -> NamedSharding:
        """Sharding of what every device holds as a whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def split(self) -> NamedSharding:
        """Sharding of a batch, or of resident data, along its first axis."""
        return NamedSharding(self.mesh, PartitionSpec(DATA_AXIS))

    def targets(self, state: Any) -> Any:
        """Shapes, dtypes and shardings of a state, whose leaves are arrays or `jax.ShapeDtypeStruct`s."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._sharding(x)), state)

    def shardings(self, state: Any) -> Any:
        """The sharding of each leaf of a state."""
        return jax.tree.map(self._sharding, state)

    def _sharding(self, leaf: Any) -> NamedSharding:
        """Splits the longest axis that the devices can share equally."""
        size = self.mesh.size
        if not self.shard_state or math.prod(leaf.shape) < _LEAST_SHARDED:
            return self.replicated
        divisible = [axis for axis, length in enumerate(leaf.shape) if length % size == 0]
        if not divisible:
            return self.replicated
        longest = max(divisible, key=lambda axis: leaf.shape[axis])
        return NamedSharding(self.mesh, PartitionSpec(*[None] * longest, DATA_AXIS))

    def replicate(self, tree: Any) -> Any:
        """Puts a copy of each array on every device; all hosts give the same arrays."""
        if jax.process_count() == 1:
            return jax.device_put(tree, self.replicated)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.replicated, np.asarray(x)), tree)

    def gather(self, tree: Any) -> Any:
        """Arrays of a sharded state as a whole on every device; all hosts must ask for them."""
        return jax.device_put(tree, self.replicated) if self.shard_state else tree

    def spread(self, arrays: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Spreads resident data {name: [N, ...]} over the devices, each with an equal part of the rows.

        A host reads only the rows of its own devices. Rows are added at the end until the devices can share them
        equally; `collect` takes the rows back. Under "pmap" the result is [devices, rows of each, ...].
        """
        return {name: self._mapped(self._spread(array)) for name, array in arrays.items()}

    def rows_here(self, rows: int) -> np.ndarray:
        """Which of N spread rows, a multiple of the devices, lie on the devices of this host: increasing, int [n]."""
        parts = self.split.addressable_devices_indices_map((rows,)).values()
        return np.sort(np.concatenate([np.arange(rows)[part] for part in parts if part is not None]))

    def join(self, arrays: Mapping[str, np.ndarray], rows: int) -> dict[str, jax.Array]:
        """Spreads data {name: [N, ...]} like `spread`, of which each host has only what its own devices hold.

        Args:
            arrays: {name: [n, ...]}, the rows `rows_here(rows)` of the data.
            rows: N.
        """
        shapes = {name: (rows, *array.shape[1:]) for name, array in arrays.items()}
        return {
            name: self._mapped(jax.make_array_from_process_local_data(self.split, array, shapes[name]))
            for name, array in arrays.items()
        }

    def _mapped(self, array: jax.Array) -> jax.Array:
        return array if self.axis_name is None else array.reshape(self.mesh.size, -1, *array.shape[1:])

    def _spread(self, array: np.ndarray) -> jax.Array:
        if self.mesh.size == 1:
            return jax.device_put(array, self.split)

        def part(index: Any) -> np.ndarray:
            rows = np.asarray(array[index[0]])
            missing = index[0].stop - index[0].start - len(rows)
            return np.concatenate([rows, np.zeros((missing, *array.shape[1:]), array.dtype)]) if missing else rows

        return jax.make_array_from_callback((self._rows(array), *array.shape[1:]), self.split, part)

    def spread_targets(self, arrays: Mapping[str, np.ndarray]) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes, dtypes and shardings of what `spread` returns."""
        size, targets = self.mesh.size, {}
        for name, array in arrays.items():
            rows = (self._rows(array),) if self.axis_name is None else (size, self._rows(array) // size)
            targets[name] = jax.ShapeDtypeStruct((*rows, *array.shape[1:]), array.dtype, sharding=self.split)
        return targets

    def _rows(self, array: np.ndarray) -> int:
        return -(-len(array) // self.mesh.size) * self.mesh.size

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

    def global_view(self) -> contextlib.AbstractContextManager[Any]:
        """While a program for several devices is traced in global view: draws are split over them, as data are."""
        return jax.set_mesh(self.mesh) if self.axis_name is None and self.mesh.size > 1 else contextlib.nullcontext()

    def collect(self, arrays: Mapping[str, jax.Array], indices: jax.Array) -> dict[str, jax.Array]:
        """Within a compiled function: the rows of spread data at `indices`, int [B], as a batch.

        Under "pmap", arrays and result are this device's part; in global view they are whole.
        """
        if self.mesh.size == 1 and self.axis_name is None:
            return {name: array[indices] for name, array in arrays.items()}
        if self.axis_name is not None:
            return _collect(dict(arrays), indices)
        split, whole = PartitionSpec(DATA_AXIS), PartitionSpec()
        return jax.shard_map(_collect, mesh=self.mesh, in_specs=(split, whole), out_specs=split)(dict(arrays), indices)


def _collect(parts: dict[str, jax.Array], indices: jax.Array) -> dict[str, jax.Array]:
    """Each device gives the rows that it holds, and gets its part of the batch.

    All arrays travel as bytes in one reduce-scatter: several at once could wait for each other's threads on CPU.
    """
    packed = []
    for part in parts.values():
        # Rows that lie elsewhere are zeros here, so that the sum over the devices is the batch.
        offsets = indices - lax.axis_index(DATA_AXIS) * len(part)
        is_here = (offsets >= 0) & (offsets < len(part))
        rows = part[jnp.clip(offsets, 0, len(part) - 1)]
        data = rows.reshape(len(indices), -1).view(jnp.uint8)
        packed.append(jnp.where(is_here[:, None], data, jnp.uint8(0)))
    received = lax.psum_scatter(jnp.concatenate(packed, axis=1), DATA_AXIS, tiled=True)
    ends = np.cumsum([data.shape[1] for data in packed])[:-1]
    batch = {}
    for (name, part), data in zip(parts.items(), jnp.split(received, ends, axis=1), strict=True):
        batch[name] = data.view(part.dtype).reshape(len(data), *part.shape[1:])
    return batch


def failed_anywhere(failed: BaseException | None, what: str) -> BaseException | None:
    """What has failed on this host or, in words, on another one, for all hosts at once: they save together or not.

    Args:
        failed: on this host.
        what: what it is that may have failed.
    """
    anywhere = multihost_utils.process_allgather(np.array(failed is not None)).any()
    return failed or (RuntimeError(f"{what} failed on another host") if anywhere else None)


def without_mesh() -> contextlib.AbstractContextManager[Any]:
    """Takes away the mesh that the caller has set: a run lays out its arrays itself."""
    return contextlib.nullcontext() if jax.sharding.get_abstract_mesh().empty else jax.set_mesh(None)


def place(
    devices: Sequence[jax.Device] | None = None, *, transform: str = "jit", shard_state: bool = False
) -> Placement:
    """Lays a mesh over the given devices, by default all of them, of all hosts.

    Raises:
        ValueError: `transform` is unknown, or does not go with `shard_state` or with several hosts; JAX finds no such
            devices as the environment asks for, or is not to compile anything.
    """
    if jax.config.values["jax_disable_jit"]:
        raise ValueError(
            "JAX_DISABLE_JIT is set, but steps are compiled before they run: unset it. A model's functions can be "
            "called one by one in Python, without compilation."
        )
    check()
    mesh = Mesh(np.array(jax.devices() if devices is None else devices), (DATA_AXIS,))
    return Placement(mesh, transform, shard_state)


def check() -> None:
    """Refuses an environment whose devices are not here, such as JAX_PLATFORMS=cuda on a machine without a GPU.

    Raises:
        ValueError: JAX finds no device.
    """
    try:
        jax.devices()
    except (
        Exception
    ) as error:  # where it sees no GPU, an AssertionError without a word, or what follows without asserts
        asked = jax.config.values["jax_platforms"]
        text = str(error).partition(" (set JAX_PLATFORMS")[0] if isinstance(error, RuntimeError) else ""
        reason = " ".join(text.split()).rstrip(".") or "there is no such device"
        if not asked:
            raise ValueError(f"JAX finds no device: {reason}; JAX_PLATFORMS=cpu computes on the CPU.") from error
        raise ValueError(
            f"JAX_PLATFORMS is {asked!r}, but {reason}; unset it, or name what this machine has, such as cpu."
        ) from error


def keep_compiled_programs(folder: str | os.PathLike[str]) -> Path | None:
    """Keeps compiled programs on disk, so that the same program is compiled once on a machine.

    Args:
        folder: where to keep them. JAX_COMPILATION_CACHE_DIR comes first where it is set, and
            JAX_ENABLE_COMPILATION_CACHE=false keeps none.

    Returns:
        The folder; None if none are kept. One that cannot be written is named in a warning.
    """
    if not jax.config.values["jax_enable_compilation_cache"]:
        return None
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser().resolve()))
        # Also the small ones: evaluation and drawing have hundreds, each of which takes some 35 ms to compile.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    kept = Path(jax.config.values["jax_compilation_cache_dir"])
    try:
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=kept) as probe:
            probe.write(bytes(_PROGRAM_BYTES))
    except OSError as error:
        _log.warning(
            "Compiled programs cannot be kept in %s (%s): each start compiles them anew. --compilation-cache, or "
            "JAX_COMPILATION_CACHE_DIR, names another folder.",
            *(kept, error.strerror),
        )
        if not kept.is_dir():
            jax.config.update("jax_compilation_cache_dir", None)
            return None
        # Those that are there are read all the same; JAX would complain of each one that it cannot add.
        warnings.filterwarnings("ignore", "Error writing persistent compilation cache")
    return kept
