"""The versions that `make LOCKED=1` installs: all dependencies of pyproject.toml, for each supported Python."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSIONS = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))


def pinned(version):
    lines = (ROOT / "constraints" / f"py{version.replace('.', '')}.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): number for name, number in pairs}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_dependency_is_pinned_within_its_bounds(version):
    pins = pinned(version)
    extras = PROJECT["optional-dependencies"]
    for text in (*PROJECT["dependencies"], *extras["test"], *extras["export"], *extras["hub"]):
        requirement = Requirement(text)
        if requirement.name != "mvae-jax":
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), text
    assert "mvae-jax" not in pins


def test_make_takes_the_file_of_its_python():
    command = ["make", "-n", "train", "LOCKED=1", "VENV=nowhere"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(r"pip install .*--constraint constraints/py3\d+\.txt .*--editable", shown)
    assert "nowhere/installed-locked" in shown
    plain = subprocess.run([*command[:3], *command[4:]], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "constraint" not in plain


def test_make_says_that_the_installation_is_silent_and_takes_time_before_it_begins():
    shown = subprocess.run(["make", "-n", "test", "VENV=nowhere"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0 < shown.stdout.index("packages are installed into nowhere") < shown.stdout.index("pip install")
