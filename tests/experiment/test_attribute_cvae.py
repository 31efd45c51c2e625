"""The attribute CVAE from end to end, on rendered faces and on birds made on the spot."""

import json

import numpy as np
import pytest
from command_lines import check_pictures, refused
from published import write_celeba, write_cub

from mvae_jax import experiment, runs
from mvae_jax.data.rendered import faces
from mvae_jax.experiment import listing

pytestmark = pytest.mark.slow  # trains a whole experiment

TINY = [
    "--compilation-cache=",
    "--config.model.latent_size=4",
    "--config.model.widths=4",
    "--config.model.epochs=1",
    "--config.betas=0.25,0.9",
    "--config.classifier.image_size=16",
    "--config.classifier.epochs=1",
]
FACES = [
    "--config.model.image_size=32,32",
    "--config.data.subset_size=80",
    "--config.data.validation_fraction=0.2",
    "--config.data.calibration_size=1",
]


def run(capsys, *arguments):
    """What a command writes to standard error."""
    experiment.run(listing.load("attribute_cvae"), ["experiments/attribute_cvae.py", *TINY, *arguments])
    return capsys.readouterr().err


def scores_of(folder):
    return json.loads((folder / "scores.json").read_text())


def sentence(scores):
    """Whether the paper's orderings hold on held-out images, in words."""
    kept = scores["terms"]["orderings"]["held_out"]
    falls, rises = ("yes" if kept[name] else "no" for name in ("squared_error_falls", "kl_rises"))
    return f"As beta falls, on held-out images, the squared error falls: {falls} and the KL rises: {rises}."


def test_a_cvae_for_each_beta_is_trained_measured_and_drawn(tmp_path, capsys):
    workdir = tmp_path / "run"
    log = run(capsys, *FACES, f"--workdir={workdir}")
    check_pictures(workdir, 13)
    assert "beta_0.9: kl weighs 9, which is 0.0117 per dimension and pixel value" in log  # 9 * 4 / (32 * 32 * 3)
    scores = scores_of(workdir)
    labels = ["beta_0.9", "beta_0.25"]
    assert [runs.load(workdir / label).config.beta for label in labels] == [0.9, 0.25]
    for images in ("held_out", "training"):
        rows = scores["terms"][images]
        assert list(rows) == labels
        assert all(row["squared_error"] == pytest.approx(3072 * row["mean_squared_error"]) for row in rows.values())
    held_out = faces.splits(42, 80, 16, 1, image_size=32).validation["attributes"]
    majority = np.maximum(held_out.mean(0), 1 - held_out.mean(0)).mean()
    assert list(scores["agreements"]) == ["held_out", *labels]
    for agreement in scores["agreements"].values():
        assert agreement["attributes"]["count"] == 16
        assert agreement["attributes"]["majority_accuracy"] == pytest.approx(majority)
        assert agreement["species"] is None
    assert list(scores["probe"]) == labels
    probed = scores["probe"]["beta_0.25"]["balanced_accuracy"]
    assert f"a linear probe reads from z of beta 0.25: balanced accuracy {probed:.3f}" in log
    report = (workdir / "report.html").read_text()
    assert "all images are resized to 16 x 16 pixels" in report
    assert sentence(scores) in report
    assert sentence(scores) in log
    assert "only orderings can be compared" not in report  # the paper has no numbers of such images
    accuracy = scores["agreements"]["beta_0.9"]["attributes"]["accuracy"]
    assert f"the classifier reads samples of beta 0.9: accuracy {accuracy:.3f}" in log
    row = scores["terms"]["held_out"]["beta_0.9"]
    line = f"beta 0.9, held-out images: squared error {row['squared_error']:.1f}, KL {row['kl']:.2f} nats"
    assert line in log

    # One of the models again, without a classifier: the same numbers but for what needs the others.
    log = run(capsys, "--evaluate", f"--workdir={workdir}", "--config.classifier.epochs=0", "--config.betas=0.9")
    again = scores_of(workdir / "evaluation")
    assert again["terms"]["held_out"]["beta_0.9"] == pytest.approx(row, rel=1e-4)
    assert (list(again["terms"]["held_out"]), again["terms"]["orderings"], again["agreements"]) == (
        ["beta_0.9"],
        {},
        {},
    )
    assert line in log
    assert "No attribute classifier" in (workdir / "evaluation" / "report.html").read_text()

    # A CVAE reads no attributes.
    other = [*FACES, "--dry-run", f"--config.classifier.workdir={workdir / 'beta_0.9'}"]
    message = refused(capsys, "attribute_cvae", tmp_path / "other", *TINY, *other)
    assert "classifier.workdir is a run of the model 'cvae'" in message


