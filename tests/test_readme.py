"""What README shows is run: its Python as it stands, on a run small enough for a test."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import celebahq_mvae
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SMALLEST = """
    --config.data.subset_size=40 --config.data.calibration_size=12 --config.model.image_size=32
    --config.model.latent_size=8 --config.model.encoder_widths=(4,8,8) --config.model.decoder_widths=(8,8,4,4)
    --config.model.decoder_hidden=16 --config.model.text_hidden=16 --config.model.discriminator_widths=(4,8,8)
    --config.model.batch_size=8 --config.model.unimodal.epochs=1 --config.model.alignment.epochs=0
    --config.model.adversarial.epochs=0
"""


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("readme")
    celebahq_mvae.main(["celebahq_mvae.py", f"--workdir={path / 'runs/celebahq_mvae'}", *SMALLEST.split()])
    return path


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.split("\n")[0])
def test_python_runs(block, workdir, monkeypatch):
    monkeypatch.chdir(workdir)
    exec(compile(block, "README.md", "exec"), {})


def test_make_targets_and_paths_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.MULTILINE):
        assert f"\n{target}:" in makefile
    for path in re.findall(r"`((?:mvae_jax|experiments|tools|tests)/[\w/.]*)`", README):
        assert (ROOT / path).exists(), path


@functools.cache
def shown(script, *command):
    """What --help of a command prints."""
    arguments = [sys.executable, ROOT / script, *command, "--help"]
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout


def test_flags_exist():
    commands = re.findall(r"python ((?:experiments|tools)/\w+\.py)((?:[^\n]|\\\n)*)", "\n".join(blocks("sh")))
    assert len(commands) > 10
    for script, arguments in commands:
        name = [] if script.startswith("experiments") else [arguments.split()[0]]
        for flag in re.findall(r"--?[a-z][\w.-]*", arguments):
            assert re.search(rf"{re.escape(flag)}[ =\]]", shown(script, *name)), f"{script} {flag}"
