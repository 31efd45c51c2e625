"""The experiment with StyleALAE, from end to end on a folder of small images."""

import csv
import dataclasses
import json
import shutil

import datasets
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import style_evaluation
import stylealae
import training
from commands import assert_close, check_pictures, refused, run_all
from judge import Judge
from PIL import Image

from mvae_jax import gaussian, runs
from mvae_jax.data import faces, pyramid
from mvae_jax.data.batches import Split
from mvae_jax.eval import attributes, fid
from mvae_jax.eval.features import Features
from mvae_jax.models import style_alae
from mvae_jax.train.logging import read_metrics
from mvae_jax.viz import traversals

TINY = [
    "experiments/stylealae.py",
    "--config.model.image_size=8",
    "--config.model.latent_size=8",
    "--config.model.first_width=4",
    "--config.model.most_width=6",
    "--config.model.mapping_layers=2",
    "--config.model.batch_sizes=8",
    "--config.model.fade_images=24",
    "--config.model.stabilise_images=16",
    "--config.model.last_images=32",
    "--config.data.source=faces",
    "--config.evaluation.images=16",
    "--config.evaluation.judge_epochs=20",
    "--config.evaluation.direction_images=60",
    "--config.evaluation.path_pairs=6",
    "--config.evaluation.path_seeds=2",
    "--config.training.log_every=2",
]
STREAMED = ["--config.data.resident_gib=0", "--config.model.image_size=4"]
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
    """A run and what the commands said."""
    folder = tmp_path_factory.mktemp("stylealae")
    write_faces(folder / "faces")
    run = [*TINY, "--workdir=run"]
    commands = {
        "plan": [*TINY, "--dry-run", "--workdir=none"],
        "run": run,
        "again": run,
        "changed": [*run, "--config.model.r1_weight=0.5"],
        "evaluated": [TINY[0], "--evaluate", "--workdir=run"],
        "prepared": [
            "tools/prepare_data.py",
            "pyramid",
            "faces",
            "pyramid",
            "--image-size=8",
            "--validation-fraction=0.2",
        ],
        "few": [*TINY, "--config.data.source=pyramid", "--config.data.held_out=15", "--workdir=few"],
        "streamed": [*TINY, "--config.data.source=pyramid", *STREAMED, "--workdir=streamed"],
    }
    return folder, dict(zip(commands, run_all(folder, *commands.values()), strict=True))


def test_all_resolutions_are_trained_measured_and_drawn(trained):
    folder, results = trained
    assert results["run"]["code"] == 0, results["run"]["err"]
    check_pictures(folder / "run", 7)  # so small a judge sees no attribute vary, so there are no edits
    for phase in PHASES:
        assert phase in results["plan"]["out"]
    run = runs.load(folder / "run" / "style_alae")
    assert (run.phase, run.step) == ("stabilise_8", 2 + 3 + 4)
    found = json.loads((folder / "run" / "scores.json").read_text())
    assert [row["phase"] for row in found["growth"]] == PHASES
    assert all(row["images/s"] > 0 for row in found["growth"])
    paths = [(row["space"], row["part"]) for row in found["path lengths"]]
    assert paths == [("Z", "full"), ("Z", "end"), ("W", "full"), ("W", "end")]
    assert all(row["mean"] > 0 and row["deviation"] > 0 for row in found["path lengths"])
    assert found["growth"][-1]["Frechet distance of samples"] == found["samples"]["Frechet distance"]


def test_numbers_are_those_of_held_out_images(trained):
    folder = trained[0] / "run"
    data = datasets.load(datasets.Config(str(trained[0] / "faces")), None, 8)
    x = data.validation["image"] / np.float32(127.5) - 1
    (path,) = (folder / "judge").iterdir()
    read, run = runs.load(path).features, runs.load(folder / "style_alae")
    found = json.loads((folder / "scores.json").read_text())
    keys = [gaussian.example_keys(jax.random.fold_in(jax.random.key(42), stream), 16) for stream in (1, 2)]
    z = jnp.stack([jax.random.normal(key, (8,)) for key in keys[0]])
    samples = run.draw(jnp.repeat(run.map(z)[:, None], 4, 1), keys[1]).clip(-1, 1)
    again = np.asarray(run.draw(jnp.repeat(run.encode(x)[0][:, None], 4, 1), keys[1]).clip(-1, 1))
    for name, pictures in {"samples": samples, "reconstructions": again}.items():
        distance = fid.frechet_distance(read(pictures[:8]), read(x[8:]), features=Features("")).value
        assert found[name]["Frechet distance"] == pytest.approx(distance, rel=1e-3)
        assert distance > 0
    error = np.square((x - again) / 2).mean()
    assert found["reconstructions"]["squared error per value"] == pytest.approx(error, rel=1e-4)


