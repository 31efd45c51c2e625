"""The experiment with VAE/GAN and its family, from end to end on rendered faces."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from command_lines import assert_close, check_pictures, refused, run_all, script
from PIL import Image

from mvae_jax import runs
from mvae_jax.data.rendered import faces
from mvae_jax.eval import directions, fid, sharpness
from mvae_jax.eval.features import Features
from mvae_jax.experiment.suites.adversarial import TITLES
from mvae_jax.experiment.suites.priors import PRIORS
from mvae_jax.models import vae_gan

pytestmark = pytest.mark.slow  # trains a whole experiment

SCRIPT = script("celeba_vaegan")
TINY = [
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
    "--config.classifier.epochs=1",
    "--config.prior.epochs=1",
    "--config.evaluation.images=12",
    "--config.training.log_every=2",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The workdir of a run of all four models, of which one was measured again."""
    folder, name = tmp_path_factory.mktemp("vaegan"), "experiments/celeba_vaegan.py"
    results = run_all(
        folder,
        [name, *TINY, "--workdir=run"],
        [name, "--evaluate", "--workdir=run", "--config.models=gan"],
    )
    for result in results:
        assert result["code"] == 0, result["err"]
    return folder / "run"


@pytest.fixture(scope="module")
def data():
    """The images of the run."""
    return faces.splits(42, 64, 16, 1, image_size=32, attributes=faces.ATTRIBUTES)


def test_all_models_are_trained_measured_and_drawn(trained):
    # Samples of four, players of three, reconstructions, edits, sliders, squared errors; draws of priors of the three
    # that encode, and from captions with guidance and without.
    check_pictures(trained, 4 + 3 + 4 + 3 + 2)
    for name in TITLES:
        run = runs.load(trained / name)
        assert (run.settings["model"], run.step) == (name, 12)
    dis = runs.load(trained / "vae_dis")
    assert (dis.phase, dis.config.adversarial_epochs, dis.config.epochs, dis.config.margin) == ("similarity", 1, 1, 0.4)
    first, other = runs.load(trained / "vae_gan").config, runs.load(trained / "gan").config
    shared = {field.name for field in dataclasses.fields(vae_gan.GANConfig)} - {"margin"}
    assert all(getattr(first, name) == getattr(other, name) for name in shared)
    scores = json.loads((trained / "scores.json").read_text())
    assert list(scores["models"]) == list(scores["stability"]) == list(TITLES)
    assert "psnr" not in scores["models"]["gan"]
    assert list(scores["priors"]) == [name for name in TITLES if name != "gan"]
    for rows in scores["priors"].values():
        assert list(rows) == [name for name in PRIORS if name != "text_posterior"]
    assert scores["stability"]["vae"]["real_accuracy"] is None
    report = (trained / "report.html").read_text()
    for title in TITLES.values():
        for problem in scores["stability"]["gan"]["problems"]:
            assert f"GAN: {problem}" in report
        assert title in report


def test_numbers_are_those_of_held_out_images(trained, data):
    x = data.validation["image"][:12] / np.float32(127.5) - 1
    (path,) = (trained / "classifier").iterdir()
    read = runs.load(path).features
    scores = json.loads((trained / "scores.json").read_text())["models"]
    for name, row in scores.items():
        run = runs.load(trained / name)
        samples = run.decode(jax.random.normal(jax.random.key(42), (12, 3)))
        assert row["frechet_distance_of_samples"] == pytest.approx(
            fid.frechet_distance(read(samples[:6]), read(x[6:]), features=Features("")).value, rel=1e-3
        )
        assert row["sharpness_of_samples"] == pytest.approx(sharpness.sharpness_ratio(samples, x), rel=1e-4)
        if name != "gan":
            output = np.asarray(run.decode(run.encode(x)[0]))
            assert row["squared_error"] == pytest.approx(np.square((x - output) / 2).mean(), rel=1e-4)
            distance = fid.frechet_distance(read(output[:6]), read(x[6:]), features=Features("")).value
            assert row["frechet_distance_of_reconstructions"] == pytest.approx(distance, rel=1e-3)
    # Six images in 128 features.
    report = (trained / "report.html").read_text()
    assert "The Frechet distance compares 6 images in 128 features" in report
    assert "accuracy of the classifier" in report


def test_cosines_are_those_of_differences_of_means(trained, data):
    run, bits = runs.load(trained / "vae_gan"), data.train["attributes"]
    codes = np.asarray(run.encode(data.train["image"] / np.float32(127.5) - 1)[0])
    varied = [n for n in range(len(data.attributes)) if 0 < bits[:, n].sum() < len(bits)]
    vectors = [codes[bits[:, n] == 1].mean(0) - codes[bits[:, n] == 0].mean(0) for n in varied]
    cosines = np.abs(directions.cosines(np.stack(vectors))[np.triu_indices(len(varied), 1)])
    pairs = json.loads((trained / "scores.json").read_text())["attribute_vectors"]["cosines"]
    np.testing.assert_allclose([abs(pair["cosine"]) for pair in pairs], np.sort(cosines)[::-1], atol=1e-4)
    # The ten least alike are in the report.
    report = (trained / "report.html").read_text()
    assert [f"{pair['cosine']:.3f}" in report for pair in pairs[:10]] == [True] * 10


