"""The script that makes the weights to start from, tried on few images: small exports that load, with sums."""

import re
import subprocess

import numpy as np
import pytest
import release_weights

from mvae_jax import runs

MODELS = [["shapes", "digits"], pytest.param(["faces"], marks=pytest.mark.slow)]  # faces compile for a minute


@pytest.fixture(scope="module")
def made(request, tmp_path_factory):
    """The names of some models, and the folder that the script wrote of them."""
    folder = tmp_path_factory.mktemp("release") / "weights"
    assert release_weights.main([str(folder), "--trial", *(f"--only={name}" for name in request.param)]) == 0
    return request.param, folder


@pytest.mark.parametrize("made", MODELS, indirect=True)
def test_a_model_is_an_export_with_a_card_and_sums(made, capsys):
    names, folder = made
    for name in names:
        release, run = release_weights.RELEASES[name], runs.load(folder / name)
        assert run.settings["model"] == release.model
        card = (folder / name / "README.md").read_text()
        assert "No image of a real person was used." in card
        assert f"- data set: {release.kind}" in card
        assert "license: apache-2.0" in card
        assert (folder / name / "functions/decode.jax").exists()
        # Nothing of the machine that trained.
        assert not re.search(r"command|/root|/home|/tmp", (folder / name / "config.json").read_text())
    listed = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stdout
    there = [path for name in names for path in (folder / name).rglob("*") if path.is_file()]
    assert listed.stdout.count(": OK") == len(there)
    assert release_weights.main([str(folder), "--check"]) == 0
    assert capsys.readouterr().out.count("<run of ") == len(names)


@pytest.mark.parametrize("made", MODELS[:1], indirect=True)
def test_a_file_that_differs_is_named(made, capsys):
    _, folder = made
    path = folder / "digits" / "README.md"
    content = path.read_text()
    try:
        path.write_text(content + "mine")
        assert release_weights.main([str(folder), "--check"]) == 1
        assert capsys.readouterr().out == "digits/README.md differs from SHA256SUMS\n"
    finally:
        path.write_text(content)


@pytest.mark.parametrize("made", MODELS[:1], indirect=True)
def test_a_model_tells_the_starts_of_its_training(made):
    """An export that is made anew of a training that has ended says what it said before."""
    _, folder = made
    before = (folder / "digits" / "config.json").read_bytes()
    starts = runs.load(folder / "digits").settings["provenance"]["starts"]
    assert len(starts) == 1
    assert "command" not in starts[0]
    assert release_weights.main([str(folder), "--trial", "--only=digits"]) == 0
    assert (folder / "digits" / "config.json").read_bytes() == before


def test_mistakes_are_one_line(tmp_path, capsys):
    weights = tmp_path / "weights"
    weights.mkdir()

    def line(*options):
        with pytest.raises(SystemExit):
            release_weights.main([str(weights), *options])
        return capsys.readouterr().err

    assert "SHA256SUMS does not exist; expected a folder of weights" in line("--check")
    (weights / "SHA256SUMS").write_text("a line\n")
    assert "has the line 'a line', expected a sum, two spaces and a name" in line("--check")
    assert "has weights that are no trials, which would be replaced" in line("--trial")


def test_full_models_keep_below_the_limit():
    """By the bytes of their parameters; functions and cards take some hundred kilobytes."""
    for release in release_weights.RELEASES.values():
        model = runs.ZOO[release.model].build(config := release.config(False))
        shape = (1, config.image_size, config.image_size, getattr(config, "channels", 3))
        batch = {"image": np.zeros(shape, np.uint8), "attributes": np.zeros((1, 10), np.float32)}
        params, _ = release_weights.jax.eval_shape(model.init, release_weights.jax.random.key(0), batch)
        size = 4 * sum(leaf.size for leaf in release_weights.jax.tree.leaves(params))
        assert size < 0.9 * release_weights.MOST_BYTES
