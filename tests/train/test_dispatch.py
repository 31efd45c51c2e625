"""Steps are sent ahead, and their results come back in order."""

import time
import types

import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax.train import dispatch
from mvae_jax.train.dispatch import Dispatcher, HostSignals
from mvae_jax.train.program import Dispatch, MetricSums


class Device:
    """Stands for a program: it takes `seconds` for a step and adds 1 to the sums."""

    most_steps = 64

    def __init__(self, seconds=0.0):
        self.seconds, self.sent = seconds, []
        self.zeros = MetricSums(("loss",), np.zeros(1, np.float32), np.zeros(1, np.int32))

    def __call__(self, state, sums, arrays, indices, signals):
        time.sleep(self.seconds * len(indices))
        self.sent.append((len(indices), signals))
        sums = MetricSums(sums.names, sums.sums + len(indices), sums.counts + len(indices))
        finite = np.where(np.arange(self.most_steps) < len(indices), 1.0, 0.0)
        return Dispatch(state + len(indices), sums, jnp.asarray(finite), signals)


def send(dispatcher, state, steps, complete=False):
    indices = np.zeros((steps, 2), np.int32)
    return dispatcher.send(state, {}, indices, end=state + steps, complete=complete)


def make(device, steps=0, host_signals=HostSignals, inline=False):
    results = []
    return Dispatcher(device, steps, host_signals, results.append, inline), results


def test_results_come_in_order_two_dispatches_later():
    dispatcher, results = make(Device())
    state = 0
    for steps in (1, 2, 3, 4):
        state = send(dispatcher, state, steps)
    assert state == 10
    assert [(result.end, len(result.finite)) for result in results] == [(1, 1), (3, 2)]
    dispatcher.drain()
    assert [result.end for result in results] == [1, 3, 6, 10]
    assert all(result.finite.all() for result in results)
    dispatcher.drain()
    assert len(results) == 4


def test_sums_begin_anew_when_they_are_complete():
    dispatcher, results = make(Device())
    for state, complete in ((0, False), (2, True), (4, False)):
        send(dispatcher, state, 2, complete)
    dispatcher.drain()
    assert [(result.sums.sums[0], result.complete) for result in results] == [(2, False), (4, True), (2, False)]


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 64), (0.02, 9)])
def test_a_dispatch_takes_as_many_steps_as_fill_its_time(seconds, expected):
    dispatcher, _ = make(Device(seconds))
    assert dispatcher.steps_at_once == 1
    send(dispatcher, 0, 3)
    dispatcher.drain()
    assert dispatcher.steps_at_once == 64 if expected == 64 else 5 <= dispatcher.steps_at_once <= expected


def test_a_program_that_runs_when_it_is_called_is_timed_by_its_calls():
    dispatcher, results = make(Device(0.02), inline=True)
    for state in (0, 3):
        send(dispatcher, state, 3)
        assert results[-1].end == state + 3
    dispatcher.drain()  # of two dispatches looked at together, the second would have taken no time
    assert 1 <= dispatcher.steps_at_once <= 9


def test_the_number_of_steps_may_be_fixed():
    dispatcher, _ = make(Device(), steps=7)
    send(dispatcher, 0, 3)
    dispatcher.drain()
    assert dispatcher.steps_at_once == 7


def test_a_device_without_work_is_noticed():
    dispatcher, _ = make(Device())  # its results are there at once
    send(dispatcher, 0, 1)
    assert (dispatcher.dispatches, dispatcher.starved) == (1, 0)
    send(dispatcher, 1, 1)
    assert (dispatcher.dispatches, dispatcher.starved) == (2, 1)
    dispatcher.drain()  # here the host waits, and the device is idle for a reason
    send(dispatcher, 2, 1)
    assert (dispatcher.dispatches, dispatcher.starved) == (3, 1)


def test_one_host_follows_its_own_signals_at_once():
    signals = [HostSignals()]
    dispatcher, _ = make(Device(), host_signals=lambda: signals[0])
    send(dispatcher, 0, 1)
    signals[0] = HostSignals(143, True)
    assert dispatcher.agreed[:2] == (143, True)


def test_several_hosts_follow_what_all_of_them_have_seen(monkeypatch):
    monkeypatch.setattr(dispatch, "jax", types.SimpleNamespace(process_count=lambda: 2, device_get=lambda x: x))
    signals = [HostSignals()]
    dispatcher, _ = make(Device(), host_signals=lambda: signals[0])
    send(dispatcher, 0, 1)
    signals[0] = HostSignals(143, True)
    send(dispatcher, 1, 1)
    signals[0] = HostSignals()
    send(dispatcher, 2, 1)
    assert dispatcher.agreed[:2] == (0, False)  # of the first dispatch
    send(dispatcher, 3, 1)
    assert dispatcher.agreed[:2] == (143, True)  # of the second
    dispatcher.drain()
    assert dispatcher.agreed[:2] == (0, False)
