"""Rooms are attributes of the package, and modules of their room: listed at once, loaded on first use."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import mvae_jax

PACKAGE = Path(mvae_jax.__file__).parent
HEAVY = {"jax", "numpy", "flax", "orbax", "optax", "matplotlib", "tensorflow", "tensorflow_datasets", "clu"}
LAZY_ROOMS = ("", "cpu", "eval", "nets", "train", "viz")


def evaluated(expression):
    """The value of an expression in a fresh process that has imported mvae_jax and nothing else, as text."""
    code = f"import sys, mvae_jax\nprint({expression})"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def room_named(name):
    return importlib.import_module(f"mvae_jax.{name}" if name else "mvae_jax")


def test_importing_the_package_loads_nothing_heavy():
    loaded = evaluated("*{name.split('.')[0] for name in sys.modules}").split()
    assert "mvae_jax" in loaded
    assert not HEAVY & set(loaded)


def test_a_room_is_an_attribute_in_a_fresh_process():
    expression = "mvae_jax.losses.squared_error.__name__, mvae_jax.train.signals.Interrupted.__name__"
    assert evaluated(expression) == "squared_error Interrupted"


@pytest.mark.parametrize("name", LAZY_ROOMS)
def test_dir_lists_every_public_module(name):
    room, folder = room_named(name), PACKAGE / name
    files = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    public = {stem for stem in files if not stem.startswith("_")}
    assert public, folder
    assert set(dir(room)) == public | set(vars(room).get("__all__", ()))


@pytest.mark.parametrize("name", LAZY_ROOMS)
def test_every_listed_name_is_there_and_described(name):
    room = room_named(name)
    for attribute in dir(room):
        assert getattr(room, attribute).__doc__, attribute
        assert attribute in room.__doc__ or name == "nets", (
            f"the docstring of {room.__name__} does not name {attribute}"
        )


def test_every_room_has_a_docstring():
    for path in PACKAGE.rglob("__init__.py"):
        room = ".".join(path.parent.relative_to(PACKAGE.parent).parts)
        assert importlib.import_module(room).__doc__, room


@pytest.mark.parametrize(("name", "typo", "meant"), [("", "loses", "losses"), ("train", "checkpoints", "checkpoint")])
def test_a_typo_is_answered_with_the_nearest_name(name, typo, meant):
    room = room_named(name)
    with pytest.raises(AttributeError, match=rf"^{room.__name__} has no '{typo}'; did you mean {meant}\?$"):
        getattr(room, typo)


def test_another_name_is_answered_with_all_names():
    with pytest.raises(AttributeError, match=r"^mvae_jax.cpu has no 'xyz'; it has convolution, memory, xla\.$"):
        _ = room_named("cpu").xyz


def test_private_modules_are_no_attributes_until_they_are_loaded():
    assert evaluated("[hasattr(mvae_jax.viz, name) for name in ('_text', '__path__', '__wrapped__')]") == (
        "[False, True, False]"
    )


def test_an_error_within_a_module_is_not_taken_for_a_missing_one(tmp_path, monkeypatch):
    (tmp_path / "lazy_room").mkdir()
    source = "from mvae_jax import _lazy\n__getattr__, __dir__ = _lazy.modules(__name__)\n"
    (tmp_path / "lazy_room" / "__init__.py").write_text(source)
    (tmp_path / "lazy_room" / "broken.py").write_text("import a_package_that_is_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    room = importlib.import_module("lazy_room")
    assert dir(room) == ["broken"]
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_installed"):
        _ = room.broken
    del sys.modules["lazy_room"]
