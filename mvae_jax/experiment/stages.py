"""What a run does besides training, announced and timed: classifying, measuring, drawing."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

_log = logging.getLogger("experiment")


class Stages:
    """The stages of a run, each of which is announced in the log when it begins.

    Args:
        on_begin: called with the name of each stage when it begins.

    Attributes:
        seconds: name -> seconds of the stages that have ended.
    """

    def __init__(self, on_begin: Callable[[str], None] = lambda name: None) -> None:
        self.seconds: dict[str, float] = {}
        self._on_begin = on_begin

    @contextlib.contextmanager
    def stage(self, name: str, announcement: str) -> Iterator[None]:
        """A stage that lasts as long as the context.

        Args:
            name: noun for the page and for the record of the run, such as "figures".
            announcement: line of the log.
        """
        _log.info("%s", announcement)
        self._on_begin(name)
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began
