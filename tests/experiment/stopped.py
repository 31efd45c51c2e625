"""An experiment whose last figure waits, where the environment says so, for a signal: for `test_accidents.py`."""

import dataclasses
import os
import sys
import time

import jax
import test_runner


@jax.jit
def endless(x):
    """Within XLA, to which Python's signal handlers do not come."""
    return jax.lax.while_loop(lambda x: x >= 0, lambda x: (x * 5 + 1) % 1013, x)


def waiting(trained, results):
    where = os.environ.get("WAIT_IN")
    if where:
        program = endless.lower(1).compile()
        print("a figure is drawn", file=sys.stderr, flush=True)
        while where == "python":
            time.sleep(0.01)
        program(1).block_until_ready()
    return {}


EXPERIMENT = dataclasses.replace(test_runner.EXPERIMENT, figures=(test_runner.sheet, waiting))
