"""The attribute classifier from end to end on rendered faces, and the experiments that name it."""

import json

import numpy as np
import pytest
from command_lines import check_pictures, refused

from mvae_jax import experiment, runs
from mvae_jax.data.rendered import faces
from mvae_jax.eval.batched import pixels
from mvae_jax.experiment import listing

pytestmark = pytest.mark.slow  # trains a whole experiment

DATA = ["--config.data.subset_size=64", "--config.data.validation_fraction=0.25", "--config.data.calibration_size=16"]
SMALL = ["--config.model.image_size=32", "--config.model.batch_size=8", "--config.model.epochs=1"]


def test_a_classifier_is_trained_alone_and_named_by_another_experiment(tmp_path, capsys):
    workdir = tmp_path / "classifier"
    command = ["experiments/attribute_classifier.py", "--compilation-cache=", *DATA, *SMALL, f"--workdir={workdir}"]
    experiment.run(listing.load("attribute_classifier"), command)
    log = capsys.readouterr().err
    check_pictures(workdir, 3)
    scores = json.loads((workdir / "scores.json").read_text())
    data, run = faces.splits(42, 64, 16, 16, image_size=32), runs.load(workdir)
    right = (np.asarray(run.logits(pixels(data.validation))) > 0) == (data.validation["attributes"] > 0.5)
    assert scores["checkpoints"] == {"": {"model": "attribute_classifier", "phase": "training", "step": 6}}
    assert scores["held_out"]["count"] == 16
    assert scores["held_out"]["accuracy"] == pytest.approx(right.mean())
    assert scores["held_out"]["exact_match"] == pytest.approx(right.all(1).mean())
    by_name = {score["name"]: score["accuracy"] for score in scores["held_out"]["attributes"]}
    assert by_name == pytest.approx(dict(zip(faces.ATTRIBUTES, right.mean(0), strict=True)))
    line = f"attribute classifier: accuracy {right.mean():.3f}, exact match {right.all(1).mean():.3f} on 16 images"
    assert line in log
    assert line in (workdir / "report.html").read_text()

    reader = [f"--config.classifier.workdir={workdir}", "--config.classifier.image_size=32"]
    named = ["--compilation-cache=", "--dry-run", *DATA, "--config.model.image_size=32,32", *reader]
    experiment.run(listing.load("attribute_cvae"), ["", *named, f"--workdir={tmp_path / 'run'}"])
    assert "parameters:" in capsys.readouterr().out
    for argument, message in (
        ("--config.data.seed=43", "the classifier was trained on other images"),
        ("--config.model.attributes=young,male,female,smiling,bald", "the classifier reads young, male"),
    ):
        assert message in refused(capsys, "attribute_cvae", tmp_path / "run", *named, argument)
