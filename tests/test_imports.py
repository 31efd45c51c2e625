"""Who may import whom, and what an import pulls in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mvae_jax

PACKAGE = Path(mvae_jax.__file__).parent
ROOT = PACKAGE.parent
# Room -> rooms of the project that it may import. What is not listed may not.
BORDERS = {
    "attributes": set(),
    "images": set(),
    "gaussian": set(),
    "augmentation": set(),
    "objective": set(),
    "optimizers": set(),
    "losses": {"gaussian"},
    "nets": set(),
    "models": {"attributes", "augmentation", "gaussian", "images", "losses", "nets", "objective", "optimizers"},
    "train": {"objective"},
    "data": {"attributes"},
    "eval": {"gaussian", "images", "losses", "nets"},
    "viz": set(),
    "runs": {"models", "objective", "train"},
}
HEAVY = ("flax", "orbax", "optax", "tensorflow", "tensorflow_datasets", "clu")


def rooms_imported(file):
    """Rooms that a file of the package imports, the room itself left out."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "mvae_jax" and len(parts) > 1 and (PACKAGE / parts[1]).with_suffix("").name in BORDERS:
                yield parts[1]


@pytest.mark.parametrize("room", sorted(BORDERS))
def test_imports_point_down(room):
    path = PACKAGE / room
    for file in [*path.rglob("*.py")] if path.is_dir() else [path.with_suffix(".py")]:
        upwards = set(rooms_imported(file)) - BORDERS[room] - {room}
        assert not upwards, f"{file.relative_to(ROOT)} imports {upwards}"


def test_every_room_has_a_border():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__init__", "__pycache__", "py"} == set(BORDERS)


def loaded_by(statement):
    code = f"import sys\n{statement}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_losses_are_light():
    assert not loaded_by("from mvae_jax import losses") & set(HEAVY)


def test_training_loads_no_tensorflow():
    experiments = str(ROOT / "experiments")
    assert not loaded_by(f"sys.path.insert(0, {experiments!r}); import celebahq_mvae") & {"tensorflow"}
