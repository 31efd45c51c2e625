"""Who may import whom, and what an import pulls in."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mvae_jax

PACKAGE = Path(mvae_jax.__file__).parent
ROOT = PACKAGE.parent
# Room -> rooms of the project that it may import. What is not listed may not.
BORDERS = {
    "_json": set(),
    "_lazy": set(),
    "attributes": set(),
    "numerics": set(),
    "images": {"numerics"},
    "meshes": set(),
    "random": {"meshes"},
    "gaussian": {"meshes", "numerics", "random"},
    "cpu": {"meshes"},
    "testing": {"gaussian", "random"},
    "augmentation": set(),
    "objective": set(),
    "optimizers": set(),
    "losses": {"gaussian", "meshes", "numerics"},
    "nets": {"cpu"},
    "models": {
        *("attributes", "augmentation", "gaussian", "images", "losses", "meshes", "nets", "objective", "optimizers"),
        "random",
    },
    "train": {"cpu", "fields", "files", "numerics", "objective"},
    "data": {"attributes", "files", "numerics"},
    "eval": {"attributes", "augmentation", "gaussian", "images", "losses", "nets", "numerics", "random"},
    "viz": {"files"},
    "fields": set(),
    "files": set(),
    "terminal": set(),
    "exits": {"terminal"},
    "export": {"cpu", "files", "numerics", "objective", "train"},
    "runs": {"data", "export", "fields", "models", "numerics", "objective", "train"},
    "experiment": {
        *(
            "attributes",
            "cpu",
            "data",
            "eval",
            "exits",
            "export",
            "fields",
            "files",
            "gaussian",
            "images",
            "losses",
            "models",
        ),
        *("nets", "numerics", "objective", "random", "runs", "terminal", "train", "viz"),
    },
    "commands": {
        *(
            "data",
            "eval",
            "exits",
            "experiment",
            "export",
            "fields",
            "files",
            "gaussian",
            "images",
            "random",
            "runs",
            "terminal",
            "viz",
        ),
    },
    "__main__": {"commands", "exits"},
}
PRIVATE = {"_json", "_lazy"}  # help for all rooms
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
        upwards = set(rooms_imported(file)) - BORDERS[room] - {room, *PRIVATE}
        assert not upwards, f"{file.relative_to(ROOT)} imports {upwards}"


def test_every_room_has_a_border():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__init__", "__pycache__", "py"} == set(BORDERS)


def test_the_architecture_page_describes_every_room():
    _, section = (ROOT / "docs" / "architecture.md").read_text().split("## The rooms")
    table = [line.split("|")[1] for line in section.split("##")[0].splitlines() if line.startswith("| `")]
    assert set(BORDERS) - PRIVATE <= set(re.findall(r"`(\w+)`", " ".join(table)))


def loaded_by(statement):
    """Top-level packages that a fresh process has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_losses_are_light():
    assert not loaded_by("from mvae_jax import losses") & set(HEAVY)


HELP = """
import contextlib, io
from mvae_jax import __main__, experiment
from mvae_jax.experiment import listing
helps = [lambda name=name: experiment.run(listing.load(name), [name, "--help"]) for name in listing.names()]
helps += [lambda name=name: __main__.main([name, "--help"]) for name in __main__.COMMANDS]
for show in helps:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            show()
    except SystemExit as end:
        assert not end.code
"""


def test_help_loads_nothing_that_it_does_not_show():
    """Half of the time that help or a typo took went into these."""
    loaded = loaded_by(HELP)
    assert "flax" in loaded
    assert not loaded & {"sklearn", "scipy", "matplotlib", "orbax", "clu", "tensorflow", "tensorflow_datasets"}


def test_experiments_import_the_package_alone_whatever_else_is_installed(tmp_path):
    # Hugging Face's package has this name, and others may have any other.
    for name in ("datasets", "launch", "training", "judge"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not of this project')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    scripts = [*sorted((ROOT / "experiments").glob("*.py")), ROOT / "tools" / "benchmark.py"]
    running = [
        subprocess.Popen([sys.executable, path, "--help"], env=environment, stdout=subprocess.PIPE, text=True)
        for path in scripts
    ]
    assert [process.communicate()[0] != "" and process.returncode for process in running] == [0] * len(scripts)
    for path in scripts[:-1]:
        imported = {name.split(".")[0] for name in modules_imported(path)}
        assert imported <= {"mvae_jax", *sys.stdlib_module_names}, path


def modules_imported(path):
    """Names of the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
