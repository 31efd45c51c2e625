"""Commands as users type them, and what they left behind."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import xla_flags
from PIL import Image

from mvae_jax import experiment
from mvae_jax.experiment import listing

ROOT = Path(__file__).parent.parent

# Several commands in one process: imports and the renderer's compilation are paid once. A command begins with the name
# of an experiment's file, or with "mvae-jax".
COMMANDS = """
import contextlib, io, json, sys
from mvae_jax import experiment
from mvae_jax.__main__ import main
from mvae_jax.experiment import listing
results = []
for command, *arguments in json.loads(sys.argv[1]):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if command == "mvae-jax":
                code = main(arguments)
            else:
                experiment.run(listing.load(command.split("/")[1].removesuffix(".py")), [command, *arguments])
        except SystemExit as end:
            code = end.code or 0
    results.append({"code": code, "out": out.getvalue(), "err": err.getvalue()})
json.dump({"results": results, "tensorflow": "tensorflow" in sys.modules}, sys.stdout)
"""


def environment():
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": xla_flags.QUICK,
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def run_all(folder, *commands):
    """What each command ended with."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMMANDS, json.dumps(commands)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    result = json.loads(done.stdout)
    assert not result["tensorflow"]
    for command in result["results"]:
        assert "Traceback" not in command["err"]
    return result["results"]


def check_pictures(folder, count):
    """A report, and the figures in it, but for animations, which cannot be stopped; words instead of keys and ids."""
    page = (folder / "report.html").read_text()
    pictures = sorted((folder / "figures").iterdir())
    assert len(pictures) == count
    assert page.count("<img") + page.count('class="sliders"') == len([p for p in pictures if p.suffix != ".gif"])
    shown = re.sub(r"<(style|script|pre).*?</\1>|data:[^\"')]*|<[^>]*>", " ", page, flags=re.DOTALL)
    assert not re.search(r"\b[A-Z]{2}-\d\d\b", shown)  # ids of docs/discrepancies.md
    results, _, _ = page.partition("How it was made")
    assert not re.findall(r"<t[hd][^>]*>[^<]*_[^<]*<", results)
    assert "<td>nan" not in results
    for path in pictures:
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) > 30
            assert len(picture.convert("RGB").getcolors(2**24)) > 3


def assert_close(found, expected):
    """Equal but for rounding."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_close(*pair)
    else:
        assert found == (pytest.approx(expected, rel=1e-4, abs=1e-6) if isinstance(expected, float) else expected)


def script(name):
    """The module of an experiment's file."""
    return listing.module(ROOT / "experiments" / f"{name}.py")


def refused(capsys, name, workdir, *arguments, code=2):
    """The message with which an experiment ends, before there is a workdir."""
    with pytest.raises(SystemExit) as end:
        experiment.run(listing.load(name), [f"experiments/{name}.py", f"--workdir={workdir}", *arguments])
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (code, "")
    assert err.count("error: ") == 1
    assert "Traceback" not in err
    return err[err.index("error: ") :]
