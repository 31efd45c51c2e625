"""Programs that show runs side by side, told the metrics besides the files of a run: Trackio, Weights & Biases.

Both are optional (`pip install -e '.[trackio]'`, `'.[wandb]'`) and off by default. Trackio keeps what it is told on
this machine; Weights & Biases sends it to its server, unless WANDB_MODE=offline.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

_PROJECT = "mvae_jax"


class Tracker(Protocol):
    """What `logging.MetricWriter` tells a program besides its files. Method names are those of `clu.metric_writers`."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Takes numbers of a step; those of a step may come in parts, and again after a resume.

        Args:
            step: step of the run.
            scalars: name, with its split before a slash -> number.
        """

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Takes images of a step: name -> uint8 [H, W, C]."""

    def close(self) -> None:
        """Keeps all that was taken, and ends."""


class Trackio:
    """A run of Trackio, which `trackio show --project mvae_jax` shows.

    Args:
        folder: of the run, by whose path Trackio knows it when it goes on.
    """

    def __init__(self, folder: Path) -> None:
        import trackio

        self._image = trackio.Image
        self._run = trackio.init(_PROJECT, _name(folder), resume="allow", embed=False)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(dict(scalars), step=step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """See `Tracker`."""
        self._run.log({name: self._image(image) for name, image in images.items()}, step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


class WeightsAndBiases:
    """A run of Weights & Biases; its files are in the folder `wandb` of the run's.

    Args:
        folder: of the run, by whose path Weights & Biases knows it when it goes on.
    """

    def __init__(self, folder: Path) -> None:
        import wandb

        self._image, name = wandb.Image, _name(folder)
        self._run = wandb.init(project=_PROJECT, name=name, id=name, dir=folder, resume="allow")
        # An axis of its own: wandb's own steps never go back, as those of a run do that goes on after a kill.
        self._run.define_metric("*", step_metric="step")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log({"step": step, **scalars})

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """See `Tracker`."""
        self._run.log({"step": step, **{name: self._image(image) for name, image in images.items()}})

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


_TRACKERS: dict[str, Callable[[Path], Tracker]] = {"trackio": Trackio, "wandb": WeightsAndBiases}


def check(name: str) -> None:
    """Refuses a tracker that is unknown or not installed.

    Raises:
        ValueError: it is.
    """
    if name and name not in _TRACKERS:
        raise ValueError(f"tracker is {name!r}; expected {', '.join(map(repr, _TRACKERS))}, or '' for none.")
    if name and importlib.util.find_spec(name) is None:
        raise ValueError(f"tracker is {name!r}, which is not installed: pip install {name}, or give no tracker.")


def start(name: str, folder: Path) -> Tracker | None:
    """The tracker of a run; None for the name "".

    Raises:
        ValueError: the tracker does not start, as where nobody is logged in.
    """
    if not name:
        return None
    try:
        return _TRACKERS[name](folder)
    except Exception as error:  # each has errors of its own
        raise ValueError(f"the tracker {name} does not start: {error} Log in, or have it work offline.") from error


def _name(folder: Path) -> str:
    """Name of a run for people, the same for the same folder and another one for any other."""
    place = folder.expanduser().resolve()
    return f"{place.parent.name}-{place.name}-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"
