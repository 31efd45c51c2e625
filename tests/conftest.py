"""Several CPU devices, no silent rank promotion, and a compilation cache that the whole run shares."""

import os
import subprocess
import tempfile

import xla_flags

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_FLAGS = f"--xla_force_host_platform_device_count=4 {xla_flags.QUICK} --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
# Devices forced upon one CPU share its pool of threads. Each collective blocks one thread per device, so two of them
# on a pool of two threads may wait for each other for ever.
os.environ.setdefault("NPROC", "16")

import jax
import pytest

pytest.register_assert_rewrite("killed", "whole")  # helpers that compare
jax.config.update("jax_numpy_rank_promotion", "raise")
_cache = os.path.join(tempfile.gettempdir(), f"mvae_jax_tests_{os.getuid()}")
jax.config.update("jax_compilation_cache_dir", os.environ.get("MVAE_JAX_TEST_CACHE", _cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # most programs are tiny


def pytest_addoption(parser):
    parser.addoption(
        "--promises", choices=("few", "full"), default="few", help="how often each promise of tests/promises is tried"
    )


def pytest_make_parametrize_id(config, val, argname):
    """Bytes are named by their number: workers collect at different times, and a gzip file holds the time."""
    return f"{argname}-{len(val)}-bytes" if isinstance(val, bytes) else None


def pytest_terminal_summary(terminalreporter):
    """The figures of tests/promises, as README states them."""
    ended = (report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, ()))
    for line in sorted(text for report in ended for name, text in report.user_properties if name == "promise"):
        terminalreporter.write_line(f"promise: {line}")


@pytest.fixture
def small_disk(tmp_path):
    """A function (KiB) -> folder on a disk of that size, or, called again, made larger."""
    disk = tmp_path / "disk"

    def small_disk(size):
        options = f"size={size}k" + (",remount" if disk.exists() else "")
        disk.mkdir(exist_ok=True)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, text=True)
        if mounted.returncode:
            pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
        return disk

    yield small_disk
    subprocess.run(["umount", disk], capture_output=True)


@pytest.fixture
def to_disk(monkeypatch):
    """What the process forces to disk ("fsync", path) and renames ("replace", new path), in this order: a list."""
    events, fsync, replace = [], os.fsync, os.replace

    def fsync_noted(descriptor):
        events.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def replace_noted(source, target, **options):
        events.append(("replace", os.fspath(target)))
        replace(source, target, **options)

    monkeypatch.setattr(os, "fsync", fsync_noted)
    monkeypatch.setattr(os, "replace", replace_noted)
    return events
