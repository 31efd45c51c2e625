"""What the Configs of the zoo refuse in the same words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def check_choice(config: Any, name: str, choices: Sequence[Any]) -> None:
    """Refuses a field whose value is none of the choices.

    Raises:
        ValueError: it is not.
    """
    if getattr(config, name) not in choices:
        raise ValueError(f"{name} is {getattr(config, name)!r}; choose one of {', '.join(map(repr, choices))}.")


def check_at_least(config: Any, bound: float, *names: str) -> None:
    """Refuses fields whose value is below a bound, or not a number.

    Raises:
        ValueError: one is.
    """
    for name in names:
        if not getattr(config, name) >= bound:
            raise ValueError(f"{name} is {getattr(config, name)}; expected at least {bound}.")


def check_positive(config: Any, *names: str) -> None:
    """Refuses fields whose value is not above 0.

    Raises:
        ValueError: one is not.
    """
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} is {getattr(config, name)}; expected a number above 0.")


def check_widths(config: Any, *names: str) -> None:
    """Refuses lists of widths that are empty or hold a number below 1.

    Raises:
        ValueError: one is.
    """
    for name in names:
        if not getattr(config, name) or min(getattr(config, name)) < 1:
            raise ValueError(f"{name} are {getattr(config, name)}; expected at least one, and each at least 1.")


def check_attributes(config: Any) -> None:
    """Refuses no attributes, and a name that is there twice.

    Raises:
        ValueError: it is so.
    """
    if not config.attributes or len(set(config.attributes)) != len(config.attributes):
        raise ValueError(f"attributes are {config.attributes}; expected at least one name and no name twice.")
