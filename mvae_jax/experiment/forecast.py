"""Time that a run has left: of what trains from its speed, of what is to come from its work beside that."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from mvae_jax.objective import Phase


@dataclasses.dataclass
class Part:
    """A phase of a model that the run trains.

    Attributes:
        label: of the model.
        phase: name of the phase.
        steps: its optimiser steps.
        values: pixel values that a step sees: its work, for want of `flops`.
        flops: floating-point operations of a step, once that is known.
    """

    label: str
    phase: str
    steps: int
    values: float
    flops: float | None = None

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.label, self.phase)))


def parts(label: str, phases: Sequence[Phase]) -> list[Part]:
    """The phases of a model as parts of a run.

    Args:
        label: of the model, "" for the only one.
        phases: of it.
    """
    found = []
    for phase in phases:
        size = phase.image_size or 1  # codes are small
        sides = (size,) * 2 if isinstance(size, int) else size
        values = float(phase.batch_size * math.prod(sides))
        found.append(Part(label, phase.name, phase.steps, values))
    return found


class Forecast:
    """Estimates of the time that is left.

    Args:
        parts: in the order in which they train.
        after: seconds of what follows the last of them.
    """

    def __init__(self, parts: Sequence[Part], after: float = 0.0) -> None:
        self.parts, self.after = list(parts), after
        self._speeds: dict[int, float] = {}  # part -> seconds per pixel value, as last measured

    def later(self, index: int, step_seconds: float) -> float:
        """Seconds that the run takes after the part that trains now.

        Args:
            index: of that part.
            step_seconds: measured time of one of its steps.
        """
        now = self.parts[index]
        self._speeds[index] = step_seconds / now.values
        speed = sum(self._speeds.values()) / len(self._speeds)

        def seconds(part: Part) -> float:
            step = step_seconds * part.flops / now.flops if part.flops and now.flops else speed * part.values
            return step * part.steps

        return sum(map(seconds, self.parts[index + 1 :])) + self.after

    def steps_before(self, index: int) -> int:
        """Steps of all parts before one."""
        return sum(part.steps for part in self.parts[:index])

    @property
    def steps(self) -> int:
        """Steps of all parts."""
        return self.steps_before(len(self.parts))


def words(seconds: float) -> str:
    """The time left, as precise as it can be known: "about 4 minutes left"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute left"
    if minutes <= 90:
        return f"about {minutes} minute{'s' * (minutes != 1)} left"
    return f"about {round(minutes / 60)} hours left"
