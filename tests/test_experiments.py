"""The experiments from end to end on data and weights made on the spot: what users run, and what they get wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import attribute_cvae
import celebahq_mvae
import commands
import compare_runs
import jax
import jax.numpy as jnp
import judge
import numpy as np
import pytest
from commands import ROOT, assert_close, check_pictures, environment, run_all
from PIL import Image
from published import write_celeba, write_cub
from safetensors.numpy import save_file

from mvae_jax import runs
from mvae_jax.data import faces
from mvae_jax.data.batches import Split, Splits
from mvae_jax.train.logging import read_metrics
from mvae_jax.train.workdir import Workdir

SCRIPT = ROOT / "experiments" / "celebahq_mvae.py"
TINY = [
    "--config.model.image_size=32",
    "--config.model.latent_size=4",
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
NOTE = "No VGG weights were given (--config.vgg_weights): the perceptual term is off."


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """A run on rendered faces, from a folder of its own, and what the commands after it said."""
    folder = tmp_path_factory.mktemp("rendered")
    command = [*TINY, "--workdir=runs/one"]
    short = [*TINY, "--config.model.alignment.epochs=0", "--config.model.adversarial.epochs=0", "--workdir=runs/two"]
    started = [*short, "--config.start_from=runs/one"]
    longer = [*started, "--config.model.unimodal.epochs=2"]
    commands = {
        "first": command,
        "again": [*command, "--config.training.log_every=1"],
        "changed": [*command, "--config.seed=43", "--config.model.latent_size=5"],
        "plan": [*TINY, "--dry-run", "--workdir=runs/none"],
        "evaluated": ["--evaluate", "--workdir=runs/one"],
        "misfit": [*TINY, "--dry-run", "--config.start_from=runs/one", "--config.model.latent_size=5"],
        "started": started,
        "longer": longer,
        "extended": [*longer, "--extend"],
        "elsewhere": ["--evaluate", "--workdir=runs/two", "--config.data.seed=43", "--config.judge.epochs=0"],
        "compared": ["experiments/compare_runs.py", "runs/one", "runs/two", "--output=runs/comparison"],
    }
    return folder, dict(zip(commands, run_all(folder, *commands.values()), strict=True))


def check_files(workdir, phases):
    """The files of a finished run of these phases, an epoch each."""
    check_pictures(workdir, 13)
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

    scores = json.loads((workdir / "finished.json").read_text())
    assert scores["consistency"]["validation_images"] == scores["consistency"]["calibration_images"] == 16
    assert 0 <= scores["consistency"]["rates"]["f1"] <= 1
    assert len(scores["image_to_text"]["attributes"]) == 10
    assert scores["judged"]["held-out images"]["count"] == 16
    assert len(scores["judged"]) == 5
    assert np.isfinite([scores["psnr"], scores["psnr_from_text"]]).all()
    return scores


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


def test_the_same_command_says_that_the_run_is_finished(rendered):
    folder, results = rendered
    workdir = folder / "runs" / "one"
    assert results["again"]["code"] == 0
    assert results["again"]["out"] == f"{workdir} is finished; its report is {workdir / 'report.html'}.\n"


def test_another_config_is_refused_with_both_values(rendered):
    command = rendered[1]["changed"]
    assert (command["code"], command["out"]) == (2, "")
    assert "error: " in command["err"]
    assert "config.seed: 42 before, 43 now" in command["err"]
    assert "config.model.latent_size: 4 before, 5 now" in command["err"]
    assert len(re.findall("before, .* now", command["err"])) == 2


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


def test_judging_the_workdir_again_gives_the_same_numbers(rendered):
    folder, results = rendered
    workdir = folder / "runs" / "one"
    assert results["evaluated"]["code"] == 0
    check_pictures(workdir / "evaluation", 13)
    assert "Judged at step 18, in phase adversarial." in (workdir / "evaluation" / "report.html").read_text()
    found = json.loads((workdir / "evaluation" / "scores.json").read_text())
    expected = json.loads((workdir / "finished.json").read_text())
    del expected["finished"]
    assert_close(found, expected)
    assert expected == json.loads((workdir / "scores.json").read_text())


def test_a_running_workdir_may_be_judged(rendered, capsys):
    with Workdir(rendered[0] / "runs" / "one").lock():
        celebahq_mvae.main(["", "--evaluate", f"--workdir={rendered[0] / 'runs' / 'one'}"])
    assert "consistency F1" in capsys.readouterr().err


def test_other_images_are_said_to_be_others(rendered):
    folder, results = rendered
    report = (folder / "runs" / "two" / "evaluation" / "report.html").read_text()
    assert results["elsewhere"]["code"] == 0
    assert "These are other images than those of the run" in report
    assert "No judge" in report
    assert not (folder / "runs" / "two" / "evaluation" / "judge").exists()


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
    assert json.loads((workdir / "finished.json").read_text())["step"] == 12


def test_runs_are_compared_on_one_page(rendered):
    folder, results = rendered
    page, one = folder / "runs" / "comparison", folder / "runs" / "one"
    assert results["compared"]["code"] == 0
    check_pictures(page, 3)
    assert "Comparison of one, two" in (page / "report.html").read_text()
    scores = json.loads((page / "scores.json").read_text())
    assert list(scores) == ["one", "two"]
    expected = json.loads((one / "scores.json").read_text())
    del expected["judged"], expected["diversity"], scores["one"]["judged"], scores["one"]["diversity"]
    assert_close(scores["one"], expected)  # but for the judge, which was trained anew
    assert scores["two"]["step"] == 12


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
        while "phase unimodal" not in log:
            log += process.stderr.readline() or pytest.fail(log)
        process.send_signal(signal.SIGTERM)
        log += process.stderr.read()
    assert process.returncode == 143
    assert "SIGTERM: stopping as soon as the state is saved." in log
    step = int(re.search(r"saved at step (\d+); the same command goes on from there", log)[1])
    assert "Traceback" not in log

    resumed, other_weights = run_all(
        celebamask_hq, [*command, zipped, weights.format(0)], [*command, zipped, weights.format(1)]
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
    return commands.refused(capsys, celebahq_mvae, workdir, *TINY, *arguments, code=code)


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
        (["vgg_weights={folder}"], "Is a directory"),
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
        (["judge.workdir={folder}/none"], "none/config.json does not exist; expected the workdir of a run"),
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
    filled.append(f"--config.data.cache_folder={tmp_path / 'cache'}")
    assert message.format(folder=tmp_path) in refused(capsys, tmp_path / "run", *filled)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_workdir_that_cannot_be_made_ends_with_a_message(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused(capsys, tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("error", "message"), [(OSError(28, "No space left on device"), "No space left on device")], ids=["full disk"]
)
def test_errors_while_it_trains_end_with_a_message(tmp_path, capsys, monkeypatch, error, message):
    def fit(*_, **__):
        raise error

    monkeypatch.setattr(celebahq_mvae.loop, "fit", fit)
    assert message.format(folder=tmp_path) in refused(capsys, tmp_path / "run", code=1)
    assert sorted(os.listdir(tmp_path / "run")) == ["config.json", "lock"]
    # The lock is free, and another try is the same run.
    assert message.format(folder=tmp_path) in refused(capsys, tmp_path / "run", code=1)


# --- the judge -------------------------------------------------------------------------------------------------------


def test_another_judge_of_the_same_run_stands_beside_the_first(rendered):
    folder = rendered[0] / "runs" / "one"
    before = {path.name for path in (folder / "evaluation" / "judge").iterdir()}
    celebahq_mvae.main(["", "--evaluate", f"--workdir={folder}", "--config.judge.epochs=1"])
    after = {path.name for path in (folder / "evaluation" / "judge").iterdir()}
    assert before < after
    assert len(after) == len(before) + 1


def test_a_judge_is_trained_alone_and_named_by_a_run(tmp_path, capsys):
    sizes = ["--config.data.subset_size=64", "--config.data.validation_fraction=0.25"]
    small = ["--config.model.image_size=32", "--config.model.batch_size=8", "--config.model.epochs=1"]
    arguments = [*sizes, "--config.data.calibration_size=16", *small, f"--workdir={tmp_path / 'judge'}"]
    judge.main(["", *arguments])
    check_pictures(tmp_path / "judge", 3)
    expected = json.loads((tmp_path / "judge" / "finished.json").read_text())
    assert expected["count"] == 16
    named = [*TINY, "--dry-run", f"--config.judge.workdir={tmp_path / 'judge'}", f"--workdir={tmp_path / 'run'}"]
    celebahq_mvae.main(["", *named])
    capsys.readouterr()
    assert "the judge was trained on other images" in refused(
        capsys, tmp_path / "run", *named[-3:], "--config.data.seed=43"
    )
    reads_five = "--config.model.attributes=young,male,female,smiling,bald"
    assert "the judge reads young, male" in refused(capsys, tmp_path / "run", *named[-3:], reads_five)


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
            compare_runs.main(["", f"--output={tmp_path / 'page'}", *arguments])
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
    message = refused(capsys, tmp_path / "run", *own)
    assert "the validation images cannot be judged" in message
    assert "is both or neither male and female" in message
    assert not (tmp_path / "run").exists()


# --- the attribute CVAE ----------------------------------------------------------------------------------------------

CVAE = [
    "experiments/attribute_cvae.py",
    "--config.model.latent_size=4",
    "--config.model.widths=4",
    "--config.model.epochs=1",
    "--config.betas=0.25,0.9",
    "--config.judge.image_size=16",
    "--config.judge.epochs=1",
    "--config.data.cache_folder=cache",
]
FACES = [
    "--config.model.image_size=32,32",
    "--config.data.subset_size=80",
    "--config.data.validation_fraction=0.2",
    "--config.data.calibration_size=1",
]


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    """Runs of the attribute CVAE on rendered faces and on birds, and what the commands said."""
    folder = tmp_path_factory.mktemp("conditional")
    write_cub(folder / "CUB_200_2011", np.random.default_rng(0))
    run, again = [*CVAE, *FACES, "--workdir=runs/faces"], [CVAE[0], "--evaluate", "--workdir=runs/faces"]
    birds = [*CVAE, "--preset=cub", "--config.data.source=CUB_200_2011", "--config.model.image_size=11,10"]
    birds += ["--config.model.batch_size=3", "--workdir=runs/birds"]
    commands = {
        "planned": [*birds, "--dry-run"],
        "birds": birds,
        "faces": run,
        "again": run,
        "changed": [*run, "--config.betas=0.25,0.5,0.9"],
        "unjudged": [*again, "--config.judge.epochs=0"],
        "elsewhere": [*again, "--config.judge.epochs=0", "--config.data.seed=43", "--config.betas=0.9"],
        "misfit": [*again, "--config.data.source=CUB_200_2011"],
    }
    return folder, dict(zip(commands, run_all(folder, *commands.values()), strict=True))


def test_a_cvae_for_each_beta_is_trained_measured_and_drawn(conditional):
    folder, results = conditional
    workdir, log = folder / "runs" / "faces", results["faces"]["err"]
    assert results["faces"]["code"] == 0
    check_pictures(workdir, 10)
    assert "beta_0.9: kl weighs 9, which is 0.0117 per dimension and pixel value" in log  # 9 * 4 / (32 * 32 * 3)
    scores = json.loads((workdir / "scores.json").read_text())
    assert list(scores["terms"]["held-out images"]) == ["beta_0.9", "beta_0.25"]
    for terms in scores["terms"].values():
        assert all(
            found["squared_error"] == pytest.approx(3072 * found["mean_squared_error"]) for found in terms.values()
        )
    assert {label: runs.load(workdir / label).config.beta for label in ("beta_0.9", "beta_0.25")} == {
        "beta_0.9": 0.9,
        "beta_0.25": 0.25,
    }
    held_out = faces.splits(42, 80, 16, 1, image_size=32).validation["attributes"]
    majority = np.maximum(held_out.mean(0), 1 - held_out.mean(0)).mean()
    assert list(scores["agreements"]) == ["held-out images", "beta_0.9", "beta_0.25"]
    for agreement in scores["agreements"].values():
        assert agreement["attributes"]["count"] == 16
        assert agreement["attributes"]["majority_accuracy"] == pytest.approx(majority)
        assert agreement["species"] is None
    report = (workdir / "report.html").read_text()
    assert "all images are resized to 16 x 16 pixels" in report
    kept = scores["orderings"]["held-out images"]
    said = [f"the {what}: {'yes' if holds else 'no'}" for what, holds in kept.items()]
    assert f"As beta falls, on held-out images, {' and '.join(said)}." in report
    assert f"As beta falls, on held-out images, {' and '.join(said)}." in log
    assert "only orderings can be compared" not in report  # the paper has no numbers of such images


def test_the_cvaes_are_finished_and_measured_again_with_the_same_numbers(conditional):
    folder, results = conditional
    workdir = folder / "runs" / "faces"
    assert results["again"]["out"] == f"{workdir} is finished; its report is {workdir / 'report.html'}.\n"
    assert "config.betas: [0.25, 0.9] before, [0.25, 0.5, 0.9] now" in results["changed"]["err"]
    expected = json.loads((workdir / "scores.json").read_text())
    assert results["unjudged"]["code"] == 0
    assert "the judge reads samples of beta 0.9: accuracy 0." in results["faces"]["err"]
    for line in expected["terms"]["held-out images"].values():
        assert f"squared error {line['squared_error']:.1f}, KL {line['kl']:.2f} nats" in results["unjudged"]["err"]
    found = json.loads((workdir / "evaluation" / "scores.json").read_text())  # of the last of the commands
    assert (list(found["terms"]["held-out images"]), found["orderings"], found["agreements"]) == (["beta_0.9"], {}, {})
    report = (workdir / "evaluation" / "report.html").read_text()
    assert "No judge" in report
    assert "These are other images than those of the run" in report
    assert "other images" not in results["unjudged"]["err"]
    assert results["misfit"]["code"] == 2
    assert "was trained with other attributes than is asked for" in results["misfit"]["err"]


def test_birds_have_the_attributes_of_the_data_and_species_that_the_judge_tells_apart(conditional):
    folder, results = conditional
    workdir = folder / "runs" / "birds"
    assert results["planned"]["out"].count("data_set: CUB-200-2011") == 2
    assert results["birds"]["code"] == 0
    check_pictures(workdir, 10)
    assert runs.load(workdir / "beta_0.25").config.attributes == ("has_wings::yes", "001.Bird", "002.Bird")
    scores = json.loads((workdir / "scores.json").read_text())
    for agreement in scores["agreements"].values():
        assert agreement["species"]["chance"] == 0.5
        assert agreement["species"]["majority_accuracy"] == pytest.approx(2 / 3)
    report = (workdir / "report.html").read_text()
    assert '<td class="number">20129</td>' in report
    assert "only orderings can be compared" in report


def test_error_and_divergence_are_sums_over_an_image():
    pixels = np.random.default_rng(0).integers(0, 256, (70, 2, 3, 3), np.uint8)
    codes = np.linspace(-1, 1, 70)[:, None] * np.ones(4)
    encoded = iter([(codes[:64], np.ones((64, 4))), (codes[64:], np.ones((6, 4)))])
    run = SimpleNamespace(
        config=SimpleNamespace(image_shape=(2, 3, 3)),
        encode=lambda x, a: tuple(map(jnp.float32, next(encoded))),
        decode=lambda z, a: jnp.zeros((len(z), 2, 3, 3)),
        prior=lambda a: (jnp.zeros((len(a), 4)), jnp.zeros((len(a), 4))),
    )
    split = Split({"image": pixels, "attributes": np.zeros((70, 1), np.float32)})
    found = attribute_cvae.measure(run, split, jax.random.key(0))
    errors = np.square(pixels / 255 - 0.5)
    assert found["squared_error"] == pytest.approx(errors.sum((1, 2, 3)).mean(), rel=1e-5)
    assert found["mean_squared_error"] == pytest.approx(errors.mean(), rel=1e-5)
    assert found["kl"] == pytest.approx(0.5 * (np.square(codes) + np.e - 2).sum(1).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("errors", "divergences", "expected"),
    [([3, 2, 1], [1, 2, 3], [True, True]), ([3, 2, 2], [1, 3, 2], [False, False]), ([3, 1], [2, 1], [True, False])],
)
def test_orderings_hold_from_each_model_to_the_next(errors, divergences, expected):
    terms = [{"squared_error": error, "kl": kl} for error, kl in zip(errors, divergences, strict=True)]
    assert list(attribute_cvae.orderings(terms).values()) == expected


def test_species_are_told_by_the_largest_of_their_logits():
    names = ("has_wings::yes", "001.A", "017.B", "200.C")
    truth = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 1, 0], [1, 0, 0, 1]], np.float32)
    logits = np.array([[9, -1, -2, -3], [9, -3, -1, -2], [9, 2, 1, 0], [9, 0, 1, 2]], np.float32)
    found = attribute_cvae.Species.of(logits, truth, names)
    assert (found.accuracy, found.majority_accuracy, found.chance) == (0.75, 0.5, pytest.approx(1 / 3))
    assert attribute_cvae.Species.of(logits[:, :3], truth[:, :3], names[:3]) is None  # the last bird is of neither
    assert attribute_cvae.Species.of(logits[:, :2], truth[:, :2], names[:2]) is None


def test_the_judge_reads_real_images_and_samples_at_its_own_size():
    def logits(pictures):
        assert pictures.shape[1:] == (16, 16, 3)
        return pictures.mean((1, 2))[:, :2]

    reader = SimpleNamespace(run=SimpleNamespace(config=SimpleNamespace(image_size=16), logits=logits))
    pixels = np.tile(np.arange(70, dtype=np.uint8)[:, None, None, None], (1, 23, 18, 3))
    attributes = np.stack([np.arange(70) % 2, np.arange(70) // 35], axis=1).astype(np.float32)
    split = Split({"image": pixels, "attributes": attributes})
    real = attribute_cvae.read(reader, None, split, jax.random.key(0))
    np.testing.assert_allclose(real[:, 0], np.arange(70) / 127.5 - 1, atol=1e-5)
    drawn = attribute_cvae.read(
        reader,
        SimpleNamespace(
            prior=lambda a: (jnp.zeros((len(a), 4)), jnp.zeros((len(a), 4))),
            decode=lambda z, a: jnp.broadcast_to(jnp.pad(a, ((0, 0), (0, 1)))[:, None, None], (len(a), 23, 18, 3)),
        ),
        split,
        jax.random.key(0),
    )
    np.testing.assert_allclose(drawn, attributes, atol=1e-6)


def test_edits_keep_the_code_and_invert_one_attribute_of_those_that_faces_have():
    names = ("sideburns", "smiling", "male", "bald")
    attributes = np.random.default_rng(0).integers(0, 2, (9, 4)).astype(np.float32)
    split = Split({"image": np.zeros((9, 2, 2, 3), np.uint8), "attributes": attributes})
    data = Splits(split, split, split.first(0), names, {})
    decoded = []
    run = SimpleNamespace(
        encode=lambda x, a: (a, a),
        decode=lambda z, a: decoded.append((np.array(z), np.array(a))) or jnp.zeros((len(z), 2, 2, 3)),
    )
    rows = attribute_cvae.edits(run, data)
    shown = attributes[[0, 1, 3, 4, 6, 8]]
    assert list(rows)[:2] == ["original", "reconstruction"]
    assert set(list(rows)[2:5]) == {"smiling inverted", "male inverted", "bald inverted"}
    assert list(rows)[5:] == ["sideburns inverted"]
    np.testing.assert_array_equal(decoded[0], [shown, shown])
    for label, (code, other) in zip(list(rows)[2:], decoded[1:], strict=True):
        column = names.index(label.split()[0])
        np.testing.assert_array_equal(code, shown)
        np.testing.assert_array_equal(np.argwhere(code != other), [[row, column] for row in range(6)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset=celeba"], "--preset=celeba is of CelebA, and data.source is 'rendered'; give the path of"),
        (["--preset=cub"], "--preset=cub is of CUB-200-2011"),
        (["--config.betas=0.5,0.5"], "expected one to ten, and none twice"),
        (["--config.betas=0.5,1.0"], "beta is 1.0; expected between 0 and 1"),
        (["--config.model.beta=0.75"], "model.beta is 0.75; expected --config.betas=0.75 instead"),
        (["--config.judge.image_size=20"], "image_size is 20; expected a multiple of 16"),
        (["--config.judge.epochs=-1"], "judge.epochs is -1"),
        (["--config.model.attributes=smiling,tall"], "rendered faces have no attribute tall"),
        (["--config.model.image_size=32,24"], "image_size is (32, 24); expected one number: images of rendered are"),
        (["--extend"], "start another workdir"),
        (["--evaluate"], "config.json does not exist"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_with_a_cvae_end_with_a_message_before_anything_is_made(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        attribute_cvae.main(["", *FACES, f"--workdir={tmp_path / 'run'}", *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_celeba_gives_a_cvae_all_its_attributes_or_those_that_are_named(tmp_path, capsys):
    write_celeba(tmp_path / "celeba", np.random.default_rng(0))
    source = [f"--config.data.source={tmp_path / 'celeba'}", f"--config.data.cache_folder={tmp_path / 'cache'}"]
    small = ["--config.model.image_size=12,10", "--config.model.widths=4", "--config.model.batch_size=4"]
    for named, channels in (([], 6), (["--config.model.attributes=young,smiling"], 5)):
        attribute_cvae.main(["", "--preset=celeba", "--dry-run", *source, *small, *named])
        plan = capsys.readouterr().out
        assert f"  encoder: {9 * channels * 4 + 4 + 2 * (6 * 5 * 4 + 1) * 128:,}" in plan
        assert "phases:\n  training: steps 0 to 250, 4 images of (12, 10) px" in plan
        assert "crop: none" in plan
