"""Trains the toy as one of several processes that share four devices: a script for `test_distributed.py`.

    distributed_run.py PROCESS OPTIONS

OPTIONS are JSON: "processes", how many; "port" of process 0; "workdir"; "wait_at", a step before which to wait for a
signal to some process; "shard_state". Process 0 writes the final parameters to `parameters.npz` in the workdir.
"""

import json
import sys
import time

import jax
import numpy as np
import optax
import toy

from mvae_jax import runs
from mvae_jax.experiment import session
from mvae_jax.train import devices, loop

process, options = int(sys.argv[1]), json.loads(sys.argv[2])
if options["processes"] > 1:
    jax.distributed.initialize(f"127.0.0.1:{options['port']}", options["processes"], process)
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
        return self.source.indices_at(step)


with session.session(options["workdir"], {"model": "toy"}, ()) as (workdir, interruption):
    model = toy.build(optimizer=lambda: optax.sgd(1.0))
    settings = loop.Settings(log_every=1, shard_state=options.get("shard_state", False))
    state = loop.fit(
        model,
        toy.phases(),
        Waiting,
        workdir=workdir.path,
        seed=toy.SEED,
        validation=toy.VALIDATION.arrays,
        settings=settings,
        interruption=interruption,
    )
    leaves = jax.tree.leaves(runs.Run.of(model, None, state, "second", {}).params)
    if session.is_first():
        np.savez(workdir.path / "parameters.npz", *map(np.asarray, leaves))
    workdir.finish()
