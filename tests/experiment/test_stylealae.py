"""The experiment with StyleALAE, from end to end on a folder of small images."""

import csv
import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_lines import check_pictures, refused, run_all, script
from PIL import Image

from mvae_jax import random, runs
from mvae_jax.data import pyramid, sources
from mvae_jax.data.formats import folder as folders
from mvae_jax.data.rendered import faces
from mvae_jax.eval import fid
from mvae_jax.eval.features import Features
from mvae_jax.experiment import Member, members

pytestmark = pytest.mark.slow  # trains a whole experiment

SCRIPT = script("stylealae")
TINY = [
    "--config.model.image_size=8",
    "--config.model.latent_size=8",
    "--config.model.first_width=4",
    "--config.model.most_width=6",
    "--config.model.mapping_layers=2",
    "--config.model.batch_sizes=8",
    "--config.model.fade_images=24",
    "--config.model.stabilise_images=16",
    "--config.model.last_images=32",
    "--config.data.source=photos",
    "--config.evaluation.images=16",
    "--config.evaluation.direction_images=60",
    "--config.evaluation.path_pairs=6",
    "--config.evaluation.path_seeds=2",
    "--config.training.log_every=2",
]
CLASSIFIER = "--config.classifier.epochs=20"
STREAMED = ["--config.data.source=pyramid", "--config.data.resident_gib=0", "--config.model.image_size=4"]
PROTOCOL = ["--config.evaluation.frechet.samples=40", "--config.evaluation.frechet.reference_images=30"]
PHASES = ["stabilise_4", "fade_8", "stabilise_8"]


