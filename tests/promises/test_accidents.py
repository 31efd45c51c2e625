"""An experiment that is stopped by signals, or for which there is no room, at random: nothing of it is lost."""

import json
import shutil
import signal

import numpy as np
import pytest
from forked import server
from whole import check_same, check_whole

pytestmark = pytest.mark.promise
PATIENCE = 10  # seconds, on a machine that is busy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("accidents")


@pytest.fixture(scope="module")
def run(folder):
    with server(folder) as run:
        run("stopped", "--workdir=warm")  # whose programs are compiled
        yield run


@pytest.fixture(scope="module")
def whole(run, folder):
    """Seconds that a run takes which nobody disturbs, in the workdir "whole"."""
    answer = run("stopped", "--workdir=whole")
    assert answer["status"] == 0, answer["err"]
    return answer["seconds"]


@pytest.fixture
def end(run, folder, whole):
    """A function (path) -> "": the run goes on to the end, and leaves what one leaves that nobody disturbs."""

    def end(path):
        answer = run("stopped", f"--workdir={path}")
        assert answer["status"] == 0, answer["err"]
        check_whole(folder / path, json.loads((folder / "whole/scores.json").read_text()))
        check_same(folder / path, folder / "whole")
        return ""

    return end


def test_signals_at_random_moments(run, whole, disturbed, end, count, promise):
    rng, of, slowest = np.random.default_rng(1), count(2, 24), 0.0
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def interrupt(name):
        nonlocal slowest
        number = numbers[rng.integers(3)]
        answer = run("stopped", f"--workdir={name}", delay=[rng.uniform(0.05, whole), number])
        if answer["status"] == 0:
            return None
        assert answer["status"] in (128 + number, -number), answer  # the latter before the program has begun
        assert "Traceback" not in answer["err"], answer
        assert answer["seconds"] < PATIENCE
        slowest = max(slowest, answer["seconds"])
        return ""

    broken = disturbed(of, interrupt, end)
    promise("signals at random moments", of, broken, f"ended within {slowest:.1f} s")


def full(answer):
    """None for a run that had room to its end, else ""; refuses one that does not say in one sentence what is full."""
    if answer["status"] == 0:
        return None
    assert answer["status"] in (1, 2), answer
    assert "Traceback" not in answer["err"], answer
    assert answer["err"].count("error: ") == 1, answer
    assert "cannot be written: " in answer["err"].splitlines()[-1], answer
    return ""


def test_limits_of_file_sizes_at_random(run, folder, whole, disturbed, end, count, promise):
    """From 4 KiB on, since the log is a file too."""
    rng, of = np.random.default_rng(2), count(2, 12)
    largest = max(path.stat().st_size for path in (folder / "whole").rglob("*") if path.is_file())

    def limit(name):
        return full(run("stopped", f"--workdir={name}", limit=int(np.exp(rng.uniform(np.log(4096), np.log(largest))))))

    promise("limits of file sizes", of, disturbed(of, limit, end))


def test_full_disks_at_random(run, folder, whole, disturbed, end, count, promise, small_disk):
    """Each run has more room from start to start, until it has enough."""
    rng, of, rooms = np.random.default_rng(3), count(2, 20), {}
    most = sum(path.stat().st_size for path in (folder / "whole").rglob("*") if path.is_file()) // 1024

    def fill(name):
        room = rooms.setdefault(name, iter(sorted(rng.integers(4, most, 4).tolist())))
        return full(run("stopped", f"--workdir={small_disk(next(room))}/{name}"))

    def go_on(name):
        path = small_disk(64 * 1024) / name
        try:
            return end(path)
        finally:
            shutil.rmtree(path)

    promise("full disks", of, disturbed(of, fill, go_on))