def test_a_pyramid_is_streamed_and_needs_no_attributes(trained):
    """81 images: a fifth is held out."""
    folder, results = trained
    assert "65 train and 16 validation images of 4 to 8 pixels" in results["prepared"]["out"]
    assert "there are 15 held-out images; expected at least 16" in results["few"]["err"]
    assert results["streamed"]["code"] == 0, results["streamed"]["err"]
    check_pictures(folder / "streamed", 7)
    run = runs.load(folder / "streamed" / "style_alae")
    assert (run.phase, run.step) == ("stabilise_4", 4)
    found = json.loads((folder / "streamed" / "scores.json").read_text())
    assert (found["samples"], found["path lengths"], found["images"]) == ({}, [], 16)
    assert "evaluation.inception" in (folder / "streamed" / "report.html").read_text()
    held_out = pyramid.load(folder / "pyramid").split("validation", 4)["image"] / np.float32(127.5) - 1
    keys = gaussian.example_keys(jax.random.fold_in(jax.random.key(42), 2), 16)
    again = run.draw(jnp.repeat(run.encode(held_out)[0][:, None], 2, 1), keys).clip(-1, 1)
    error = np.square((held_out - again) / 2).mean()
    assert found["reconstructions"]["squared error per value"] == pytest.approx(error, rel=1e-4)


def test_what_saves_memory_may_change(trained, tmp_path):
    folder = shutil.copytree(trained[0] / "run" / "style_alae", tmp_path / "style_alae")
    data = datasets.load(datasets.Config(str(trained[0] / "faces")), None, 8)
    config = dataclasses.replace(runs.load(folder).config, examples_at_once=(4,), recomputed_from=8)
    settings = training.settings_of("style_alae", config, data, 42)
    with pytest.raises(ValueError, match=r"examples_at_once: \[0\] before, \[4\] now"):
        training.train(folder, settings, config, data)
    run = training.train(folder, settings, config, data, may_change=stylealae.MAY_CHANGE)
    assert (run.phase, run.step) == ("stabilise_8", 2 + 3 + 4)
    assert runs.load(folder).config == config


def test_edits_move_along_directions(trained):
    folder = trained[0] / "run"
    data = datasets.load(datasets.Config(str(trained[0] / "faces")), None, 8)
    run, (path,) = runs.load(folder / "style_alae"), (folder / "judge").iterdir()
    settings = style_evaluation.Settings(images=16, sliders=2.0, direction_images=200)
    found = style_evaluation.Measures(run, data, Judge(runs.load(path), None), [], None, settings, 42)
    records = read_metrics(folder / "style_alae" / "metrics.jsonl")
    drawn = style_evaluation.figures(found, {"stabilise_8": run}, records, {"smile": np.ones(8, np.float32)})
    assert list(drawn)[-1] == "edits"
    w = run.encode(found.held_out[:1])[0] + jnp.linspace(-2, 2, 7)[:, None]
    expected = traversals.sheet({"smile": style_evaluation.to_bytes(run.decode(w))})
    np.testing.assert_allclose(np.asarray(drawn["edits"][1], int), np.asarray(expected, int), atol=1)


def test_directions_are_read_from_labelled_samples(trained):
    """By a reader that tells how bright an image is: latents along the direction draw brighter images."""
    folder = trained[0] / "run"
    data = datasets.load(datasets.Config(str(trained[0] / "faces")), None, 8)
    run = runs.load(folder / "style_alae")
    settings = style_evaluation.Settings(images=16, direction_images=200)
    draws = style_evaluation.Measures(run, data, None, [], None, settings, 42)
    assert draws.directions() == {}
    z = draws.latents(draws.keys(3, 200))
    pictures = run.draw(jnp.repeat(run.map(z)[:, None], 4, 1), draws.keys(4, 200)).clip(-1, 1)
    bright = np.asarray(pictures.mean((1, 2, 3)))

    class Reader:
        def logits(self, x):
            return (x.mean((1, 2, 3)) - np.median(bright))[:, None]

    found = dataclasses.replace(draws, data=dataclasses.replace(data, **only(data)), reader=Judge(Reader(), None))
    (direction,) = found.directions().values()
    w = np.asarray(run.map(z))
    labels = bright > np.median(bright)
    expected = attributes.svm_directions(w, labels[:, None], ("bright",))["bright"]
    np.testing.assert_allclose(direction, expected, atol=1e-4)


def only(data):
    """The splits with one attribute, for `dataclasses.replace`."""
    kept = {name: Split({**split.arrays, "attributes": split["attributes"][:, :1]}) for name, split in data}
    return {**kept, "attributes": ("bright",)}