def test_birds_have_the_attributes_of_the_data_and_species_that_the_classifier_tells_apart(tmp_path, capsys):
    write_cub(tmp_path / "birds", np.random.default_rng(0), 14)
    birds = ["--preset=cub", f"--config.data.source={tmp_path / 'birds'}", "--config.model.image_size=11,10"]
    birds += ["--config.model.batch_size=4", f"--config.data.cache_folder={tmp_path / 'cache'}"]
    run(capsys, *birds, f"--workdir={tmp_path / 'run'}")
    check_pictures(tmp_path / "run", 13)
    assert runs.load(tmp_path / "run" / "beta_0.25").config.attributes == ("has_wings::yes", "001.Bird", "002.Bird")
    scores = scores_of(tmp_path / "run")
    for agreement in scores["agreements"].values():
        assert agreement["species"]["chance"] == 0.5
        assert agreement["species"]["majority_accuracy"] == pytest.approx(4 / 7)
    report = (tmp_path / "run" / "report.html").read_text()
    assert '<td class="number">20,129</td>' in report
    assert "only orderings can be compared" in report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset=celeba"], "There is no folder or zip CelebA: give"),
        (["--preset=cub"], "There is no folder or zip CUB_200_2011: give"),
        (["--config.betas=0.5,0.5"], "expected one to ten, and none twice"),
        (["--config.betas=0.5,1.0"], "beta is 1.0; expected between 0 and 1"),
        (["--config.model.beta=0.75"], "model.beta is 0.75; expected --config.betas=0.75 instead"),
        (["--config.classifier.image_size=20"], "image_size is 20; expected a multiple of 16"),
        (["--config.classifier.epochs=-1"], "classifier.epochs is -1"),
        (["--config.model.attributes=smiling,tall"], "rendered faces have no attribute tall"),
        (["--config.model.image_size=32,24"], "image_size is (32, 24); expected one number: images of rendered"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_end_with_a_message_before_anything_is_made(tmp_path, capsys, arguments, message):
    small = FACES if not arguments[0].startswith("--preset") else []
    assert message in refused(capsys, "attribute_cvae", tmp_path / "run", "--compilation-cache=", *small, *arguments)
    assert not (tmp_path / "run").exists()


def test_celeba_gives_a_cvae_all_its_attributes_or_those_that_are_named(tmp_path, capsys):
    write_celeba(tmp_path / "celeba", np.random.default_rng(0))
    source = [f"--config.data.source={tmp_path / 'celeba'}", f"--config.data.cache_folder={tmp_path / 'cache'}"]
    small = ["--config.model.image_size=12,10", "--config.model.widths=4", "--config.model.batch_size=4"]
    for named, channels in (([], 6), (["--config.model.attributes=young,smiling"], 5)):
        command = ["", "--compilation-cache=", "--preset=celeba", "--dry-run", *source, *small, *named]
        experiment.run(listing.load("attribute_cvae"), command)
        plan = capsys.readouterr().out
        assert f"  encoder: {9 * channels * 4 + 4 + 2 * (6 * 5 * 4 + 1) * 128:,}" in plan
        assert "phases:\n  training: steps 0 to 250, 4 images of (12, 10) px" in plan
        assert "crop: none" in plan
