"""SIGTERM, SIGHUP and Ctrl-C end a process at once, or when what is held is saved, whatever its main thread does."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future

import pytest

from mvae_jax.train.signals import Interrupted, Interruption

RUN = """
import jax, time
from concurrent.futures import Future
from mvae_jax.train.signals import Interrupted, Interruption

@jax.jit
def endless(x):  # within XLA, to which Python's handlers do not come
    return jax.lax.while_loop(lambda x: x >= 0, lambda x: (x * 5 + 1) % 1013, x)

def ready(what="ready"):
    print(what, flush=True)

program = endless.lower(1).compile()
try:
    with Interruption() as interruption:
        {code}
finally:
    print("left", flush=True)
"""
ENDLESS = "import threading; threading.Timer(0.5, ready).start(); program(1).block_until_ready()"
HELD = """with interruption.held():
            ready()
            while not interruption.requested:
                time.sleep(0.01)
            ready("saving")
            {then}"""


def run(code, *signals, status, begin=()):
    """Sends each signal after a line of output; returns the lines that follow, and errors."""
    with subprocess.Popen(
        [*begin, sys.executable, "-c", RUN.format(code=code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            for number in signals:
                process.stdout.readline()
                process.send_signal(number)
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()  # what has not ended would never do so
    assert process.returncode == status, err
    assert "Traceback" not in err
    return out.splitlines(), err


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)], ids=str
)
def test_a_signal_ends_what_holds_nothing_at_once(number, status):
    lines, err = run("ready(); time.sleep(600)", number, status=status)
    assert lines == ["left"]  # by an exception, so that contexts are left
    assert err.strip().startswith(f"{number.name}: stopping; what is trained is saved")
    assert ("Ctrl-C again" in err) == (number == signal.SIGINT)


def test_a_call_that_does_not_come_back_is_not_waited_for():
    lines, err = run(ENDLESS, signal.SIGTERM, status=143)
    assert lines == []
    assert err.count("SIGTERM: stopping") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=str)
def test_what_is_held_is_saved_first(number):
    code = HELD.format(then="time.sleep(3); ready('saved'); raise Interrupted(interruption.exit_code)")
    lines, err = run(code, number, status=128 + number)  # three seconds are more than the patience
    assert lines == ["saving", "saved", "left"]
    assert err.strip().startswith(f"{number.name}: stopping as soon as the state is saved")


def test_what_another_thread_writes_is_waited_for():
    saving = """
        done = Future()
        interruption.hold_until(done)
        def save():
            while not interruption.requested:
                time.sleep(0.01)
            time.sleep(3)
            ready("saved")
            done.set_result(None)
        import threading
        threading.Thread(target=save).start()
        """
    lines, _ = run(saving + ENDLESS, signal.SIGTERM, status=143)
    assert lines == ["saved"]


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_second_ctrl_c_stops_at_once_whatever_is_held(first):
    code = HELD.format(then="program(1).block_until_ready()")
    lines, _ = run(code, first, signal.SIGINT, status=130)
    assert lines == []


def test_second_sigterm_is_patient():
    code = HELD.format(then="time.sleep(0.5); ready('saved'); interruption.check()")
    assert run(code, signal.SIGTERM, signal.SIGTERM, status=143)[0] == ["saved", "left"]


def test_nohup_is_respected():
    code = "import os, signal; ready(); os.kill(os.getpid(), signal.SIGHUP); ready('goes on')"
    lines, _ = run(code, status=0, begin=["nohup"])
    assert lines == ["ready", "goes on", "left"]


def test_handlers_are_put_back():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    threads = threading.active_count()
    with contextlib.suppress(KeyError), Interruption() as interruption:
        interruption.check()
        assert (interruption.requested, interruption.exit_code) == (False, 0)
        assert signal.getsignal(signal.SIGTERM) not in before
        raise KeyError
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)
    pytest.fail("the signal was ignored")


def test_a_signal_raises_what_except_exception_lets_pass():
    with Interruption() as interruption, pytest.raises(Interrupted) as caught:
        terminate()
    assert caught.value.code == interruption.exit_code == 143
    assert not isinstance(caught.value, Exception)


def test_what_was_held_is_left_with_the_signal_that_came_meanwhile(capfd):
    def work(interruption):
        with interruption.held(), interruption.held():
            os.kill(os.getpid(), signal.SIGTERM)
            assert interruption.requested
        pytest.fail("the signal was forgotten")

    with Interruption() as interruption, pytest.raises(Interrupted) as caught:
        work(interruption)
    assert caught.value.code == 143
    assert "as soon as the state is saved" in capfd.readouterr().err


def test_a_future_that_is_done_holds_nothing():
    done = Future()
    done.set_exception(OSError("full"))
    with Interruption() as interruption:
        interruption.hold_until(done)
        with pytest.raises(Interrupted):
            terminate()


def test_another_thread_installs_no_handler():
    before, inside = signal.getsignal(signal.SIGTERM), []

    def enter():
        with Interruption() as interruption:
            inside.append((signal.getsignal(signal.SIGTERM), interruption.requested))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert inside == [(before, False)]


FORKED = """
import os, signal
from mvae_jax.train.signals import Interruption
with Interruption() as interruption:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(write, b"1")
            signal.pause()
        finally:
            os._exit(7)
    os.read(read, 1)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), interruption.requested)
"""


def test_the_signals_of_a_child_are_its_own():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("7 False\n", "")


COMPILING = """
import dataclasses, jax, jax.numpy as jnp, sys, toy
from mvae_jax.experiment import session
from mvae_jax.train import loop

def slow(round):
    def losses(*arguments):
        result = round.losses(*arguments)
        x = jnp.arange(64.0) * result.metrics["loss"]
        body = lambda x, _: (jnp.cumsum(jnp.sort(x)) % 7, None)
        x, _ = jax.lax.scan(body, x, None, length=1000, unroll=1000)  # a minute of compilation
        print("compiling", flush=True)
        return result._replace(metrics={**result.metrics, "x": x.sum()})
    return dataclasses.replace(round, losses=losses)

model = toy.build()
rounds = model.rounds
model = dataclasses.replace(model, rounds=lambda *a, **k: tuple(map(slow, rounds(*a, **k))))
session.start_logging(verbose=True)
with session.session(sys.argv[1], {}, ()) as (folder, interruption):
    loop.fit(model, toy.phases(), toy.batches, workdir=folder.path, seed=0, interruption=interruption)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=str)
def test_compilation_is_not_waited_for(tmp_path, number):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", COMPILING, tmp_path]
    with subprocess.Popen(command, env=environment, **pipes) as process:
        assert process.stdout.readline() == "compiling\n"
        process.send_signal(number)
        _, err = process.communicate()
    assert process.returncode == 128 + number
    assert f"{number.name}: stopping; what is trained is saved" in err
    assert "compiled in" not in err
    assert "Traceback" not in err
    assert not (tmp_path / "checkpoints").exists()
