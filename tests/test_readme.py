"""What README and pages name is there: models, experiments, targets of make, paths, flags."""

import contextlib
import functools
import importlib
import io
import re
from pathlib import Path

import pytest

from mvae_jax import __main__, experiment
from mvae_jax.experiment import listing
from mvae_jax.models import ZOO

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [README, *(path.read_text() for path in sorted((ROOT / "docs").rglob("*.md")))]


def blocks(language):
    """Blocks of README and of all pages, each once."""
    found = re.findall(rf"^```{language}\n(.*?)```", "\n".join(PAGES), re.DOTALL | re.MULTILINE)
    return list(dict.fromkeys(found))


def test_the_table_of_the_zoo_names_every_model_and_an_experiment_that_trains_it():
    table = README.split("## The zoo")[1].split("\n## ")[0]
    rows = re.findall(r"^\| \[`(\w+)`\]\(([^)]+)\)([^|]*) \|[^|]*\| ([^|]*) \|", table, re.MULTILINE)
    assert sorted(name for name, *_ in rows) == sorted(ZOO)
    shown = re.findall(r"\[`(\w+)`\]\([^)]+\)<br>!\[[^\]]+\]\(docs/images/zoo/(\w+)\.webp\)", table)
    assert all(name == picture for name, picture in shown)
    assert {name for name, _ in shown} == {path.stem for path in (ROOT / "docs" / "images" / "zoo").iterdir()}
    for name, page, _, scripts in rows:
        assert f"`{name}`" in (ROOT / page).read_text(), name
        for script in re.findall(r"`(\w+\.py)`", scripts):
            assert (ROOT / "experiments" / script).exists(), script


def test_make_targets_and_paths_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.MULTILINE):
        assert f"\n{target}:" in makefile
    for path in re.findall(r"`((?:mvae_jax|experiments|tools|tests)/[\w/.]*)`", "\n".join(PAGES)):
        assert (ROOT / path).exists(), path


@functools.cache
def shown(main, *arguments):
    """What --help of a command prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit, match="0"):
        main([*arguments, "--help"])
    return output.getvalue()


def run_experiment(arguments):
    experiment.run(listing.load(arguments[0]), arguments)


def test_flags_exist():
    text = "\n".join(blocks("sh"))
    rest = r"((?:[^\n]|\\\n)*)"
    calls = [
        ((run_experiment, name), given) for name, given in re.findall(rf"python experiments/(\w+)\.py{rest}", text)
    ]
    tools = re.findall(rf"python tools/(\w+)\.py{rest}", text)
    calls += [((importlib.import_module(name).main,), given) for name, given in tools]
    commands = re.findall(rf"mvae-jax (\w+) (\w+){rest}", text)
    calls += [((__main__.main, *names), given) for *names, given in commands]
    assert len(calls) > 20
    for command, given in calls:
        for flag in re.findall(r"(?<!\S)--?[a-z][\w.-]*", given):
            assert re.search(rf"{re.escape(flag)}[ =\]]", shown(*command)), f"{command} {flag}"
