"""What is promised is tried at random, few times by default, and often with --promises=full (`make promises`).

Each test says by `promise` how often its promise was kept; pytest ends with these lines.
"""

import itertools

import pytest


@pytest.fixture(scope="session")
def count(request):
    """A function (few, full) -> how often to try."""
    return lambda few, full: full if request.config.getoption("promises") == "full" else few


@pytest.fixture
def promise(record_property):
    """A function (what, of, broken, remark): reports how many tries kept the promise; `broken` tells of the others."""

    def promise(what, of, broken, remark=""):
        record_property("promise", f"{what}: {of - len(broken)} of {of}{remark and f' ({remark})'}")
        assert broken == []

    return promise


@pytest.fixture
def disturbed(request):
    """A function (of, disturb, end): disturbs runs so many times, each up to four times, and lets them end.

    Both take the name of a run and return what is wrong, "" for nothing; `disturb` None where the run had ended before.
    The function returns a sentence for each disturbance whose run was wrong then or at its end.
    """

    def disturbed(of, disturb, end):
        left, broken = of, []
        for name in (f"{request.node.name}{number}" for number in itertools.count()):
            if not left:
                return broken
            found = list(itertools.takewhile(lambda wrong: wrong is not None, _several(disturb, name, min(4, left))))
            left -= len(found)
            at_end = _said(end, name)
            broken += [f"{name}: {wrong or at_end}" for wrong in found if wrong or at_end]

    return disturbed


def _several(disturb, name, times):
    return (_said(disturb, name) for _ in range(times))


def _said(check, name):
    try:
        return check(name)
    except AssertionError as error:
        return str(error) or "a check has failed"
