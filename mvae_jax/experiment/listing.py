"""The experiments by name: files `experiments/NAME.py`, each of which declares one."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import mvae_jax
from mvae_jax.experiment.declaration import Experiment

# Files of older runs' names.
_RENAMED = {"judge": "attribute_classifier"}


def folder() -> Path:
    """Where the experiments lie: within an installed package, or beside it in the repository."""
    package = Path(mvae_jax.__file__).parent
    installed = package / "experiments"
    return installed if installed.is_dir() else package.parent / "experiments"


def names() -> list[str]:
    """The experiments' names."""
    return sorted(path.stem for path in folder().glob("*.py") if not path.stem.startswith("_"))


def current(name: str) -> str:
    """The name by which this version knows an experiment that a run names."""
    return _RENAMED.get(name, name)


def load(name: str) -> Experiment:
    """The experiment of a name.

    Raises:
        ValueError: there is none of that name.
    """
    name = current(name)
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(names())}."
        raise ValueError(f"there is no experiment {name!r}; {hint}")
    experiment: Experiment = module(folder() / f"{name}.py").EXPERIMENT
    return experiment


def module(path: Path) -> ModuleType:
    """The module in a file, imported under a name that no other package has."""
    name = f"mvae_jax_experiments.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} cannot be imported; expected a file that declares an experiment.")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded  # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded
