"""SIGTERM and Ctrl-C are noted, polled and turned into an exit status."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from mvae_jax.train.signals import Interrupted, Interruption

RUN = """
import time
from mvae_jax.train.signals import Interrupted, Interruption
with Interruption() as interruption:
    print("ready", flush=True)
    while not interruption.requested:
        time.sleep(0.01)
    print("saved", flush=True)
    {then}
"""


def run(then, *signals):
    """Sends each signal after a line of output; returns exit status, remaining output and errors."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN.format(then=then)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        for number in signals:
            process.stdout.readline()
            process.send_signal(number)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_ends_the_process_with_its_status_after_saving(number, status):
    code, out, err = run("raise Interrupted(interruption.exit_code)", number)
    assert (code, out) == (status, "saved\n")
    assert err.strip().startswith(f"{number.name}: stopping")
    assert ("Ctrl-C again" in err) == (number == signal.SIGINT)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_second_ctrl_c_stops_at_once(first):
    code, _, err = run("time.sleep(20)", first, signal.SIGINT)
    assert code == -signal.SIGINT  # Python ends by the signal itself after KeyboardInterrupt
    assert "KeyboardInterrupt" in err


def test_second_sigterm_is_patient():
    code, _, _ = run("time.sleep(0.2); interruption.check()", signal.SIGTERM, signal.SIGTERM)
    assert code == 143


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with contextlib.suppress(KeyError), Interruption() as interruption:
        interruption.check()
        assert (interruption.requested, interruption.exit_code) == (False, 0)
        assert signal.getsignal(signal.SIGTERM) not in before
        raise KeyError
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_check_raises_what_except_exception_lets_pass():
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.requested
        with pytest.raises(Interrupted) as caught:
            interruption.check()
    assert caught.value.code == 143
    assert not isinstance(caught.value, Exception)


def test_another_thread_installs_no_handler():
    before, inside = signal.getsignal(signal.SIGTERM), []

    def enter():
        with Interruption() as interruption:
            inside.append((signal.getsignal(signal.SIGTERM), interruption.requested))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert inside == [(before, False)]
