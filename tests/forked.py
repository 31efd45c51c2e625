"""Command lines in forks of one process, which has imported what they need: a start takes no time. Also its server.

A job is a dict, of which all but `command` may be left out:

    command       words: the name of an experiment and its flags, or "mvae-jax" and those of its command
    jax           {name: value} of JAX's configuration, as its environment variables set it
    environment   {name: value}
    limit         bytes that a file may have (ulimit -f)
    points        where the process kills itself, see `train/killed_run.py`
    signals       [text, number] pairs: a signal is sent when the log shows the text, after the one before
    delay         [seconds, number]: a signal is sent so long after the start
    reader        false: nobody reads standard output

The answer has "status", negative for a signal that killed it, "out", "err", and "seconds": until the end, from the last
signal on or from the start.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parent.parent
_PATIENCE = 60  # seconds that a process may take to end once it was sent a signal


@contextlib.contextmanager
def server(folder):
    """A function (command, **job) -> answer; commands run in `folder`."""
    import jax
    import xla_flags

    paths = (ROOT, *(ROOT / "tests" / name for name in ("", "train", "experiment")))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "XLA_FLAGS": xla_flags.QUICK,
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONUNBUFFERED": "",
    }
    with subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
    ) as process:

        def run(*command, **job):
            process.stdin.write(json.dumps({"command": command, **job}) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()


def _answer(job):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            _run(job, out, err)
        for text, number in job.get("signals", ()):
            seen = os.fstat(err.fileno()).st_size if job["signals"][0] != [text, number] else 0
            while text.encode() not in os.pread(err.fileno(), 2**20, seen) and not _ended(child):
                time.sleep(0.01)
            os.kill(child, number)
        if "delay" in job:
            time.sleep(job["delay"][0])
            os.kill(child, job["delay"][1])
        began = time.monotonic()
        if "signals" in job or "delay" in job:
            while not _ended(child) and time.monotonic() < began + _PATIENCE:
                time.sleep(0.01)
            if not _ended(child):
                os.kill(child, signal.SIGKILL)  # rather dead than hanging
        _, status = os.waitpid(child, 0)
        seconds = time.monotonic() - began
        texts = [os.pread(file.fileno(), 2**24, 0).decode() for file in (out, err)]
    return {
        "status": os.waitstatus_to_exitcode(status),
        "seconds": seconds,
        **dict(zip(("out", "err"), texts, strict=True)),
    }


def _ended(child):
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _run(job, out, err):
    """In the fork: never returns."""
    status = 1
    try:
        if not job.get("reader", True):
            reader, writer = os.pipe()
            os.close(reader)
            os.dup2(writer, 1)
        else:
            os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        os.environ.update(job.get("environment", {}))
        for name, value in job.get("jax", {}).items():
            jax.config.update(name, value)
        for point in job.get("points", ()):
            killed_run.arm(point)
        if "limit" in job:
            resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"],) * 2)
        program, *arguments = job["command"]
        if program == "mvae-jax":
            status = main(arguments)
        else:
            declared = stopped.EXPERIMENT if program == "stopped" else listing.load(program)
            experiment.run(declared, [f"experiments/{program}.py", *arguments])
            status = 0
        sys.stdout.flush()
    except SystemExit as end:
        status = end.code or 0
    except KeyboardInterrupt:  # before the program has begun
        status = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    # All that a fork would import anew; nothing of JAX runs before it.
    import jax
    import killed_run
    import matplotlib.figure  # noqa: F401
    import stopped

    from mvae_jax import experiment
    from mvae_jax.__main__ import main
    from mvae_jax.commands import compare, data, use  # noqa: F401
    from mvae_jax.experiment import listing

    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)
