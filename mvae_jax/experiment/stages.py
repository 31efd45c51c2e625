"""What a run does besides training, announced and timed: classifying, measuring, drawing."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from mvae_jax.experiment.pages import duration

_log = logging.getLogger("experiment")


class Stages:
    """The stages of a run, each of which is announced in the log when it begins.

    Args:
        on_begin: called when a stage begins, or a part of one, with a clause that says so.
        clock: seconds, from any origin.

    Attributes:
        seconds: name -> seconds of the stages that have ended.
    """

    def __init__(
        self, on_begin: Callable[[str], None] = lambda clause: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds: dict[str, float] = {}
        self._on_begin, self._clock = on_begin, clock

    @contextlib.contextmanager
    def stage(self, name: str, announcement: str) -> Iterator[Callable[[str], None]]:
        """A stage that lasts as long as the context.

        How long it will take is not known. So it yields a function that is to be called with a clause for each of its
        parts when that begins, and adds after how long it does.

        Args:
            name: noun for the page and for the record of the run, such as "figures".
            announcement: line of the log.
        """
        _log.info("%s", announcement)
        self._on_begin(f"now the {name}")
        began = self._clock()

        def begin(clause: str) -> None:
            seconds = self._clock() - began
            self._on_begin(f"{clause}, after {duration(seconds / 60)}" if seconds >= 1 else clause)

        try:
            yield begin
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - began
