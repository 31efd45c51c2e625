"""Several processes train one run: the same parameters as one process, and stopped and resumed as one."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import toy
import xla_flags

from mvae_jax.data.pyramid.stream import record
from mvae_jax.train.logging import read_metrics

SCRIPT = Path(__file__).with_name("distributed_run.py")
FOLDERS = [str(SCRIPT.parents[1]), str(SCRIPT.parents[2]), str(SCRIPT.parents[2] / "experiments")]


def start(workdir, processes, **options):
    """Starts the processes of a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = json.dumps({"processes": processes, "port": port, "workdir": str(workdir), **options})
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(FOLDERS),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // processes} {xla_flags.QUICK}",
        "JAX_COMPILATION_CACHE_DIR": jax.config.values["jax_compilation_cache_dir"],
    }
    return [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(process), arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for process in range(processes)
    ]


def wait(processes):
    """Exit codes of the processes, what each of them told, and what it printed."""
    try:
        printed, told = zip(*(process.communicate(timeout=240) for process in processes), strict=True)
    finally:
        for process in processes:
            process.kill()  # where they wait for each other
    return [process.returncode for process in processes], told, printed


def train(workdir, processes, **options):
    """What each of the processes told, and which records it read."""
    codes, told, printed = wait(start(workdir, processes, **options))
    assert codes == [0] * processes, told
    return told, [json.loads(lines.splitlines()[-1]) for lines in printed]


def until_it_waits(process):
    """Until it waits for a signal."""
    assert any(line == "waiting\n" for line in process.stdout)


def parameters(workdir):
    with np.load(workdir / "parameters.npz") as arrays:
        return np.concatenate([arrays[name].ravel() for name in sorted(arrays)])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Workdir of a run in one process with four devices."""
    workdir = tmp_path_factory.mktemp("alone")
    train(workdir, 1)
    return workdir


@pytest.mark.parametrize("shard_state", [pytest.param(False, marks=pytest.mark.slow), True])
def test_two_processes_train_to_the_parameters_of_one(tmp_path, alone, shard_state):
    told, _ = train(tmp_path, 2, shard_state=shard_state, page=True)  # which the first of them writes
    np.testing.assert_allclose(parameters(tmp_path), parameters(alone), atol=1e-6)
    assert "phase second: steps 6 to 15" in told[0]
    assert "phase" not in told[1]  # one of them speaks for all
    assert "Training: step 15 of 15, in phase second" in (tmp_path / "report.html").read_text()
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".png"}
    ours, theirs = (read_metrics(workdir / "metrics.jsonl") for workdir in (tmp_path, alone))
    assert [(line["step"], line["split"]) for line in ours] == [(line["step"], line["split"]) for line in theirs]


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """The toy's images in a file of records."""
    from array_record.python.array_record_module import ArrayRecordWriter

    path = tmp_path_factory.mktemp("shard") / "images.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for image, number in zip(toy.TRAIN["image"], toy.TRAIN["index"].tolist(), strict=True):
        writer.write(record(image.repeat(3, axis=-1), number))
    writer.close()
    return path


