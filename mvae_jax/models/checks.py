"""Checks of the zoo's Configs: what several of them refuse, in the same words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def check_choice(config: Any, name: str, choices: Sequence[Any]) -> None:
    """Refuses a field whose value is none of the choices.

    Raises:
        ValueError: the value is none of them.
    """
    if getattr(config, name) not in choices:
        raise ValueError(f"{name} is {getattr(config, name)!r}; choose one of {', '.join(map(repr, choices))}.")


def check_compute_dtype(config: Any) -> None:
    """Refuses types in which networks do not compute.

    Raises:
        ValueError: `compute_dtype` is neither "float32" nor "bfloat16".
    """
    check_choice(config, "compute_dtype", ("float32", "bfloat16"))


def check_at_least(config: Any, bound: float, *names: str) -> None:
    """Refuses fields whose value is below a bound, or not a number.

    Raises:
        ValueError: a value is below the bound, or NaN.
    """
    for name in names:
        if not getattr(config, name) >= bound:
            raise ValueError(f"{name} is {getattr(config, name)}; expected at least {bound}.")


def check_positive(config: Any, *names: str) -> None:
    """Refuses fields whose value is not above 0.

    Raises:
        ValueError: a value is 0, negative or NaN.
    """
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} is {getattr(config, name)}; expected a number above 0.")


def check_widths(config: Any, *names: str) -> None:
    """Refuses lists of widths that are empty or hold a number below 1.

    Raises:
        ValueError: a list is empty, or holds such a number.
    """
    for name in names:
        if not getattr(config, name) or min(getattr(config, name)) < 1:
            raise ValueError(f"{name} are {getattr(config, name)}; expected at least one, and each at least 1.")


def check_attributes(config: Any) -> None:
    """Refuses a config without attributes, and names that occur twice.

    Raises:
        ValueError: there is no attribute, or a name occurs twice.
    """
    if not config.attributes or len(set(config.attributes)) != len(config.attributes):
        raise ValueError(f"attributes are {config.attributes}; expected at least one name and no name twice.")
