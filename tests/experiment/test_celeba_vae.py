"""The experiment with the autoencoders of Schik's overview, from end to end on rendered faces."""

import json

import numpy as np
import pytest
from command_lines import check_pictures, refused, run_all, script
from PIL import Image

from mvae_jax import runs
from mvae_jax.experiment.suites import autoencoders as suite
from mvae_jax.models import autoencoders

pytestmark = pytest.mark.slow  # trains a whole experiment

TINY = [
    "experiments/celeba_vae.py",
    "--config.model.image_size=32",
    "--config.model.widths=4,4,4,4",
    "--config.model.latent_size=4",
    "--config.model.batch_size=8",
    "--config.model.epochs=1",
    "--config.total_correlation_weights=3.0",
    "--config.data.subset_size=64",
    "--config.data.validation_fraction=0.25",
    "--config.data.calibration_size=1",
    "--config.evaluation.samples=2",
    "--config.evaluation.images=4",
    "--config.classifier.epochs=1",
]
MODELS = {"autoencoder": "autoencoder", "vae": "vae", "beta_vae_5": "beta_vae", "beta_tcvae_3": "beta_tcvae"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run and what the commands said."""
    folder = tmp_path_factory.mktemp("autoencoders")
    run = [*TINY, "--workdir=run"]
    commands = {"run": run, "elsewhere": [TINY[0], "--evaluate", "--workdir=run", "--config.data.seed=7"]}
    return folder, dict(zip(commands, run_all(folder, *commands.values()), strict=True))


def test_all_models_are_trained_measured_and_drawn(trained):
    folder, results = trained
    assert results["run"]["code"] == 0
    check_pictures(folder / "run", 19)
    for label, name in MODELS.items():
        assert runs.load(folder / "run" / label).settings["model"] == name
    assert runs.load(folder / "run" / "beta_tcvae_3").config.total_correlation_weight == 3.0
    # 5 * 2 * scale^2 * 4 / (32 * 32 * 3), with a scale of 1 / sqrt(2)
    assert "beta_vae_5: kl weighs 5, which is 0.00651 per dimension and pixel value" in results["run"]["err"]
    scores = json.loads((folder / "run" / "scores.json").read_text())
    assert list(scores["models"]) == list(MODELS)
    assert set(scores["models"]["vae"]) == set(suite.WORDS)
    assert set(scores["models"]["autoencoder"]) == {"psnr", "ssim", "squared_error"}
    for label in list(MODELS)[1:]:
        row = scores["models"][label]
        # 2 samples bound log p(x) from below, so with the ELBO of the same ones, up to the noise of their weights.
        assert row["bound"] == pytest.approx(row["elbo"], abs=2)
        assert 0 <= row["active_dimensions"] <= 4
        # Over training images the one, over held-out ones the other.
        assert row["dependence"] + row["dimension_wise_kl"] == pytest.approx(row["kl"], rel=0.5, abs=0.01)
    assert list(scores["samples"]) == ["autoencoder", "autoencoder_fitted", *list(MODELS)[1:], "training_images"]
    assert all(row["frechet_distance"] > 0 for row in scores["samples"].values())
    assert "The Frechet distance compares 16 images in 128 features" in results["run"]["err"]
    assert all(list(row) == list(MODELS) for row in scores["common_features"].values())
    # 5 * 2 * scale^2 * 4 / (32 * 32 * 3), with a scale of 1 / sqrt(2)
    assert scores["divergence_weights"]["beta_vae_5"] == {"kl": {"weight": 5.0, "effective": pytest.approx(20 / 3072)}}


def test_squared_error_and_psnr_tell_the_same(trained):
    scores = json.loads((trained[0] / "run" / "scores.json").read_text())
    for row in scores["models"].values():  # the mean of logarithms is at least the logarithm of the mean
        assert row["psnr"] >= -10 * np.log10(row["squared_error"]) - 1e-3


def test_traversals_move(trained):
    with Image.open(trained[0] / "run" / "figures" / "traversals_vae_animated.gif") as animation:
        assert animation.n_frames == 10  # six values, there and back
        frames = []
        for frame in range(animation.n_frames):
            animation.seek(frame)
            frames.append(np.asarray(animation.convert("RGB")))
    assert all((frames[frame] == frames[-frame]).all() for frame in range(1, 5))
    assert (frames[0] != frames[5]).any()


@pytest.mark.parametrize(("preset", "output"), [("laptop", "sigmoid"), ("paper", "sigmoid"), ("reference", "linear")])
def test_the_autoencoder_is_bounded_as_the_others_are_but_in_the_reference(preset, output):
    module = script("celeba_vae")
    models = module.models_of(module.EXPERIMENT.presets[preset])
    assert models["autoencoder"][1].output == output
    assert autoencoders.AutoencoderConfig.reference().output == "linear"


def test_other_images_are_noted(trained):
    folder, results = trained
    note = "These are other images than those of the run, which may have been trained on some of them."
    assert note in results["elsewhere"]["err"]
    assert note not in results["run"]["err"]
    with pytest.raises(FileNotFoundError, match=r"its own: autoencoder, beta_tcvae_3, beta_vae_5, classifier/.*, vae"):
        runs.load(folder / "run")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.model.widths=4,4", "image_size is 32; expected 8 for 2 widths"),
        ("--config.beta=-1.0", "beta is -1.0; expected at least 0"),
        ("--config.autoencoder_output=tanh", "output is 'tanh'; choose one of 'linear', 'sigmoid'"),
        ("--config.total_correlation_weights=5.0,5.0000001", "none twice to six digits"),
        ("--config.total_correlation_weights=1,2,3,4,5,6,7,8", "expected at most 7"),
        ("--config.data.subset_size=0", "data.source is rendered faces; give the path of CelebA's folder or zip"),
        ("--config.data.validation_fraction=0.02", "there are 1 held-out images of 32 px to measure on"),
        ("--config.evaluation.samples=0", "evaluation.samples is 0; expected at least 1"),
    ],
)
def test_mistakes_end_with_a_message_before_anything_is_made(tmp_path, capsys, argument, message):
    assert message in refused(capsys, "celeba_vae", tmp_path / "run", *TINY[1:], argument)
    assert not (tmp_path / "run").exists()
