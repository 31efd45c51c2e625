"""Learned priors that are exported with their models."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from exported_models import card_program, forge, prior_of, run_alone, run_of
from safetensors.numpy import load_file

from mvae_jax import runs
from mvae_jax.experiment import prior
from mvae_jax.export import folder as folders

BITS = np.float32(np.arange(30).reshape(3, 10) % 3 == 0)


def taken_along(folder, name="cvae", **options):
    return run_of(name).export(folder, prior=prior_of(name), **options)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A CVAE with its prior, and with functions of both."""
    return taken_along(tmp_path_factory.mktemp("exports") / "cvae", license="apache-2.0")


def test_an_exported_prior_draws_the_same_bits(exported):
    run, trained = runs.load(exported), prior.Prior(prior_of("cvae"))
    loaded, key = prior.load(exported, run), jax.random.key(1)
    for known in (np.ones_like(BITS), BITS):
        drawn = trained.sample(key, BITS, known, guidance=2.0)
        np.testing.assert_array_equal(loaded.sample(key, BITS, known, guidance=2.0), drawn)
    np.testing.assert_array_equal(loaded.sample_freely(key, 3), trained.sample_freely(key, 3))
    assert run.decode(drawn, BITS).shape == (3, 18, 14, 3)
    assert str(loaded) == "the learned prior over codes (latent_flow, step 5)"
    assert runs.load(exported / "latent_flow").step == 5  # as any export


def test_an_export_of_an_export_is_the_same(exported, tmp_path):
    run = runs.load(exported)
    again = run.export(tmp_path / "again", prior=prior.load(exported, run).run, license="apache-2.0")
    for name in ("export.json", "latent_flow/export.json", "latent_flow/weights.safetensors", "README.md"):
        assert (again / name).read_bytes() == (exported / name).read_bytes()


def test_codes_are_drawn_in_jax_alone(exported):
    function = jax.export.deserialize(bytearray((exported / "latent_flow/functions/codes_of_noise.jax").read_bytes()))
    weights, noise = load_file(exported / "latent_flow/weights.safetensors"), np.random.default_rng(1)
    noise = noise.normal(size=(3, 4)).astype(np.float32)
    for guidance in np.float32([1, 2]):
        expected = prior_of("cvae").codes_of_noise(noise, BITS, np.ones_like(BITS), guidance)
        codes = function.call(weights, noise, BITS, np.ones_like(BITS), guidance)
        np.testing.assert_allclose(codes, expected, rtol=1e-4, atol=1e-5)
    signature = json.loads((exported / "latent_flow/export.json").read_text())["functions"]["codes_of_noise"]
    assert signature["arguments"] == {
        **{"noise": "float32[batch,4]", "attributes": "float32[batch,10]", "known": "float32[batch,10]"},
        "guidance": "float32[]",
    }


PRINT = "\nprint(json.dumps([np.asarray(x).tolist() for x in (noise, attributes, codes, result)]))\n"


def test_the_program_of_the_card_draws_images_in_jax_alone(tmp_path, exported):
    """With attributes that the training examples have."""
    printed = json.loads(run_alone(card_program(exported) + PRINT, exported, tmp_path))
    noise, attributes, codes, images = (np.float32(array) for array in printed)
    assert np.abs(noise[0] - noise[1]).min() > 0
    kept = np.asarray(prior_of("cvae").model_state["flow"]["attributes"])
    assert all((kept == row).all(1).any() for row in attributes)
    drawn = prior_of("cvae").codes_of_noise(noise, attributes, np.ones_like(attributes), np.float32(1))
    np.testing.assert_allclose(drawn, codes, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(runs.load(exported).decode(codes, attributes), images, rtol=1e-4, atol=1e-5)


def test_a_prior_of_codes_without_attributes_needs_none(tmp_path):
    folder = taken_along(tmp_path / "vae", "vae")
    assert "attributes = known = np.zeros((4, 0), np.float32)\ncodes = codes_of_noise(" in card_program(folder)
    signature = json.loads((folder / "latent_flow/export.json").read_text())["functions"]["codes_of_noise"]
    assert signature["arguments"]["known"] == "float32[batch,0]"


def test_both_cards_say_what_lies_where(exported):
    text = (exported / "README.md").read_text()
    assert "`latent_flow/` has a prior that was learned over the codes of the training images, given attributes" in text
    text = (exported / "latent_flow/README.md").read_text()
    assert "license: apache-2.0" in text
    assert "Noise is from N(0, I)." in text


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "export.json"])
def test_damage_of_the_prior_is_noticed(name, tmp_path):
    folder = taken_along(tmp_path / "cvae", with_functions=False)
    path = folder / "latent_flow" / name
    path.write_bytes(path.read_bytes().replace(b"3", b"4", 1))
    with pytest.raises(ValueError, match=rf"latent_flow/{re.escape(name)} (is not as it|was changed since )"):
        prior.load(folder, runs.load(folder))
    with pytest.raises(ValueError, match=f"latent_flow/{re.escape(name)} is not as it was exported"):
        folders.verify(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"latent_flow/{re.escape(name)} does not exist"):
        prior.load(folder, runs.load(folder))


def test_functions_may_be_missing_as_a_whole_and_nothing_else(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "cvae")
    shutil.rmtree(folder / "latent_flow/functions")
    folders.verify(folder)
    (folder / "latent_flow/README.md").unlink()
    with pytest.raises(ValueError, match=r"latent_flow/README.md is not as it was exported"):
        folders.verify(folder)


def test_what_lies_in_an_export_besides_is_no_part_of_it(exported, tmp_path):
    folder = run_of("cvae").export(tmp_path / "cvae", with_functions=False)
    shutil.copytree(exported / "latent_flow", folder / "latent_flow")
    assert prior.load(folder, runs.load(folder)) is None


OTHERS = [
    ("latent_flow", "a run of 'latent_flow' over codes of 6 dimensions, given 10 attributes; expected one"),
    ("vae", "a run of 'vae'; expected one of 'latent_flow' over codes of 4 dimensions, given the 10 attributes"),
]


@pytest.mark.parametrize(("name", "message"), OTHERS)
def test_a_prior_over_other_codes_is_refused(name, message, tmp_path):
    """When it is exported, and when somebody has put it into an export and computed all sums anew."""
    with pytest.raises(ValueError, match=f"prior is {message}"):
        run_of("cvae").export(tmp_path / "refused", prior=run_of(name))
    assert not (tmp_path / "refused").exists()
    folder = taken_along(tmp_path / "cvae", with_functions=False)
    shutil.rmtree(folder / "latent_flow")
    run_of(name).export(folder / "latent_flow", with_functions=False)
    forge(folder)
    with pytest.raises(ValueError, match=f"latent_flow is {message}"):
        prior.load(folder, runs.load(folder))


def test_no_prior_is_trained_in_an_export(exported):
    with pytest.raises(ValueError, match="is an exported model, which has no checkpoints to train from"):
        prior.train(exported, {"image": np.zeros((20, 18, 14, 3), np.uint8)})
