"""One run of an experiment in its workdir: lock, settings, signals, log lines and exit statuses."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mvae_jax import exits, terminal
from mvae_jax.experiment import processes, provenance
from mvae_jax.train import devices, loop
from mvae_jax.train.config_file import DamagedRun
from mvae_jax.train.signals import Interrupted, Interruption
from mvae_jax.train.workdir import Workdir, WorkdirBusy, folder_of

_log = logging.getLogger("experiment")


def is_first() -> bool:
    """Whether this is the process that measures and draws, of several the first."""
    return jax.process_index() == 0


def start_logging(verbose: bool = False) -> None:
    """Log lines with the time of day go to standard error; of several processes the first tells.

    The first line says on which devices the program computes. An environment in which nothing can be trained ends the
    program here, before it reads any data.

    Args:
        verbose: log also what is of use to those who work on this code.
    """
    logging.getLogger("jax").setLevel(logging.WARNING)  # it lists the accelerators that are not there
    sys.unraisablehook = _unraisable
    with errors():
        devices.place()
    terminal.start_logging(logging.INFO if is_first() else logging.WARNING, "%(asctime)s %(message)s")
    for name in ("experiment", "mvae_jax"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose and is_first() else logging.NOTSET)
    _log.info("%s", provenance.describe(provenance.devices()))
    if warning := provenance.unused_gpu():
        _log.warning("%s", warning)


def _unraisable(error: Any) -> None:
    """Python's hook for errors that nobody can handle.

    Nothing is said of what TensorStore's threads tell once one of several writes has failed, which is raised, nor of a
    signal in the midst of a collection of garbage: the process ends all the same.
    """
    is_of_store = isinstance(error.exc_value, RuntimeError) and str(error.exc_value) == "Event loop is closed"
    if not (is_of_store or isinstance(error.exc_value, Interrupted)):
        sys.__unraisablehook__(error)


def errors() -> contextlib.AbstractContextManager[None]:
    """While a run is prepared: what a user can mend ends the program with its message and status 2, no traceback."""
    return exits.errors((*exits.MISTAKES, WorkdirBusy))


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """While a run trains or is measured: training that diverges and a disk that fails end it with a message and 1.

    Damaged files of a run that is to go on end it with a message and 2.
    """
    with exits.errors((DamagedRun,)), exits.errors((loop.TrainingDiverged, OSError), status=1):
        yield


@contextlib.contextmanager
def session(
    path: str,
    settings: Mapping[str, Any],
    may_change: Sequence[str],
    *,
    check: Callable[[], None] = lambda: None,
    interruption: Interruption | None = None,
    **options: Any,
) -> Iterator[tuple[Workdir, Interruption]]:
    """Holds a workdir for one run: one process, the settings that it started with, signals noted.

    A workdir that is finished ends the program with status 0; SIGTERM and Ctrl-C end it with 143 and 130; training
    that diverges and a disk that fails, with a message and 1. Any other error is ours, and keeps its traceback.

    Args:
        path: the workdir.
        settings: goes to config.json; a workdir with other settings is refused.
        may_change: dotted names of settings that may differ when a run is resumed.
        check: refuses a run that has these settings and cannot go on by raising ValueError, before anything is written.
        interruption: whose context lives already; by default a new one.
        **options: further ones of `Workdir.configure`: the Configs in the settings, whether a phase may be longer, ...
    """
    with contextlib.ExitStack() as stack:
        with _first_decides():
            with errors():
                workdir = Workdir(path)
                stack.enter_context(workdir.lock())
                if options.get("extend") or not workdir.is_finished:
                    options["check"] = check
                workdir.configure(settings, may_change=may_change, **options)
            _end_if_finished(workdir)
        interruption = interruption or stack.enter_context(Interruption())
        with failures():
            yield workdir, interruption


def check(
    path: str,
    settings: Mapping[str, Any],
    may_change: Sequence[str],
    **options: Any,
) -> None:
    """Ends the program where `session` would, before any image is drawn or read; makes nothing.

    A workdir that is in use or has other settings is refused, and one that is finished says so.

    Args:
        path: the workdir, which need not exist.
        settings: those that are known without the images; entries of config.json besides them are not compared.
        may_change: as for `session`.
        **options: likewise.
    """
    with _first_decides():
        if not is_first() or not (folder_of(path) / "config.json").exists():
            return
        with errors():
            workdir = Workdir(path)
            with workdir.lock():
                free = (*may_change, *(workdir.entries - settings.keys()))
                workdir.configure(settings, may_change=free, write=False, **options)
        if not options.get("extend"):  # perhaps it has become longer
            _end_if_finished(workdir)


def _end_if_finished(workdir: Workdir) -> None:
    if is_first() and workdir.is_finished:
        terminal.echo(f"{workdir.path} is finished; its report is {workdir.path / 'report.html'}.")
        sys.exit(0)


@contextlib.contextmanager
def _first_decides() -> Iterator[None]:
    """If the first of several processes ends here, all do, with its status."""
    status = -1
    try:
        yield
    except SystemExit as end:
        status = int(end.code or 0)
    if jax.process_count() > 1:
        status = int(multihost_utils.broadcast_one_to_all(np.array(status)))
    if status >= 0:
        raise processes.Agreed(status)