def write_faces(folder):
    """Rendered faces, 64 to train on and 16 held out, shrunk and written as their users have images."""
    data = faces.splits(42, 80, 16, 1, image_size=32, attributes=faces.ATTRIBUTES)
    folder.mkdir()
    with (folder / "attributes.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["file", *data.attributes, "split"])
        for name in ("train", "validation", "calibration"):
            split = getattr(data, name)
            for number, (image, bits) in enumerate(zip(split["image"], split["attributes"], strict=True)):
                small = image.reshape(8, 4, 8, 4, 3).mean((1, 3)).round().astype(np.uint8)
                Image.fromarray(small).save(folder / f"{name}{number}.png")
                lines.writerow([f"{name}{number}.png", *bits.astype(int).tolist(), name])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run on images with attributes, and one on a pyramid, a fifth of whose 81 images is held out."""
    folder, name = tmp_path_factory.mktemp("stylealae"), "experiments/stylealae.py"
    write_faces(folder / "photos")
    settings = pyramid.Settings(image_size=8, validation_fraction=0.2)
    pyramid.prepare(folder / "photos", folder / "pyramid", settings)
    results = run_all(
        folder,
        [name, *TINY, CLASSIFIER, *PROTOCOL, "--workdir=run"],
        [name, *TINY, *STREAMED, "--workdir=streamed"],
    )
    for result in results:
        assert result["code"] == 0, result["err"]
    return folder


@pytest.fixture(scope="module")
def data(trained):
    """The images of the run."""
    return sources.load(folders.Config(str(trained / "photos")), image_size=8)


def test_all_resolutions_are_trained_measured_and_drawn(trained):
    check_pictures(trained / "run", 7)  # so small a classifier sees no attribute vary, so there are no edits
    run = runs.load(trained / "run" / "style_alae")
    assert (run.phase, run.step) == ("stabilise_8", 2 + 3 + 4)
    scores = json.loads((trained / "run" / "scores.json").read_text())
    assert list(scores["growth"]) == PHASES
    assert [row["step"] for row in scores["growth"].values()] == [2, 5, 9]
    assert all(row["images_per_second"] > 0 for row in scores["growth"].values())
    assert list(scores["path_lengths"]) == ["z_full", "z_end", "w_full", "w_end"]
    assert all(row["mean"] > 0 and row["deviation"] > 0 for row in scores["path_lengths"].values())
    many = scores["frechet_distances"]
    for row, count in ((many["samples"], 40), (many["reconstructions"], 64)):
        assert (row["images"], row["reference_images"]) == (count, 30)
        assert row["frechet_distance"] > 0
    samples = scores["quality"]["samples"]
    assert scores["growth"]["stabilise_8"]["frechet_distance_of_samples"] == samples["frechet_distance"]
    report = (trained / "run" / "report.html").read_text()
    for text in (
        "Frechet distance",
        "Frechet distances over many images",
        "30 training images",
        "images/s",
        "Z, whole path",
        *(phase.replace("_", " ") for phase in PHASES),
        *scores["stability"]["problems"],
    ):
        assert text in report


def test_numbers_are_those_of_held_out_images(trained, data):
    folder = trained / "run"
    x = data.validation["image"] / np.float32(127.5) - 1
    (path,) = (folder / "classifier").iterdir()
    read, run = runs.load(path).features, runs.load(folder / "style_alae")
    scores = json.loads((folder / "scores.json").read_text())["quality"]
    keys = [random.example_keys(jax.random.fold_in(jax.random.key(42), stream), 16) for stream in (1, 2)]
    z = jnp.stack([jax.random.normal(key, (8,)) for key in keys[0]])
    samples = run.draw(jnp.repeat(run.map(z)[:, None], 4, 1), keys[1]).clip(-1, 1)
    again = np.asarray(run.draw(jnp.repeat(run.encode(x)[0][:, None], 4, 1), keys[1]).clip(-1, 1))
    for name, pictures in {"samples": samples, "reconstructions": again}.items():
        distance = fid.frechet_distance(read(pictures[:8]), read(x[8:]), features=Features("")).value
        assert scores[name]["frechet_distance"] == pytest.approx(distance, rel=1e-3)
        assert distance > 0
    error = np.square((x - again) / 2).mean()
    assert scores["reconstructions"]["squared_error"] == pytest.approx(error, rel=1e-4)


def test_a_pyramid_is_streamed_and_needs_no_attributes(trained):
    folder = trained / "streamed"
    check_pictures(folder, 7)
    run = runs.load(folder / "style_alae")
    assert (run.phase, run.step) == ("stabilise_4", 4)
    assert not (folder / "classifier").exists()
    scores = json.loads((folder / "scores.json").read_text())
    assert (scores["quality"]["samples"], scores["path_lengths"], scores["quality"]["images"]) == ({}, {}, 16)
    report = (folder / "report.html").read_text()
    assert "evaluation.inception" in report
    assert "evaluation.vgg" in report
    held_out = pyramid.load(trained / "pyramid").split("validation", 4)["image"] / np.float32(127.5) - 1
    keys = random.example_keys(jax.random.fold_in(jax.random.key(42), 2), 16)
    again = run.draw(jnp.repeat(run.encode(held_out)[0][:, None], 2, 1), keys).clip(-1, 1)
    error = np.square((held_out - again) / 2).mean()
    assert scores["quality"]["reconstructions"]["squared_error"] == pytest.approx(error, rel=1e-4)


def test_what_saves_memory_may_change(trained, data, tmp_path):
    folder = shutil.copytree(trained / "run" / "style_alae", tmp_path / "style_alae")
    config = dataclasses.replace(runs.load(folder).config, examples_at_once=(4,), recomputed_from=8)
    member = Member("style_alae", config, 42)
    with pytest.raises(ValueError, match=r"examples_at_once: \[0\] before, \[4\] now"):
        members.train_in_folder(member, member.plan(data), data, folder)
    run = members.train_in_folder(member, member.plan(data), data, folder, may_change=SCRIPT.EXPERIMENT.may_change)
    assert (run.phase, run.step) == ("stabilise_8", 2 + 3 + 4)
    assert runs.load(folder).config == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.evaluation.images=15"], "evaluation.images is 15; expected at least 16"),
        (["--config.evaluation.truncation=1.5"], "evaluation.truncation is 1.5; expected from 0 to 1"),
        (["--config.evaluation.path_crop=eyes"], "evaluation.path_crop is 'eyes'; expected 'face', 'celeba' or ''"),
        (["--config.evaluation.lpips=no.pth"], "give the file of its weights, evaluation.vgg"),
        (
            ["--config.evaluation.frechet.samples=50", "--config.evaluation.frechet.reference_images=65"],
            "evaluation.frechet.reference_images is 65, but there are 64 training images",
        ),
        (["--config.evaluation.vgg=no.pth"], "no.pth"),
        (["--config.evaluation.inception=no.pth"], "no.pth"),
        (["--config.model.channels=1"], "model.channels is 1; expected 3"),
        (["--config.model.batch_sizes=512"], "batch_size is 512"),
        ([*STREAMED, "--config.data.held_out=15"], "there are 15 held-out images; expected at least 16"),
    ],
)
def test_settings_that_cannot_be_are_refused(arguments, message, trained, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(trained)
    assert message in refused(capsys, "stylealae", tmp_path / "run", *TINY, *arguments)
