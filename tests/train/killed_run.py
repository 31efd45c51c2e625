"""Trains the toy in processes that are killed: a script for `killed.py`.

    killed_run.py WORKDIR STEP  trains in this process, and waits for a signal before the batch of STEP
    killed_run.py               trains in a fork for each line of standard input: {"workdir", "points", "delay", "step"}

A point is "MODULE:FUNCTION before N": the process kills itself before the N-th call of that function; "after", or
"amid" it, which leaves half a line of metrics. The delay is that of a kill from outside, in seconds; the step is the
one whose batch is never given. Where a run is refused, the words printed begin with "refused". A fork saves the time of
the imports; nothing of JAX runs before it.
"""

import functools
import hashlib
import importlib
import json
import os
import signal
import sys
import time

import jax
import numpy as np
import orbax.checkpoint.experimental.v1  # noqa: F401  # which a fork would import anew
import toy

from mvae_jax.experiment import session
from mvae_jax.train import loop

SETTINGS = loop.Settings(log_every=2, checkpoint_every=2)


def arm(point):
    """Replaces a function by one that kills the process around its N-th call."""
    target, when, number = point.split()
    module, path = target.split(":")
    *parents, name = path.split(".")
    owner = functools.reduce(getattr, parents, importlib.import_module(module))
    original, calls = getattr(owner, name), 0

    def armed(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls != int(number):
            return original(*args, **kwargs)
        if when == "after":
            original(*args, **kwargs)
        if when == "amid":
            args[0]._jsonl.write('{"step": 3, "phase": "fir')
            args[0]._jsonl.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, armed)


def train(workdir, at=None, then=None):
    """Trains to the end, and prints a digest of all leaves of the state; calls `then` before the batch of step `at`."""
    with session.session(workdir, {"model": "toy"}, ()) as (folder, interruption):

        def batches(phase):
            source = toy.batches(phase)

            class Waiting:
                arrays, steps_per_epoch = source.arrays, source.steps_per_epoch

                def indices_at(self, step):
                    if step == at:
                        then(interruption)
                    return source.indices_at(step)

            return Waiting()

        state = loop.fit(
            toy.build(),
            toy.phases(),
            batches,
            workdir=folder.path,
            seed=toy.SEED,
            validation=toy.VALIDATION.arrays,
            settings=SETTINGS,
            interruption=interruption,
        )
        print(digest(state), flush=True)
        folder.finish()


def wait(interruption):
    print("waiting", flush=True)
    while not interruption.requested:
        time.sleep(0.01)


def die(interruption):
    os.kill(os.getpid(), signal.SIGKILL)


def digest(state):
    sha256 = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(state.replace(key=jax.random.key_data(state.key))):
        sha256.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode() + np.asarray(leaf).tobytes())
    return sha256.hexdigest()


def train_in_fork(workdir, points=(), delay=None, step=None):
    """Returns the status, negative for a signal, and the words printed by a process that trains."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(60)  # rather dead than hanging
        os.dup2(write, 1)
        status = 1
        try:
            for point in points:
                arm(point)
            train(workdir, step, die)
            status = 0
        except SystemExit as end:
            status = end.code
        except ValueError as error:
            print("refused:", error)
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.close(write)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(read) as file:
        words = file.read().split()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), words


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train(sys.argv[1], int(sys.argv[2]), wait)
    for line in sys.stdin:
        print(json.dumps(train_in_fork(**json.loads(line))), flush=True)
