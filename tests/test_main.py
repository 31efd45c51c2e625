"""The table of commands behind `mvae-jax`."""

import importlib
import json
import re
import subprocess
import sys

import pytest

import mvae_jax
from mvae_jax.__main__ import COMMANDS, main


@pytest.fixture
def command(capsys):
    def command(*arguments):
        """Exit status, output and messages."""
        try:
            status = main(arguments)
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return command


def test_help_lists_every_command(command):
    status, out, err = command("--help")
    assert (status, err) == (0, "")
    words = " ".join(out.split())  # lines break anywhere
    assert " ".join(f"{name} {command.summary}" for name, command in COMMANDS.items()) in words


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_a_module_with_main_and_help(name, command):
    assert callable(importlib.import_module(COMMANDS[name].module).main)
    status, out, err = command(name, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: mvae-jax {name} ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["train"], "invalid choice: 'train'"),
        (["--verbose"], "the following arguments are required: COMMAND"),
        (["use", "generate"], "the following arguments are required: workdir, caption"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_end_with_one_line(arguments, message, command):
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "mvae-jax" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["use", "generate", "none", "a man", "-o"],
        ["data", "preview", "none", "-o"],
        ["data", "catalogue", "none"],
        ["data", "pyramid", "none"],
        ["compare", "none", "--output"],
        ["export", "none"],
        ["pull", "owner/none"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            "file.png/within.png",
            "{root}/file.png/within.png cannot be written, for {root}/file.png is no folder: choose",
        ),
        ("~nobody-of-this-name/a.png", "~nobody-of-this-name/a.png leads nowhere"),
        ("\0.png", "has a null byte: give that of a file or folder"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_what_is_read(
    arguments, output, message, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.png").write_text("mine")
    status, out, err = command(*arguments, output)
    assert (status, out) == (2, "")
    assert message.format(root=tmp_path) in err
    assert "none" not in err.replace(output, "")
    assert [path.name for path in tmp_path.iterdir()] == ["file.png"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["use", "caption", "{path}", "face.png"],
        ["data", "verify", "{path}"],
        ["compare", "{path}"],
        ["export", "{path}", "taken"],
        ["push", "{path}", "owner/name"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("path", ["", "~nobody-of-this-name/run"])
def test_an_input_that_leads_nowhere_is_refused_in_a_sentence(arguments, path, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = command(*(argument.format(path=path) for argument in arguments))
    assert (status, out) == (2, "")
    assert re.search(
        rf"{path} leads nowhere \(.*\): choose another path" if path else "is empty(: give|; expected)", err
    )


def test_a_comparison_of_one_model_names_the_run_of_its_experiment(command, tmp_path):
    root = tmp_path / "root"
    for folder, of in ((root, {"experiment": "celeba_vae"}), (root / "models/vae", {})):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"format": 2, "model": "vae", "config": {"model": {}}, **of}))
    status, _, err = command("compare", str(root / "models/vae"))
    assert status == 2
    assert f"is a run of one model, and runs of experiments are compared: give {root}, with all of its models" in err
    status, _, err = command("compare", str(root / "models"))
    assert status == 2
    assert f"It holds runs of its own: vae. Give one of them, such as {root}/models/vae." in err


QUICK = """
import sys
from mvae_jax.__main__ import main
try:
    main(["--help"])
except SystemExit:
    print(*sorted({name.split(".")[0] for name in sys.modules}))
"""


def test_help_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-W", "error", "-c", QUICK], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "mvae_jax" in loaded
    assert not loaded & {"sklearn", "matplotlib", "tensorflow_datasets", "tensorflow", "jax", "flax", "numpy", "PIL"}


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "mvae_jax", "--version"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"mvae-jax {mvae_jax.__version__}\n", "")
    done = subprocess.run([sys.executable, "-m", "mvae_jax", "nothing"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
