"""docs/discrepancies.md defines the ids that the code names, and the settings that it points at exist."""

import ast
import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest

from mvae_jax.models import ZOO

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "discrepancies.md").read_text()
ID = re.compile(r"\b[A-Z]{2}-(?:\d\d|B\d)\b")
ROWS = [re.split(r"\s*\|\s*", line.strip("| ")) for line in PAGE.splitlines() if re.match(r"\| [A-Z]{2}-", line)]


def fields_of(config):
    """Names of the fields of a dataclass, and of those that are its values."""
    for field in dataclasses.fields(config):
        yield field.name
        value = getattr(config, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(item):
                yield from fields_of(item)


def settings_fields():
    """Names of the annotated fields of all classes in the rooms that read data sets and run experiments."""
    for room in ("mvae_jax/data", "mvae_jax/experiment", "experiments"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    yield from (item.target.id for item in node.body if isinstance(item, ast.AnnAssign))


KNOWN = {name for entry in ZOO.values() for name in fields_of(entry.config())} | set(settings_fields())


def test_code_and_page_name_the_same_ids():
    files = [path for room in ("mvae_jax", "experiments", "tools") for path in (ROOT / room).rglob("*.py")]
    named = {number for path in files for number in ID.findall(path.read_text())}
    assert len(named) > 30
    assert named == {row[0] for row in ROWS}


def test_tests_name_no_other_ids():
    named = {number for path in (ROOT / "tests").rglob("*.py") for number in ID.findall(path.read_text())}
    assert named <= {row[0] for row in ROWS}


def test_every_id_is_defined_once_and_in_full():
    numbers = [row[0] for row in ROWS]
    assert len(set(numbers)) == len(numbers)
    assert all(len(row) == 6 and all(row) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_what_chooses_exists(row):
    """A field's name, `room.module.name`, or `room.module.function(argument)`."""
    choices = re.findall(r"`([^`]+)`", row[-1])
    assert choices or row[-1] == "—"
    for choice in choices:
        path, argument = re.fullmatch(r"([\w.]+?)(?:\((\w+)\))?", choice).groups()
        if "." not in path:
            assert path in KNOWN, path
            continue
        room, module, *names = path.split(".")
        value = importlib.import_module(f"mvae_jax.{room}.{module}")
        for name in names:
            value = getattr(value, name)
        assert argument is None or argument in inspect.signature(value).parameters
