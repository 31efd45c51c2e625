"""What `tools/whole_runs.py` asks of the script of a side, and how it answers; needs NumPy alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np


def settings() -> dict[str, Any]:
    """The only argument: config, images, train, folder, programs, count_only."""
    return json.loads(sys.argv[1])


def images(settings: dict[str, Any]) -> np.ndarray:
    """The images, uint8 [N, S, S, C]: those to train on, then those to validate on."""
    with np.load(settings["images"]) as file:
        return file["image"]


def answer(settings: dict[str, Any], sizes: Iterable[int], losses: list[float], ends: list[float]) -> None:
    """Tells the sizes of all parameters, and of each epoch the mean training loss and the time of its end."""
    values = {"parameters": sum(sizes), "losses": losses, "epoch_ends": ends}
    Path(settings["folder"], "answer.json").write_text(json.dumps(values))
