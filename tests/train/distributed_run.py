"""Trains the toy as one of several processes that share four devices: a script for `test_distributed.py`.

    distributed_run.py PROCESS OPTIONS

OPTIONS are JSON: "processes", how many; "port" of process 0; "workdir"; "prepare", a process that waits for a signal
before the run begins; "wait_at", a step before which to wait for a signal to some process; "fail_at", a process and a
step before which it fails; "shard_state"; "shard", a file of records to stream the images from, in blocks of "block"
steps; "pause", seconds between two looks at whether another process has ended; "unreadable_at", a process and the
first step of a block that it cannot read; "devices", their order in the mesh; "page", whether a page is written while
it trains. Process 0 writes the final parameters to `parameters.npz` in the workdir. Each prints the positions of the
records that it has read, in JSON.
"""

import contextlib
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import optax
import toy

from mvae_jax import runs
from mvae_jax.data.pyramid import stream
from mvae_jax.eval.batched import pixels
from mvae_jax.experiment import forecast, live, processes, session
from mvae_jax.train import devices, feed, loop
from mvae_jax.train.signals import Interruption

process, options = int(sys.argv[1]), json.loads(sys.argv[2])
if options["processes"] > 1:
    processes.join(
        coordinator_address=f"127.0.0.1:{options['port']}", num_processes=options["processes"], process_id=process
    )
processes._PAUSE = options.get("pause", processes._PAUSE)
devices._LEAST_SHARDED = 1  # the toy has no large arrays
session.start_logging()


class Waiting:
    """Batches that give a signal the time to arrive."""

    def __init__(self, phase):
        self.source = toy.batches(phase)
        self.arrays, self.steps_per_epoch = self.source.arrays, self.source.steps_per_epoch

    def indices_at(self, step):
        if step == options.get("wait_at"):
            print("waiting", flush=True)
            time.sleep(3)
        if [process, step] == options.get("fail_at"):
            raise RuntimeError("no such lens")
        return self.source.indices_at(step)


class Counted(stream.Records):
    """Records that note which of them are read."""

    def _read(self, shard, positions):
        read.extend(positions.tolist())  # one operation under Python's lock
        return super()._read(shard, positions)


class Streamed:
    """The toy's images from records, whose channels are equal."""

    def __init__(self, phase):
        records = Counted((Path(options["shard"]),), (len(toy.TRAIN),), 4)
        self.source = stream.StreamedBatches(records, phase.batch_size, toy.SEED, phase.start)
        self.example, self.steps_per_epoch = grey(self.source.example), self.source.steps_per_epoch

    @contextlib.contextmanager
    def stream(self, first_step, end_step, chunk, rows):
        with self.source.stream(first_step, end_step, chunk, rows) as chunks:
            yield self._blocks(chunks, range(first_step, end_step, chunk))

    def _blocks(self, chunks, starts):
        for start, examples in zip(starts, chunks, strict=True):
            if [process, start] == options.get("unreadable_at"):
                raise OSError("no such shelf")
            yield grey(examples)


def rows(run, examples, phase):
    """A picture of the critic's parameters, which are whole in the process that draws."""
    kernel = np.tanh(np.asarray(run.params["critic"]["kernel"])).reshape(1, 4, 4, 1)
    return {"held-out images": pixels(examples), "critic": np.repeat(kernel, len(examples), axis=0)}


def grey(examples):
    return {**examples, "image": np.ascontiguousarray(examples["image"][..., :1])}


read = []
if "block" in options:
    feed._BLOCK_BYTES = options["block"] * toy.BATCH * sum(array[:1].nbytes for array in toy.TRAIN.arrays.values())

with processes.together(), Interruption() as interruption:
    if process == options.get("prepare"):
        print("waiting", flush=True)
        time.sleep(60)
    with session.session(options["workdir"], {"model": "toy"}, (), interruption=interruption) as (workdir, _):
        model = toy.build(optimizer=lambda: optax.sgd(1.0))
        settings = loop.Settings(log_every=1, shard_state=options.get("shard_state", False))
        order = options.get("devices", range(jax.device_count()))
        on_validation = observer = None
        if options.get("page"):
            live._FIRST = 0.0  # seconds: the run is short
            page = live.Live(workdir.path, "Toy", forecast.parts("", toy.phases()), share=1.0)
            planned = SimpleNamespace(model=model, config=None, data=SimpleNamespace(validation=toy.VALIDATION))
            on_validation, observer = page.on_validation("", planned, rows), page.member("")
        state = loop.fit(
            model,
            toy.phases(),
            Streamed if "shard" in options else Waiting,
            workdir=workdir.path,
            seed=toy.SEED,
            validation=toy.VALIDATION.arrays,
            settings=settings,
            placement=settings.place([jax.devices()[i] for i in order]),
            interruption=interruption,
            on_validation=on_validation,
            observer=observer,
        )
        leaves = jax.tree.leaves(runs.Run.of(model, None, state, "second", {}).params)
        if session.is_first():
            np.savez(workdir.path / "parameters.npz", *map(np.asarray, leaves))
        workdir.finish()
print(json.dumps(read))
