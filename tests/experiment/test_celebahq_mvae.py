"""The multimodal VAE from end to end on data and weights made on the spot: what users run, and what they get wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import command_lines
import jax
import numpy as np
import pytest
from command_lines import ROOT, assert_close, check_pictures, environment, run_all
from PIL import Image
from safetensors.numpy import save_file

from mvae_jax import experiment, runs
from mvae_jax.commands import compare
from mvae_jax.data.rendered import faces
from mvae_jax.experiment import listing
from mvae_jax.experiment.suites import multimodal_scores, priors
from mvae_jax.train.logging import read_metrics
from mvae_jax.train.workdir import Workdir

pytestmark = pytest.mark.slow  # trains a whole experiment

SCRIPT = ROOT / "experiments" / "celebahq_mvae.py"
TINY = [
    "--config.model.image_size=32",
    "--config.model.latent_size=4",
    "--config.model.private_size=2",
    "--config.model.encoder_widths=4,4",
    "--config.model.decoder_widths=4,4",
    "--config.model.decoder_hidden=8",
    "--config.model.text_hidden=8",
    "--config.model.discriminator_widths=4",
    "--config.model.attention_heads=2",
    "--config.model.batch_size=8",
    "--config.model.unimodal.epochs=1",
    "--config.model.alignment.epochs=1",
    "--config.model.adversarial.epochs=1",
    "--config.data.subset_size=64",
    "--config.data.validation_fraction=0.25",
    "--config.data.calibration_size=16",
    "--config.training.log_every=2",
]
STEPS = 6  # per epoch: 48 images, 8 at a time
FIGURES, OF_PRIORS = 19, 4  # among them sheets of the priors
NOTE = "No VGG weights were given (--config.vgg_weights): the perceptual term is off."


def run(*arguments):
    """Runs the experiment in this process."""
    experiment.run(listing.load("celebahq_mvae"), ["experiments/celebahq_mvae.py", *arguments])


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """A run on rendered faces, from a folder of its own, and what the commands after it said."""
    folder, name = tmp_path_factory.mktemp("rendered"), "experiments/celebahq_mvae.py"
    command = [name, *TINY, "--workdir=runs/one"]
    unimodal = ["--config.model.alignment.epochs=0", "--config.model.adversarial.epochs=0"]
    short = [name, *TINY, *unimodal, "--config.model.cosine_decay=false"]  # rates over a whole run cannot be extended
    started = [*short, "--workdir=runs/two", "--config.start_from=runs/one"]
    longer = [*started, "--config.model.unimodal.epochs=2"]
    commands = {
        "first": command,
        "plan": [name, *TINY, "--dry-run", "--workdir=runs/none"],
        "evaluated": [name, "--evaluate", "--workdir=runs/one"],
        "phase": [name, "--evaluate", "--phase=alignment", "--workdir=runs/one"],
        "misfit": [name, *TINY, "--dry-run", "--config.start_from=runs/one", "--config.model.latent_size=5"],
        "started": started,
        "longer": longer,
        "extended": [*longer, "--extend"],
        "elsewhere": [name, "--evaluate", "--workdir=runs/two", "--config.data.seed=43", "--config.judge.epochs=0"],
        "compared": ["mvae-jax", "compare", "runs/one", "runs/two", "--output=runs/comparison"],
    }
    return folder, dict(zip(commands, run_all(folder, *commands.values()), strict=True))


def check_files(workdir, phases):
    """The files of a finished run of these phases, an epoch each."""
    check_pictures(workdir, FIGURES)
    assert list(workdir.glob("events.*"))
    assert not list(workdir.glob(".*")), "temporary files are left"

    records = read_metrics(workdir / "metrics.jsonl")
    for split, every in (("train", 2), ("validation", STEPS)):
        told = [(line["phase"], line["step"]) for line in records if line["split"] == split]
        steps = range(every, STEPS * len(phases) + 1, every)
        assert told == [(phases[(step - 1) // STEPS], step) for step in steps]
    assert all(np.isfinite(line["loss"]) for line in records if line["split"] in ("train", "validation"))
    for number, phase in enumerate(phases, start=1):
        manifest = json.loads((workdir / f"checkpoints/{phase}/{number * STEPS}/manifest.json").read_text())
        assert manifest["final"]
        assert manifest["skipped"] == 0

    scores = json.loads((workdir / "finished.json").read_text())["scores"]
    assert scores == json.loads((workdir / "scores.json").read_text())
    assert scores["checkpoints"] == {"": {"model": "multimodal", "phase": phases[-1], "step": STEPS * len(phases)}}
    assert scores["consistency"]["validation_images"] == scores["consistency"]["calibration_images"] == 16
    assert 0 <= scores["consistency"]["rates"]["f1"] <= 1
    assert len(scores["image_to_text"]["attributes"]) == 10
    assert scores["classified"]["held_out"]["count"] == 16
    assert list(scores["classified"]) == list(multimodal_scores.PICTURES)
    assert list(scores["quality"]) == list(multimodal_scores.QUALITY)
    assert list(scores["priors"]) == list(priors.PRIORS)
    assert {row["images"] for name, row in scores["priors"].items() if "flow" in name} == {1008}
    assert (workdir / "latent_flow" / f"{phases[-1]}_{STEPS * len(phases)}" / "checkpoints").is_dir()
    assert np.isfinite(list(scores["quality"].values())).all()


def test_a_run_on_rendered_faces_goes_through_all_phases(rendered):
    folder, results = rendered
    assert results["first"]["code"] == 0
    check_files(folder / "runs" / "one", ("unimodal", "alignment", "adversarial"))
    report = (folder / "runs" / "one" / "report.html").read_text()
    assert "python experiments/celebahq_mvae.py --config.model.image_size=32" in report
    log = results["first"]["err"]
    for phase, first in (("unimodal", 0), ("alignment", 6), ("adversarial", 12)):
        assert f"phase {phase}: steps {first} to {first + 6} of 8 examples" in log
    assert log.rstrip().endswith(f"report: {folder / 'runs' / 'one' / 'report.html'}")


def test_the_missing_perceptual_term_is_noted(rendered):
    folder, results = rendered
    assert NOTE in results["first"]["err"]
    assert NOTE in (folder / "runs" / "one" / "report.html").read_text()
    assert not any("perceptual" in name for line in read_metrics(folder / "runs/one/metrics.jsonl") for name in line)


def test_a_dry_run_says_what_would_be_done_and_does_nothing(rendered):
    folder, results = rendered
    lines = results["plan"]["out"].splitlines()
    assert results["plan"]["code"] == 0
    assert not (folder / "runs" / "none").exists()
    params = runs.load(folder / "runs" / "one").params
    for group in ("vae", "discriminator"):
        assert f"  {group}: {sum(leaf.size for leaf in jax.tree.leaves(params[group])):,}" in lines
    assert "  adversarial: steps 12 to 18, 8 images of 32 px" in lines
    assert "  source: rendered faces" in lines
    assert "  images: 80" in lines


def test_measuring_the_workdir_again_gives_the_same_numbers(rendered):
    folder, results = rendered
    workdir = folder / "runs" / "one"
    assert results["evaluated"]["code"] == 0
    check_pictures(workdir / "evaluation", FIGURES)
    assert "Measured at step 18, in phase adversarial." in (workdir / "evaluation" / "report.html").read_text()
    again = json.loads((workdir / "evaluation" / "scores.json").read_text())
    assert_close(again, json.loads((workdir / "scores.json").read_text()))
    assert len(list((workdir / "classifier").iterdir())) == 1  # both were read by the same


def test_a_phase_is_measured_at_its_last_checkpoint(rendered):
    folder, results = rendered
    workdir = folder / "runs" / "one"
    assert results["phase"]["code"] == 0
    page = workdir / "evaluation" / "alignment"
    check_pictures(page, FIGURES - OF_PRIORS)  # the prior is of the last checkpoint alone
    assert "Measured at step 12, in phase alignment." in (page / "report.html").read_text()
    measured = json.loads((page / "scores.json").read_text())
    table = json.loads((workdir / "scores.json").read_text())["phases"]
    assert list(table) == ["unimodal", "alignment", "adversarial"]
    assert_close(table["alignment"]["f1"], measured["consistency"]["rates"]["f1"])
    assert_close(table["alignment"]["image_to_text"], measured["image_to_text"]["accuracy"])
    assert_close({name: table[name] for name in ("unimodal", "alignment")}, measured["phases"])


def test_a_running_workdir_may_be_measured(rendered, capsys):
    with Workdir(rendered[0] / "runs" / "one").lock():
        run("--evaluate", f"--workdir={rendered[0] / 'runs' / 'one'}")
    assert "consistency F1" in capsys.readouterr().err


def test_other_images_are_said_to_be_others(rendered):
    folder, results = rendered
    report = (folder / "runs" / "two" / "evaluation" / "report.html").read_text()
    assert results["elsewhere"]["code"] == 0
    assert "These are other images than those of the run" in report
    assert "No attribute classifier" in report


def test_a_misfit_start_lists_every_array_with_both_shapes(rendered):
    command = rendered[1]["misfit"]
    assert command["code"] == 2
    assert "params/vae/image_encoder/" in command["err"]
    assert "checkpoint has float32[4], this model float32[5]" in command["err"]
    assert command["err"].count("checkpoint has") > 10


def test_a_run_starts_from_another_and_is_extended(rendered):
    folder, results = rendered
    workdir = folder / "runs" / "two"
    assert results["started"]["code"] == 0
    assert f"starting from step 18 of phase adversarial of {folder / 'runs' / 'one'}" in results["started"]["err"]
    assert results["longer"]["code"] == 2
    assert "config.model.unimodal.epochs: 1 before, 2 now" in results["longer"]["err"]
    assert "--extend" in results["longer"]["err"]
    assert results["extended"]["code"] == 0
    assert "resuming at step 6, in phase unimodal" in results["extended"]["err"]
    steps = [line["step"] for line in read_metrics(workdir / "metrics.jsonl") if line["split"] == "train"]
    assert steps == [2, 4, 6, 8, 10, 12]
    assert json.loads((workdir / "finished.json").read_text())["scores"]["checkpoints"][""]["step"] == 12


def test_runs_are_compared_on_one_page(rendered):
    folder, results = rendered
    page, one = folder / "runs" / "comparison", folder / "runs" / "one"
    assert results["compared"]["code"] == 0
    check_pictures(page, 3 + 2 * FIGURES)
    assert "Comparison of one, two" in (page / "report.html").read_text()
    scores = json.loads((page / "scores.json").read_text())
    assert list(scores) == ["one", "two"]
    assert_close(scores["one"], json.loads((one / "scores.json").read_text()))
    assert scores["two"]["checkpoints"][""]["step"] == 12


# --- CelebAMask-HQ ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def celebamask_hq(tmp_path_factory):
    """A folder with the data set in its published layout, unpacked and as a zip, and with tiny VGG weights."""
    folder = tmp_path_factory.mktemp("celebamask_hq")
    faces.write_celebamask_hq(folder / "unpacked", faces.sample(7, 160))
    shutil.make_archive(folder / "CelebAMask-HQ", "zip", folder / "unpacked")
    for seed in (0, 1):
        write_vgg(folder / f"vgg{seed}.safetensors", seed)
    return folder


def write_vgg(path, seed=0):
    rng, channels, arrays = np.random.default_rng(seed), 3, {}
    for place in (0, 2, 5, 7, 10, 12, 14):
        arrays[f"features.{place}.weight"] = rng.normal(size=(2, channels, 3, 3)).astype(np.float32)
        arrays[f"features.{place}.bias"] = np.zeros(2, np.float32)
        channels = 2
    save_file(arrays, path)


def test_a_run_on_celebamask_hq_is_stopped_and_goes_on_from_the_zip(celebamask_hq):
    command = [*TINY, "--config.model.alignment.epochs=0", "--config.data.cache_folder=cache", "--workdir=run"]
    weights = "--config.vgg_weights=vgg{}.safetensors"
    unpacked, zipped = "--config.data.source=unpacked", "--config.data.source=CelebAMask-HQ.zip"
    with subprocess.Popen(
        [sys.executable, SCRIPT, *command, unpacked, weights.format(0)],
        cwd=celebamask_hq,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        log = ""
        while "phase unimodal: steps" not in log:
            log += process.stderr.readline() or pytest.fail(log)
        process.send_signal(signal.SIGTERM)
        log += process.stderr.read()
    assert process.returncode == 143
    assert "SIGTERM: stopping as soon as the state is saved, and the same command goes on." in log
    step = int(re.search(r"saved at step (\d+); the same command goes on from there", log)[1])
    assert "Traceback" not in log

    resumed, other_weights = run_all(
        celebamask_hq, *(["experiments/celebahq_mvae.py", *command, zipped, weights.format(seed)] for seed in (0, 1))
    )
    assert resumed["code"] == 0
    assert f"resuming at step {step}, in phase unimodal" in resumed["err"] or step == STEPS
    check_files(celebamask_hq / "run", ("unimodal", "adversarial"))
    report = (celebamask_hq / "run" / "report.html").read_text()
    assert "VGG weights" not in report
    assert "CelebAMask-HQ.zip" in report
    last = [line for line in read_metrics(celebamask_hq / "run" / "metrics.jsonl") if line["split"] == "validation"][-1]
    assert last["image_from_image_perceptual"] > 0
    assert last["image_from_text_perceptual"] > 0
    assert other_weights["code"] == 2
    assert re.search(r'vgg_sha256: "\w+" before, "\w+" now', other_weights["err"])


# --- what a user gets wrong ------------------------------------------------------------------------------------------


def refused(capsys, workdir, *arguments, code=2):
    """The message with which the experiment ends, before there is a workdir."""
    return command_lines.refused(capsys, "celebahq_mvae", workdir, *TINY, *arguments, code=code)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.source=nowhere/CelebAMask-HQ.zip"], "no folder or zip nowhere/CelebAMask-HQ.zip"),
        (["data.source=render"], "no folder or zip render"),
        (["data.source={folder}/text.zip"], "text.zip is not a whole zip"),
        (["data.source={folder}/torn.zip"], "torn.zip is not a whole zip"),
        (["data.source={folder}"], "{folder}"),
        (["data.source={data}/CelebAMask-HQ.zip", "data.subset_size=2000"], "women and"),
        (["data.source={data}/CelebAMask-HQ.zip", "model.attributes=young,tall"], "Unknown attribute 'tall'"),
        (["model.attributes=young,gray_hair"], "rendered faces have no attribute gray_hair"),
        (["model.attributes=young"], "expected one that a mismatched caption can change"),
        (["model.batch_size=52"], "batch_size is 52, expected between 1 and the 48 examples"),
        (["model.batch_size=6"], "batch size 6 cannot be split over 4 devices"),
        (["vgg_weights={folder}/none.pth"], "none.pth"),
        (["vgg_weights={folder}"], "is a folder; expected a file of weights"),
        (["vgg_weights={folder}/text.zip"], "text.zip is neither safetensors nor written by `torch.save`"),
        (["vgg_weights={folder}/torn.safetensors"], "torn.safetensors cannot be read"),
        (["model.encoder_widths=4,4,4,4,4,4"], "H and W multiples of 64"),
        (["model.decoder_widths=4,4,4,4,4,4"], "image_size is 32, expected a multiple of 64"),
        (
            [f"model.{phase}.epochs=0" for phase in ("unimodal", "alignment", "adversarial")],
            "there is no phase to train",
        ),
        (["seed=-1"], "seed is -1"),
        (["start_from={folder}/none"], "none does not exist; expected the workdir of a run"),
        (["classifier.workdir={folder}/none"], "none does not exist; expected the workdir of a run"),
        (["data.validation_fraction=0.03"], "there are 2 validation images"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_end_with_a_message_before_anything_is_made(celebamask_hq, tmp_path, capsys, arguments, message):
    (tmp_path / "text.zip").write_text("<html>Sign in to download</html>")
    (tmp_path / "torn.zip").write_bytes((celebamask_hq / "CelebAMask-HQ.zip").read_bytes()[:5000])
    write_vgg(tmp_path / "torn.safetensors")
    os.truncate(tmp_path / "torn.safetensors", 900)
    before = sorted(os.listdir(tmp_path))
    filled = [f"--config.{text.format(folder=tmp_path, data=celebamask_hq)}" for text in arguments]
    if "source" in arguments[0]:  # rendered faces have no cache
        filled.append(f"--config.data.cache_folder={tmp_path / 'cache'}")
    assert message.format(folder=tmp_path) in refused(capsys, tmp_path / "run", *filled)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_workdir_that_cannot_be_made_ends_with_a_message(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused(capsys, tmp_path / "file" / "run")


# --- the attribute classifier -----------------------------------------------------------------------------------------


def test_another_classifier_of_the_same_run_stands_beside_the_first(rendered):
    folder = rendered[0] / "runs" / "one"
    before = {path.name for path in (folder / "classifier").iterdir()}
    run("--evaluate", f"--workdir={folder}", "--config.classifier.epochs=1")
    after = {path.name for path in (folder / "classifier").iterdir()}
    assert before < after
    assert len(after) == len(before) + 1


# --- what a page of several runs, and images of one's own, are refused for -------------------------------------------


def test_a_comparison_refuses_before_it_judges(rendered, tmp_path, capsys):
    one = str(rendered[0] / "runs" / "one")
    (tmp_path / "file").write_text("")
    for arguments, message in (
        ([one, f"{one}/"], "a run is named twice"),
        ([one, f"--output={tmp_path / 'file'}"], str(tmp_path / "file")),
        ([str(tmp_path)], "config.json does not exist"),
    ):
        with pytest.raises(SystemExit) as end:
            compare.main([f"--output={tmp_path / 'page'}", *arguments])
        assert end.value.code == 2
        assert message in capsys.readouterr().err


def test_own_images_of_unclear_gender_are_refused_before_training(tmp_path, capsys):
    folder = tmp_path / "own"
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = ["file,male,female,smiling,split"]
    for number in range(32):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{number}.png")
        split = ("train", "train", "validation", "calibration")[number % 4]
        male = number // 4 % 2
        lines.append(f"{number}.png,{male},{0 if number == 30 else 1 - male},{number // 8 % 2},{split}")
    (folder / "attributes.csv").write_text("\n".join(lines))
    own = [f"--config.data.source={folder}", "--config.model.attributes=male,female,smiling"]
    own.append(f"--config.data.cache_folder={tmp_path / 'cache'}")
    (folder / "attributes.csv").write_text("\n".join(lines).replace("30.png,1,0", "30.png,1,1"))
    small = [setting for setting in TINY if ".subset_size=" not in setting]
    message = command_lines.refused(capsys, "celebahq_mvae", tmp_path / "run", *small, *own)
    assert "the validation images cannot be judged" in message
    assert "is both or neither male and female" in message
    assert not (tmp_path / "run").exists()