def test_an_unfinished_run_is_measured_at_its_resolution(trained):
    run = runs.load(trained[0] / "run" / "style_alae", phase="stabilise_4")
    data = datasets.load(datasets.Config(str(trained[0] / "faces")), None, 8)
    found = style_evaluation.Measures(run, data, None, [], None, style_evaluation.Settings(images=16), 42)
    assert (found.size, found.samples.shape, found.reconstructions.shape) == (4, (16, 4, 4, 3), (16, 4, 4, 3))
    x = data.validation["image"] / np.float32(127.5) - 1
    np.testing.assert_allclose(found.held_out, x.reshape(16, 4, 2, 4, 2, 3).mean((2, 4)), atol=1e-6)
    (path,) = (trained[0] / "run" / "judge").iterdir()
    reader = Judge(runs.load(path), None)
    settings = style_evaluation.Settings(images=16, path_pairs=2, path_seeds=1)
    judged = dataclasses.replace(found, perceived=style_evaluation.JudgeDistance(reader), settings=settings)
    large = [jnp.repeat(jnp.repeat(each, 2, 1), 2, 2) for each in (judged.held_out, judged.reconstructions)]
    features = [np.asarray(reader.run.features(each)) for each in large]
    expected = np.square(features[0] - features[1]).sum(1).mean()
    assert judged.of_reconstructions()[judged.perceived.name] == pytest.approx(expected, rel=1e-3)
    assert len(judged.path_lengths()) == 4
    assert "in phase stabilise_4, at 4 px" in stylealae._unfinished(run)[0]
    assert stylealae._unfinished(runs.load(trained[0] / "run" / "style_alae")) == []
    records = read_metrics(trained[0] / "run" / "style_alae" / "metrics.jsonl")
    drawn = style_evaluation.figures(found, {"stabilise_4": run}, records, {})
    assert list(drawn)[:3] == ["samples", "truncated", "reconstructions"]


def test_path_lengths_are_measured_in_float32(trained):
    """Of a model that computes in bfloat16, whose parameters they are."""
    run = runs.load(trained[0] / "run" / "style_alae")
    data = datasets.load(datasets.Config(str(trained[0] / "faces")), None, 8)
    settings = style_evaluation.Settings(images=16, path_pairs=4, path_seeds=1)
    rows = []
    for dtype in ("float32", "bfloat16"):
        config = dataclasses.replace(run.config, compute_dtype=dtype)
        own = dataclasses.replace(run, config=config, model=style_alae.build(config))
        rows.append(style_evaluation.Measures(own, data, None, [], Squared(), settings, 42).path_lengths())
    for exact, low in zip(*rows, strict=True):
        assert low["mean"] == pytest.approx(exact["mean"], rel=1e-3)


class Squared:
    name, sha256 = "squared error", ()

    def __call__(self, a, b):
        return jnp.square(a - b).sum((1, 2, 3))


def test_styles_come_from_the_faces_above():
    """A generator whose picture is the mean of some layers' latents, and an encoder that reads the picture's mean."""

    class Run:
        def encode(self, x):
            return x.mean((1, 2)), None

        def decode(self, w):
            return jnp.broadcast_to(w[:, jnp.asarray([0, 4, 8])].mean(-1)[:, None, None], (len(w), 64, 64, 3))

    x = jnp.linspace(-1, 1, 8)[:, None, None, None] * jnp.ones((8, 64, 64, 3))
    rows = style_evaluation.mixed(Run(), x)
    assert list(rows) == ["styles of", *(f"{name} {n}" for name in ("coarse", "middle", "fine") for n in range(1, 5))]
    values = np.asarray(style_evaluation.to_bytes(x))[:, 0, 0, 0]
    np.testing.assert_array_equal(rows["styles of"][1:, 0, 0, 0], values[:4])
    for part, name in enumerate(("coarse", "middle", "fine")):
        for n in range(4):
            row = rows[f"{name} {n + 1}"]
            assert row[0, 0, 0, 0] == values[4 + n]
            np.testing.assert_array_equal(row[1:, 0, 0, part], values[:4])
            np.testing.assert_array_equal(row[1:, 0, 0, (part + 1) % 3], values[4 + n])


def test_a_finished_run_is_not_trained_again_and_its_numbers_come_again(trained):
    folder, results = trained
    assert (results["again"]["code"], results["changed"]["code"], results["evaluated"]["code"]) == (0, 2, 0)
    assert "model.r1_weight" in results["changed"]["err"]
    first, again = (json.loads((folder / "run" / part / "scores.json").read_text()) for part in ("", "evaluation"))
    assert_close(again["samples"], first["samples"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.evaluation.images=15", "evaluation.images is 15; expected at least 16"),
        ("--config.evaluation.truncation=1.5", "evaluation.truncation is 1.5; expected from 0 to 1"),
        ("--config.evaluation.path_crop=eyes", "evaluation.path_crop is 'eyes'; expected 'face', 'celeba' or ''"),
        ("--config.evaluation.path_crop=face", "give the file of its weights, evaluation.vgg"),
        ("--config.evaluation.vgg=no.pth", "no.pth"),
        ("--config.model.channels=1", "model.channels is 1; expected 3"),
        ("--config.model.batch_sizes=512", "batch_size is 512"),
    ],
)
def test_settings_that_cannot_be_are_refused(argument, message, trained, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(trained[0])
    assert message in refused(capsys, stylealae, tmp_path / "run", *TINY[1:], argument)
