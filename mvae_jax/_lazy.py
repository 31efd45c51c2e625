"""Packages whose modules load on first use (PEP 562), so that a name is at hand and costs nothing until it is used."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping
from typing import Any


def modules(
    package: str, names: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for a package: its modules are attributes, and each is loaded when it is asked for.

    The files of the package are the list: a module is public unless its name begins with an underscore. `dir()` shows
    these and the names in the package's `__all__`, if it has one.

    Args:
        package: the package's `__name__`.
        names: further public names -> the module of the package that has it.

    Returns:
        (`__getattr__`, `__dir__`), to be assigned in the package's `__init__.py`.
    """
    lent = names or {}

    def public_modules() -> set[str]:
        names = (module.name for module in pkgutil.iter_modules(sys.modules[package].__path__))
        return {name for name in names if not name.startswith("_")}

    def list_names() -> list[str]:
        return sorted(public_modules().union(lent, vars(sys.modules[package]).get("__all__", ())))

    def get(name: str) -> Any:
        # Tools probe for dunder names all the time: these are answered without a look at the disk.
        if not name.startswith("_") and name in public_modules():
            return importlib.import_module(f"{package}.{name}")
        if name in lent:
            return getattr(importlib.import_module(f"{package}.{lent[name]}"), name)
        close = difflib.get_close_matches(name, list_names(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(list_names())}."
        # With a name but no object: the interpreter adds no second suggestion of its own to the traceback.
        raise AttributeError(f"{package} has no {name!r}; {hint}", name=name)

    return get, list_names