def test_edits_are_read_by_the_classifier(trained, data):
    run, bits, x = runs.load(trained / "vae_gan"), data.train["attributes"], data.train["image"]
    (path,) = (trained / "classifier").iterdir()
    read = runs.load(path).logits
    held_out = data.validation.first(12)
    codes, z = (np.asarray(run.encode(part / np.float32(127.5) - 1)[0]) for part in (x, held_out["image"]))
    edits = json.loads((trained / "scores.json").read_text())["attribute_vectors"]["edits"]
    report, before = (trained / "report.html").read_text(), np.asarray(read(run.decode(z))) > 0
    right = (read(data.validation["image"] / np.float32(127.5) - 1) > 0) == data.validation["attributes"]
    assert len(edits) > 5
    for name, row in edits.items():
        n = data.attributes.index(name)
        vector = codes[bits[:, n] == 1].mean(0) - codes[bits[:, n] == 0].mean(0)
        lacking = held_out["attributes"][:, n] == 0
        after = np.asarray(read(run.decode(z + vector))) > 0
        assert row["images"] == lacking.sum()
        # A logit that is nearly 0 may fall on either side.
        assert row["read_before"] == pytest.approx(before[lacking, n].mean(), abs=1.5 / lacking.sum())
        assert row["read_after"] == pytest.approx(after[lacking, n].mean(), abs=1.5 / lacking.sum())
        assert row["classifier_accuracy"] == pytest.approx(right[:, n].mean(), abs=1.5 / len(right))
        assert name.replace("_", " ") in report
    assert "recall of the classifier" in report


def test_some_of_the_models_may_be_measured_again(trained):
    first, again = (json.loads((trained / part / "scores.json").read_text()) for part in ("", "evaluation"))
    assert list(again["models"]) == ["gan"]
    assert again["attribute_vectors"] == {"cosines": [], "edits": {}}
    assert_close(again["models"]["gan"], first["models"]["gan"])


def test_images_alone_will_do(data, tmp_path):
    """Without attributes there is no classifier: what needs one is left out, and the report says so."""
    for number, image in enumerate(data.train["image"]):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    of_faces = ("data.subset_size", "data.calibration_size", "classifier.epochs", "models")
    arguments = [
        argument for argument in TINY if not argument.startswith(tuple(f"--config.{name}" for name in of_faces))
    ]
    name = "experiments/celeba_vaegan.py"
    (result,) = run_all(tmp_path, [name, *arguments, f"--config.data.source={tmp_path}", "--workdir=run"])
    assert result["code"] == 0, result["err"]
    check_pictures(tmp_path / "run", 4 + 1)  # samples, players, reconstructions, squared errors; draws of the prior
    scores = json.loads((tmp_path / "run/scores.json").read_text())
    keys = {"sharpness_of_samples", "sharpness_of_reconstructions", "squared_error", "psnr"}
    assert set(scores["models"]["vae_gan"]) == keys
    assert scores["attribute_vectors"] == {"cosines": [], "edits": {}}
    report = (tmp_path / "run/report.html").read_text()
    assert "no attributes, so no classifier of them compares sets of images" in report
    assert "Frechet" not in report


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.models=vae_gan,dcgan", "expected some of gan, vae, vae_dis, vae_gan"),
        ("--config.models=gan,gan", "none twice"),
        ("--config.evaluation.images=1", "evaluation.images is 1; expected at least 4"),
        ("--config.model.image_size=60", "image_size is 60"),
        ("--config.classifier.epochs=0", "expected at least 1 epoch, or the folder of a classifier"),
        ("--config.data.validation_fraction=0.1", "there are 6 held-out images; expected at least 8"),
    ],
)
def test_bad_arguments_are_refused_before_there_is_a_workdir(argument, message, tmp_path, capsys):
    assert message in refused(capsys, "celeba_vaegan", tmp_path / "run", *TINY, argument)
    assert not (tmp_path / "run").exists()


def test_models_that_cannot_share_networks_are_refused():
    with pytest.raises(ValueError, match="to which the VAE is bound by encoder_widths"):
        SCRIPT.Config(models=("vae",), model=vae_gan.VAEGANConfig(grid_width=64))
    with pytest.raises(ValueError, match="expected at least 2, for vae_dis has two phases"):
        SCRIPT.Config(models=("vae_dis",), model=vae_gan.VAEGANConfig(epochs=1))
