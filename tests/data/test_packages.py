"""Packages of the data sets: light to import, public names listed, and no module that needs one that needs it."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from mvae_jax import data
from mvae_jax.data import formats, pyramid, rendered

ROOT = Path(data.__file__).parent
HEAVY = "{'jax', 'PIL', 'flax', 'array_record', 'tensorflow', 'tensorflow_datasets', 'sklearn'}"


@pytest.mark.parametrize(
    "statement",
    [
        "from mvae_jax import data",
        "from mvae_jax.data import formats, pyramid, rendered",
        "from mvae_jax.data import batches, source",
        "from mvae_jax.data import captions",
        "from mvae_jax import data; data.captions.write",
    ],
)
def test_what_is_not_asked_for_is_not_imported(statement):
    code = f"import sys; {statement}; assert not {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("package", [data, formats, pyramid, rendered], ids=lambda package: package.__name__)
def test_public_modules_are_listed_described_and_there(package):
    folder = Path(package.__file__).parent
    modules = {path.stem for path in folder.iterdir() if path.is_dir() or path.suffix == ".py"}
    public = {name for name in modules if not name.startswith("_")}
    assert public <= set(dir(package))
    for name in dir(package):
        assert getattr(package, name) is not None
    described = {line.partition(":")[0] for line in package.__doc__.splitlines() if ":   " in line}
    assert described == public


def test_a_name_that_is_not_there_is_answered_with_one_that_is():
    with pytest.raises(AttributeError, match=r"mvae_jax.data has no 'source5'; did you mean source\?"):
        data.source5  # noqa: B018
    with pytest.raises(AttributeError, match=r"mvae_jax.data.rendered has no 'x'; it has binned_faces, faces, shapes"):
        rendered.x  # noqa: B018
    assert not hasattr(pyramid, "found")


def imported(file: Path) -> set[str]:
    """Modules of the room that a file imports at any depth of its code, also for types alone."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mvae_jax.data"):
            for alias in node.names:
                inner = ROOT.joinpath(*f"{node.module}.{alias.name}".split(".")[2:])
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                names.add(f"{node.module}.{alias.name}" if is_module else str(node.module))
    return names


def test_no_module_imports_one_that_imports_it():
    graph = {
        ".".join(("mvae_jax", "data", *file.relative_to(ROOT).with_suffix("").parts)): imported(file)
        for file in ROOT.rglob("*.py")
        if file.stem != "__init__"
    }
    assert len(graph) > 20
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
    assert order.index("mvae_jax.data.pyramid.reader") < order.index("mvae_jax.data.pyramid.writer")