@pytest.mark.parametrize(
    ("block", "order", "counts"),
    [(3, [0, 1, 2, 3], [30, 30]), pytest.param(4, [2, 0, 3, 1], [28, 32], marks=pytest.mark.slow)],
)
def test_each_process_reads_what_its_own_devices_hold(block, order, counts, tmp_path, alone, shard):
    """Blocks of 3 of the 6 and 9 steps; or of 4, which leaves parts, on devices whose processes take turns.

    A device holds a quarter of each block. The run is that of images which stay on the devices of one process.
    """
    _, reads = train(tmp_path, 2, shard=str(shard), block=block, devices=order)
    np.testing.assert_allclose(parameters(tmp_path), parameters(alone), atol=1e-6)
    ours, theirs = (
        [line["examples"] for line in read_metrics(folder / "metrics.jsonl") if "examples" in line]
        for folder in (tmp_path, alone)
    )
    assert ours == theirs  # mean of the examples' numbers
    expected = [[], []]
    for phase in toy.phases():
        for first in range(phase.start, phase.end, block):
            steps = range(first, min(first + block, phase.end))
            rows = np.concatenate([toy.batches(phase).indices_at(step) for step in steps])
            for row, example in enumerate(rows.tolist()):
                expected[order[row // block] // 2].append(example)  # a quarter: `block` rows of block x 4
    assert [sorted(read) for read in reads] == [sorted(read) for read in expected]
    assert [len(read) for read in reads] == counts


@pytest.mark.slow
def test_what_one_process_cannot_read_ends_both_when_the_state_is_saved(tmp_path, alone, shard):
    streams = {"shard": str(shard), "block": 2}
    codes, told, _ = wait(start(tmp_path, 2, unreadable_at=[1, 4], **streams))
    assert codes == [1, 1], told
    message = "The examples of the steps after step 4 cannot be read. It goes on from what process 0 has saved."
    assert f"error: no such shelf {message}" in told[1]
    told, _ = train(tmp_path, 2, **streams)
    assert "resuming at step 4" in told[0]
    np.testing.assert_allclose(parameters(tmp_path), parameters(alone), atol=1e-6)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_one_process_goes_on(tmp_path, alone):
    processes = start(tmp_path, 2, wait_at=3)
    for process in processes:
        until_it_waits(process)
    processes[1].send_signal(signal.SIGTERM)
    codes, told, _ = wait(processes)
    assert codes == [143, 143], told
    newest = max(int(folder.name) for folder in (tmp_path / "checkpoints/first").iterdir())
    assert 3 < newest <= 6  # two dispatches after the one that carried the signal
    train(tmp_path, 1)
    np.testing.assert_allclose(parameters(tmp_path), parameters(alone), atol=1e-6)


@pytest.mark.slow
def test_two_processes_go_on_from_the_checkpoint_of_one(tmp_path, alone):
    (process,) = processes = start(tmp_path, 1, wait_at=8)
    until_it_waits(process)
    process.send_signal(signal.SIGTERM)
    codes, told, _ = wait(processes)
    assert codes == [143], told
    told, _ = train(tmp_path, 2)
    assert "resuming at step 9" in told[0]
    np.testing.assert_allclose(parameters(tmp_path), parameters(alone), atol=1e-6)


def test_what_looks_for_an_end_without_pause_is_not_in_the_way_of_a_good_end(tmp_path):
    train(tmp_path, 2, pause=0)


def test_where_one_process_is_refused_both_end(tmp_path):
    (tmp_path / "config.json").write_text('{"model": "another"}')
    codes, told, _ = wait(start(tmp_path, 2))
    assert codes == [2, 2]
    assert 'model: "another" before, "toy" now' in told[0]


@pytest.mark.parametrize("failing", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_where_one_process_fails_both_end_with_its_message(failing, tmp_path):
    codes, told, _ = wait(start(tmp_path, 2, fail_at=[failing, 4]))
    assert codes == [1, 1], told
    assert told[failing].endswith("RuntimeError: no such lens\n")
    assert f"error: process {failing} of 2 has ended: RuntimeError: no such lens\n" in told[1 - failing]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_where_one_process_is_killed_the_other_ends(killed, tmp_path):
    processes = start(tmp_path, 2, wait_at=3)
    for process in processes:
        until_it_waits(process)
    processes[killed].kill()
    codes, told, _ = wait(processes)
    assert codes[killed] == -signal.SIGKILL
    assert codes[1 - killed] in (1, -signal.SIGABRT), told  # by its own error, or by JAX's
    # which of its parts misses the other first differs from time to time
    assert re.search("Connection (closed|reset)|tasks are unhealthy|coordination service", told[1 - killed])


def test_a_signal_before_the_run_begins_ends_both(tmp_path):
    processes = start(tmp_path, 2, prepare=1)
    until_it_waits(processes[1])
    processes[1].send_signal(signal.SIGTERM)
    codes, told, _ = wait(processes)
    assert codes == [143, 143], told
    assert "error: process 1 of 2 has ended: SIGTERM\n" in told[0]
