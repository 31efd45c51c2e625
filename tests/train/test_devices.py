"""Where arrays live, and that what was spread out comes back."""

import os
import platform
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mvae_jax.train import devices
from mvae_jax.train.devices import Placement, place

DATA = {
    "glasses": np.arange(10) % 3 == 0,
    "image": np.random.default_rng(0).integers(0, 256, (10, 3, 2), dtype=np.uint8),
    "weight": np.linspace(-1, 1, 10, dtype=np.float32),
    "index": np.arange(-5, 5, dtype=np.int32)[:, None, None] * np.ones((2, 4), np.int32),
}


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_batch_is_collected_from_all_devices(count):
    placement = place(jax.devices()[:count])
    indices = np.array([9, 0, 3, 3, 7, 8, 5, 1], np.int32)
    spread = placement.spread(DATA)
    batch = jax.jit(placement.collect)(spread, placement.replicate(indices))
    for name, array in DATA.items():
        np.testing.assert_array_equal(batch[name], array[indices])
        assert batch[name].dtype == array.dtype
        assert len(spread[name].addressable_shards) == count
        assert all(len(shard.data) == -(-10 // count) for shard in spread[name].addressable_shards)


def test_a_batch_is_collected_under_pmap():
    placement = place(jax.devices()[:4], transform="pmap")
    indices = np.array([9, 0, 3, 3, 7, 8, 5, 1], np.int32)
    collect = jax.pmap(placement.collect, "data", in_axes=(0, None), devices=list(placement.mesh.devices.flat))
    batch = collect(placement.spread(DATA), indices)
    for name, array in DATA.items():
        np.testing.assert_array_equal(batch[name].reshape(8, *array.shape[1:]), array[indices])


@pytest.mark.parametrize("transform", ["jit", "pmap"])
def test_the_shapes_of_spread_data_are_known_before(transform):
    placement = place(jax.devices()[:4], transform=transform)
    targets, spread = placement.spread_targets(DATA), placement.spread(DATA)
    assert {name: (x.shape, x.dtype) for name, x in targets.items()} == {
        name: (x.shape, x.dtype) for name, x in spread.items()
    }


@pytest.mark.parametrize(("count", "transform"), [(1, "jit"), (4, "jit"), (4, "pmap")])
def test_what_a_host_has_read_is_joined_as_it_would_be_spread(count, transform):
    placement = place(jax.devices()[:count], transform=transform)
    rows = placement.rows_here(8)
    np.testing.assert_array_equal(rows, np.arange(8))  # one host has all devices
    first = {name: array[:8] for name, array in DATA.items()}
    joined = placement.join({name: array[rows] for name, array in first.items()}, 8)
    for name, spread in placement.spread(first).items():
        assert joined[name].sharding == spread.sharding
        np.testing.assert_array_equal(joined[name], spread)


def test_a_host_reads_only_the_rows_of_its_devices():
    """Half of the devices stand for one host: of the array, only the rows asked for are touched."""
    asked = []

    class Rows(np.ndarray):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    place(jax.devices()[:4]).spread({"image": DATA["image"].view(Rows)})
    assert sorted((rows.start, rows.stop) for rows in asked) == [(0, 3), (3, 6), (6, 9), (9, 12)]


def test_a_sharded_state_is_split_along_the_longest_axis_that_the_devices_share():
    state = {
        "wide": np.zeros((100, 400), np.float32),
        "tall": np.zeros((3, 4, 8000, 9), np.float32),
        "odd": np.zeros((333, 333), np.float32),
        "small": np.zeros(8, np.float32),
        "scalar": np.zeros(()),
    }
    sharded = place(jax.devices()[:4], shard_state=True).shardings(state)
    assert {name: sharding.spec for name, sharding in sharded.items()} == {
        "wide": PartitionSpec(None, "data"),
        "tall": PartitionSpec(None, None, "data"),
        "odd": PartitionSpec(),
        "small": PartitionSpec(),
        "scalar": PartitionSpec(),
    }
    assert all(sharding.spec == PartitionSpec() for sharding in place().shardings(state).values())


def test_a_sharded_state_is_gathered():
    placement = place(jax.devices()[:4], shard_state=True)
    array = np.arange(2**16, dtype=np.float32).reshape(2**8, -1)
    split = jax.device_put(array, placement.shardings(array))
    assert not split.is_fully_replicated
    whole = placement.gather(split)
    assert whole.is_fully_replicated
    np.testing.assert_array_equal(whole, array)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": "vmap"}, "transform is 'vmap'; choose 'jit' or 'pmap'"),
        ({"transform": "pmap", "shard_state": True}, "'pmap', which does not work with a sharded state; use 'jit'"),
    ],
)
def test_placements_that_do_not_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        place(**options)


def test_pmap_is_refused_on_several_hosts(monkeypatch):
    monkeypatch.setattr(devices.jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="does not work with 2 processes; use 'jit'"):
        Placement(place().mesh, "pmap")


COMPILE = """
import sys, jax
from mvae_jax.train.devices import keep_compiled_programs
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.extend([name] if "cache_hits" in name else []))
print(keep_compiled_programs(sys.argv[1]))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: x * 2 + 1)(3.0)
print(len(hits))
"""


def compile_in_a_process(folder, **environment):
    """The folder that is said to keep programs, and how many came from it."""
    command = [sys.executable, "-c", COMPILE, folder]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return out.stdout.split()


def test_a_program_is_compiled_once_on_a_machine(tmp_path):
    folder = tmp_path / "compiled"
    assert compile_in_a_process(folder) == [str(folder), "0"]
    assert compile_in_a_process(folder) == [str(folder), "1"]
    # What the user says otherwise comes first.
    elsewhere = str(tmp_path / "elsewhere")
    assert compile_in_a_process(folder, JAX_COMPILATION_CACHE_DIR=elsewhere) == [elsewhere, "0"]
    assert compile_in_a_process(folder, JAX_ENABLE_COMPILATION_CACHE="false") == ["None", "0"]


ALLOCATE = """
import resource, sys, jax, jax.numpy as jnp
from mvae_jax.cpu.memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
function = jax.jit(lambda x: jnp.sort(x * 2, axis=0).sum())  # sorting needs a copy
x = jnp.ones((3 * 2**20, 2))  # two of them fit into the 64 MiB that a thread of the pool keeps
faults = []
for _ in range(16):  # a call on a thread that has not kept any memory yet counts as if nothing were kept
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    function(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, min(faults))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the switch")
def test_freed_memory_is_used_again():
    faults = {}
    for mode in ("keep", "leave"):
        out = subprocess.run([sys.executable, "-c", ALLOCATE, mode], capture_output=True, text=True, check=True)
        kept, count = out.stdout.split()
        assert kept == str(mode == "keep")
        faults[mode] = int(count)
    assert faults["leave"] > 2 * 6144  # several arrays of 24 MiB, in pages of 4 KiB
    assert faults["keep"] < faults["leave"] / 2
