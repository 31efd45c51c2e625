"""Nothing that a name or a message holds commands the terminal."""

import logging
import os
import sys
from pathlib import Path

import pytest
from command_lines import script

from mvae_jax import exits, experiment, terminal
from mvae_jax.__main__ import main

RED = "\x1b[31mred"
CONTROLS = "".join(map(chr, (*range(32), *range(127, 160))))


@pytest.fixture(autouse=True)
def _as_before():
    """A command sets up the program's log and what shows tracebacks."""
    root, hook = logging.getLogger(), sys.excepthook
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level, sys.excepthook = *before, hook


def test_control_characters_are_shown_as_escapes():
    assert terminal.plain("a\tb\nc é 漢 😀") == "a\tb\nc é 漢 😀"
    assert terminal.plain(RED) == "\\x1b[31mred"
    shown = terminal.plain(CONTROLS)
    assert [character for character in shown if not character.isprintable()] == ["\t", "\n"]
    assert shown.count("\\x") == len(CONTROLS) - 2
    assert terminal.plain("a\u202eb\u2066c\u2028d") == "a\\u202eb\\u2066c\\u2028d"
    assert terminal.plain(os.fsdecode(b"a\xe9")) == "a\\udce9"


def test_messages_logs_and_tracebacks_are_plain(capsys):
    terminal.start_logging(logging.INFO, "%(asctime)s %(message)s")
    logging.getLogger("somebody").info("reading %s", RED)
    try:
        raise ValueError(RED)
    except ValueError as error:
        logging.getLogger("somebody").exception("failed")
        sys.excepthook(type(error), error, error.__traceback__)
    terminal.echo(RED)
    with pytest.raises(SystemExit) as end:
        exits.fail(f"no\nfile {RED}")
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert out == "\\x1b[31mred\n"
    assert err.count("\\x1b[31mred") == 4
    assert err.endswith("error: no file \\x1b[31mred\n")
    assert err.count("Traceback (most recent call last)") == 2
    assert "\x1b" not in err


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        (Path("/none/file").read_text, "/none/file cannot be used: No such file or directory. Check this path and its"),
        (lambda: bytearray(2**62), "there is too little memory for this: ask for fewer or smaller images."),
    ],
)
def test_errors_of_the_system_say_what_to_do(fails, said, capsys):
    with pytest.raises(SystemExit) as end, exits.errors():
        fails()
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config.data.source=/none/" + RED],
        ["--config.start_from=" + RED],
        ["--evaluate"],
        ["--config." + RED + "=1"],
        [RED],
    ],
    ids=repr,
)
def test_an_experiment_shows_names_as_they_are_without_obeying_them(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    command = ["mnist_alae.py", f"--workdir={RED}", "--compilation-cache=", "--config.data.source=digits", *arguments]
    with pytest.raises(SystemExit) as end:
        experiment.run(script("mnist_alae").EXPERIMENT, command)
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert "\\x1b" in err
    assert "\x1b" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["use", "caption", RED, "photo.jpg"],
        ["compare", RED],
        ["data", "verify", RED],
        ["data", "statistics", "images" + RED],
        ["experiments", RED],
        [RED],
    ],
    ids=repr,
)
def test_so_do_commands(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / f"images{RED}"
    folder.mkdir()
    (folder / "attributes.csv").write_text(f"file,smiling\n{RED}.jpg,1\n")
    (folder / f"{RED}.jpg").write_bytes(b"no picture")
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    assert status != 0
    assert "\\x1b" in out + err
    assert "\x1b" not in out + err
