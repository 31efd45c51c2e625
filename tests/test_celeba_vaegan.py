"""The experiment with VAE/GAN and its family, from end to end on rendered faces."""

import dataclasses
import json

import celeba_vaegan
import jax
import numpy as np
import pytest
from commands import assert_close, check_pictures, refused, run_all

from mvae_jax import runs
from mvae_jax.data import faces
from mvae_jax.data.batches import Split, Splits
from mvae_jax.eval import attributes, fid, sharpness
from mvae_jax.eval.features import Features
from mvae_jax.models import gan, vae_gan

TINY = [
    "experiments/celeba_vaegan.py",
    "--config.models=gan,vae,vae_dis,vae_gan",
    "--config.model.image_size=32",
    "--config.model.latent_size=3",
    "--config.model.encoder_widths=4,4",
    "--config.model.encoder_hidden=16",
    "--config.model.decoder_widths=4,2",
    "--config.model.grid_width=4",
    "--config.model.discriminator_widths=2,4,4",
    "--config.model.discriminator_hidden=4",
    "--config.model.batch_size=8",
    "--config.model.epochs=2",
    "--config.data.subset_size=64",
    "--config.data.validation_fraction=0.25",
    "--config.data.calibration_size=1",
    "--config.evaluation.images=12",
    "--config.evaluation.judge_epochs=1",
    "--config.training.log_every=2",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of all four models and what the commands said."""
    folder = tmp_path_factory.mktemp("vaegan")
    run = [*TINY, "--workdir=run"]
    commands = {
        "plan": [*TINY, "--dry-run", "--workdir=none"],
        "run": run,
        "again": run,
        "changed": [*run, "--config.model.gamma=0.5"],
        "evaluated": [TINY[0], "--evaluate", "--workdir=run"],
        "some": [TINY[0], "--evaluate", "--workdir=run", "--config.models=gan"],
        "misfit": [TINY[0], "--evaluate", "--workdir=run", "--config.model.latent_size=5"],
    }
    return folder, dict(zip(commands, run_all(folder, *commands.values()), strict=True))


def test_all_models_are_trained_measured_and_drawn(trained):
    folder, results = trained
    assert results["run"]["code"] == 0
    # Samples of four, games of three, reconstructions, edits, sliders, squared errors.
    check_pictures(folder / "run", 4 + 3 + 4)
    for name in celeba_vaegan.MODELS:
        run = runs.load(folder / "run" / name)
        assert (run.settings["model"], run.step) == (name, 12)
    dis = runs.load(folder / "run" / "vae_dis")
    assert (dis.phase, dis.config.adversarial_epochs, dis.config.epochs, dis.config.margin) == ("similarity", 1, 1, 0.4)
    own, other = runs.load(folder / "run" / "vae_gan").config, runs.load(folder / "run" / "gan").config
    shared = {field.name for field in dataclasses.fields(gan.Config)} - {"margin"}
    assert all(getattr(own, name) == getattr(other, name) for name in shared)
    found = json.loads((folder / "run" / "scores.json").read_text())
    assert list(found["models"]) == list(found["stability"]) == list(celeba_vaegan.MODELS)
    assert "PSNR, dB" not in found["models"]["gan"]
    assert found["stability"]["vae"]["real_accuracy"] is None


def test_numbers_are_those_of_held_out_images(trained):
    folder = trained[0] / "run"
    data = faces.splits(42, 64, 16, 1, image_size=32, attributes=faces.ATTRIBUTES)
    x = data.validation["image"][:12] / np.float32(127.5) - 1
    (path,) = (folder / "judge").iterdir()
    read = runs.load(path).features
    scores = json.loads((folder / "scores.json").read_text())["models"]
    for name, found in scores.items():
        run = runs.load(folder / name)
        samples = run.decode(jax.random.normal(jax.random.key(42), (12, 3)))
        assert found["Frechet distance of samples"] == pytest.approx(
            fid.frechet_distance(read(samples), read(x), features=Features("")).value, rel=1e-3
        )
        assert found["sharpness of samples"] == pytest.approx(sharpness.sharpness_ratio(samples, x), rel=1e-4)
        if name != "gan":
            output = np.asarray(run.decode(run.encode(x)[0]))
            assert found["squared error per value"] == pytest.approx(np.square((x - output) / 2).mean(), rel=1e-4)


def test_attribute_vectors_are_differences_of_means(trained):
    folder = trained[0] / "run"
    data = faces.splits(42, 64, 16, 1, image_size=32, attributes=faces.ATTRIBUTES)
    run, bits = runs.load(folder / "vae_gan"), data.train["attributes"]
    config = celeba_vaegan.Config(models=("vae_gan",), model=run.config)
    found = celeba_vaegan.attribute_vectors(run, data, config)
    codes = np.asarray(run.encode(data.train["image"] / np.float32(127.5) - 1)[0])
    varied = [n for n, name in enumerate(data.attributes) if 0 < bits[:, n].sum() < len(bits)]
    assert list(found) == [data.attributes[n] for n in varied]
    for n, vector in zip(varied, found.values(), strict=True):
        np.testing.assert_allclose(vector, codes[bits[:, n] == 1].mean(0) - codes[bits[:, n] == 0].mean(0), atol=1e-5)
    # The least alike of the pairs that the report names.
    angles = np.abs(attributes.cosines(np.stack(list(found.values())))[np.triu_indices(len(found), 1)])
    assert f"{np.sort(angles)[-10]:.4g}" in (folder / "report.html").read_text().replace("-", "")


def test_of_celeba_the_attributes_of_the_paper_are_taken(trained):
    """18 of 40, by their names as `data.celeba` gives them."""
    data = faces.splits(42, 64, 16, 1, image_size=32, attributes=faces.ATTRIBUTES)
    bits = np.random.default_rng(0).integers(0, 2, (len(data.train), 20)).astype(np.float32)
    names = ("5_o_clock_shadow", *celeba_vaegan.ATTRIBUTES[::-1], "wearing_hat")
    train = Split({**data.train.arrays, "attributes": bits})
    nothing = Split({**data.calibration.first(0).arrays, "attributes": bits[:0]})
    of_celeba = Splits(train, nothing, nothing, names, {})
    run = runs.load(trained[0] / "run" / "vae_gan")
    config = celeba_vaegan.Config(models=("vae_gan",), model=run.config)
    found = celeba_vaegan.attribute_vectors(run, of_celeba, config)
    assert list(found) == list(celeba_vaegan.ATTRIBUTES)
    codes = np.asarray(run.encode(train["image"] / np.float32(127.5) - 1)[0])
    bald = bits[:, names.index("bald")] == 1
    np.testing.assert_allclose(found["bald"], codes[bald].mean(0) - codes[~bald].mean(0), atol=1e-5)


def test_a_finished_run_is_not_trained_again_and_its_numbers_come_again(trained):
    folder, results = trained
    assert (results["again"]["code"], results["changed"]["code"]) == (0, 2)
    assert "model.gamma" in results["changed"]["err"]
    assert results["evaluated"]["code"] == results["some"]["code"] == 0
    assert results["misfit"]["code"] == 2
    assert "latent_size" in results["misfit"]["err"]
    first, again = (json.loads((folder / "run" / part / "scores.json").read_text()) for part in ("", "evaluation"))
    assert list(again["models"]) == ["gan"]
    # The judge is trained anew for another folder, from the same seed.
    assert_close(again["models"]["gan"], first["models"]["gan"])


def test_a_dry_run_plans_every_model_and_makes_nothing(trained):
    folder, results = trained
    assert results["plan"]["out"].count("parameters:") == 4
    assert "adversarial: steps 0 to 6" in results["plan"]["out"]
    assert not (folder / "none").exists()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.models=vae_gan,dcgan", "expected some of gan, vae, vae_dis, vae_gan"),
        ("--config.models=gan,gan", "none twice"),
        ("--config.seed=-1", "seed is -1"),
        ("--config.evaluation.images=1", "evaluation.images is 1; expected at least 2"),
        ("--config.model.image_size=60", "image_size is 60"),
        ("--config.data.subset_size=0", "data.source is rendered; give the path of CelebA's folder or zip"),
        ("--extend", "--extend: start another workdir"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_made(argument, message, tmp_path, capsys):
    assert message in refused(capsys, celeba_vaegan, tmp_path / "run", *TINY[1:], argument)
    assert not (tmp_path / "run").exists()


def test_models_that_cannot_share_networks_are_refused():
    with pytest.raises(ValueError, match="to which the VAE is bound by encoder_widths"):
        celeba_vaegan.Config(models=("vae",), model=vae_gan.Config(grid_width=64))
    with pytest.raises(ValueError, match="expected at least 2, for vae_dis has two phases"):
        celeba_vaegan.Config(models=("vae_dis",), model=vae_gan.Config(epochs=1))
