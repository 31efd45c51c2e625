"""The comparison of multimodal VAEs: which models are trained on what, and a whole run on small faces."""

import dataclasses
import json

import numpy as np
import pytest
from command_lines import check_pictures, refused, script

from mvae_jax import experiment, runs
from mvae_jax.data import missing, sources
from mvae_jax.data.formats import five_views
from mvae_jax.data.rendered import faces
from mvae_jax.eval import cross_modal
from mvae_jax.eval.batched import pixels
from mvae_jax.experiment import listing, members
from mvae_jax.experiment.suites import family_rows
from mvae_jax.train import loop

SCRIPT = script("multimodal_family")
SMALL = [
    "--compilation-cache=",
    "--config.model.widths=4",
    "--config.model.latent_size=3",
    "--config.model.epochs=1",
    "--config.model.batch_size=8",
    "--config.evaluation.likelihood_samples=2",
    "--config.evaluation.likelihood_images=4",
    "--config.classifier.epochs=1",
]
TINY = [
    *SMALL,
    "--config.model.private_size=2",
    "--config.model.units=8",
    "--config.models=mmvae_plus,multimodal,unimodal",
    "--config.prior.epochs=1",
    "--config.hidden=0.0,0.5",
    "--config.seeds=3",
    "--config.data.subset_size=32",
    "--config.data.validation_fraction=0.25",
    "--config.data.calibration_size=8",
]
DATA = faces.Config(subset_size=32, validation_fraction=0.25, calibration_size=8)


def run(*arguments):
    experiment.run(listing.load("multimodal_family"), ["experiments/multimodal_family.py", *arguments])


def members_of(data, size=32, **fields):
    small = {"widths": (4, 6), "latent_size": 3, "private_size": 2, "units": 8, "batch_size": 8, "epochs": 5}
    shared = SCRIPT.Shared(image_size=size, **small)
    config = SCRIPT.Config(data=data, model=shared, **fields)
    request = SCRIPT.request(config)
    loaded = sources.load(data, image_size=size, pose=request.pose, missing_attributes=request.missing_attributes)
    return SCRIPT.members(config, loaded), loaded


def test_all_models_have_one_budget_and_their_own_part_of_the_data():
    chosen, data = members_of(DATA, seeds=(3, 4), hidden=(0.0, 0.5))
    assert list(chosen)[:3] == ["mvae/hidden_0/seed_3", "mvae/hidden_0/seed_4", "mvae/hidden_0.5/seed_3"]
    assert len(chosen) == 9 * 2 * 2
    plans = members.plan(chosen, data, loop.Settings())
    assert {plan.phases[-1].end for plan in plans.values()} == {5 * 24 // 8}  # of Kim's model in three phases
    assert {phase.batch_size for plan in plans.values() for phase in plan.phases} == {8}
    for folder, plan in plans.items():
        name, share, _ = folder.split("/")
        assert plan.config.latent_size == 3
        there = plan.data.train.present("attributes").mean()
        assert there == (1.0 if name == "multimodal" or share == "hidden_0" else 0.5)
    # Kim's model sees those alone that the others see whole, at the same seed.
    whole = missing.hide(data, {"attributes": 0.5}, 4).train
    images = {image.tobytes() for image in whole["image"][whole.present("attributes")]}
    seen = plans["multimodal/hidden_0.5/seed_4"].data.train
    assert {image.tobytes() for image in seen["image"]} == images
    assert [phase.steps for phase in plans["multimodal/hidden_0/seed_3"].phases] == [3, 3, 9]
    assert [m.private_size for m in plans["mmvae_plus/hidden_0/seed_3"].config.modalities] == [2, 0]
    assert [m.private_size for m in plans["mvae/hidden_0/seed_3"].config.modalities] == [0, 0]


def test_vaes_that_nothing_aligns_are_those_of_single_modalities():
    chosen, _ = members_of(DATA, seeds=(3,), hidden=(0.5,))
    aligned, alone = chosen["cada_vae/hidden_0.5/seed_3"], chosen["unimodal/hidden_0.5/seed_3"]
    assert (aligned.model, alone.model) == ("cada_vae", "cada_vae")
    assert alone.config == dataclasses.replace(aligned.config, beta=1.0, gamma=0.0, delta=0.0)
    learns = listing.load("multimodal_family").learns_prior
    assert [folder for folder in chosen if learns(folder)] == ["unimodal/hidden_0.5/seed_3"]


def test_the_pose_may_be_asked_for_by_a_flag(tmp_path, capsys):
    """Models without it would be of the same data, to which the flag has added it."""
    run(*TINY, "--config.pose=true", f"--workdir={tmp_path / 'run'}", "--dry-run")
    assert "pose: " in capsys.readouterr().out  # parameters of its encoder


def test_the_pose_is_a_third_modality_of_all_but_kims_model():
    chosen, _ = members_of(DATA, seeds=(3,), hidden=(0.0,), pose=True)
    assert chosen["jmvae/hidden_0/seed_3"].config.names == ("image", "attributes", "pose")
    assert chosen["multimodal/hidden_0/seed_3"].needs == ("image", "attributes")


def test_each_view_of_digits_but_the_first_is_hidden():
    chosen, data = members_of(five_views.Config(), size=8, seeds=(3,), hidden=(0.9,))
    assert len(chosen) == 7  # without those that need attributes
    part = chosen["mopoe/hidden_0.9/seed_3"].seen(data).train
    there = {name: part.present(name).mean() for name in ("image", "stripes", "checks", "inverted", "rotated")}
    assert there == pytest.approx({"image": 1.0, **dict.fromkeys(("stripes", "checks", "inverted", "rotated"), 0.1)})
    assert chosen["mmvae_plus/hidden_0.9/seed_3"].config.code_size == 3 + 5 * 2
    config = SCRIPT.Config(data=five_views.Config())
    assert SCRIPT.notes(config) == [
        "Left out of the comparison of digits, which have no attributes: Kim's model.",
        "Left out of the comparison of digits, which have no attributes: VAE and flow.",
    ]
    with pytest.raises(ValueError, match="models are multimodal, and the data have no attributes, which they need"):
        SCRIPT.members(SCRIPT.Config(data=five_views.Config(), models=("multimodal",)), data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models=mvae,vae"], "models has 'vae'; choose from mvae, mmvae"),
        (["models=mvae,mvae"], "expected at least one, and none twice"),
        (["prior.epochs=0"], "prior.epochs is 0, and 'unimodal' draws by a learned prior"),
        (["hidden=0.5,1.0"], "hidden are (0.5, 1.0); expected shares from 0 to below 1"),
        (["hidden=0.5,0.5000001"], "expected at least one, and none twice"),
        (["seeds=-1"], "expected numbers from 0 to 2**32 - 1"),
        (["model.private_size=0"], "private_size of image, attributes is 0; expected private dimensions"),
        (["models=mvae", "model.private_size=5"], "--config.model.private_size changes none of the models"),
        (["data.source=shapes"], "which this experiment does not take"),
        (["model.image_size=16"], "image_size"),
        (["hidden=0.99"], "training examples none has all of image, attributes"),
        (["data.source=five_views", "classifier.workdir=nowhere"], "nowhere"),
        (["data.source=five_views", "pose=true"], "which has no pose; expected one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_end_with_a_message_before_anything_is_made(tmp_path, capsys, arguments, message):
    few = [] if any("source" in argument for argument in arguments) else TINY[-3:]
    command = [*SMALL, *few, *(f"--config.{argument}" for argument in arguments)]
    assert message in refused(capsys, "multimodal_family", tmp_path / "run", *command)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Three models at two shares, on faces."""
    folder = tmp_path_factory.mktemp("family") / "run"
    run(*TINY, f"--workdir={folder}")
    return folder


@pytest.mark.slow  # trains a whole experiment
def test_shares_are_recorded_and_other_ones_refused(workdir, capsys):
    for name, needs in (("mmvae_plus", None), ("multimodal", ["image", "attributes"])):
        settings = runs.load(workdir / name / "hidden_0.5" / "seed_3").settings
        assert (settings["hidden"], settings.get("needs")) == ({"attributes": 0.5}, needs)
    message = refused(capsys, "multimodal_family", workdir, *TINY, "--config.hidden=0.0,0.25")
    assert "config.hidden: [0.0, 0.5] before, [0.0, 0.25] now" in message


@pytest.mark.slow  # likewise
def test_scores_are_those_of_the_models(workdir):
    scores = json.loads((workdir / "scores.json").read_text())
    data = sources.load(DATA, image_size=32)
    x, a = pixels(data.validation), data.validation["attributes"]
    labels = [f"{name}/hidden_{share}" for name in ("mmvae_plus", "multimodal") for share in ("0", "0.5")]
    by_flow = ["unimodal/hidden_0", "unimodal/hidden_0.5"]
    assert list(scores["agreement"]["rows"]) == labels + by_flow
    distances = ["frechet_given_0", "frechet_given_1", "frechet_given_image"]
    for label in by_flow:
        assert list(scores["agreement"]["trials"][label]["3"]) == ["text_to_image"]
        assert list(scores["distances"]["trials"][label]["3"]) == distances
    flows = {path.parents[3].name for path in workdir.rglob("latent_flow/*/metrics.jsonl")}
    assert flows == {"hidden_0", "hidden_0.5"}
    assert not list((workdir / "mmvae_plus").rglob("latent_flow"))
    for label in labels:
        trained = runs.load(workdir / label / "seed_3")
        read = cross_modal.score_attributes(trained.decode_attributes(trained.encode_image(x)[0]), a, data.attributes)
        row = scores["agreement"]["rows"][label]
        assert row["image_to_text"] == {"mean": pytest.approx(read.accuracy), "deviation": None, "n": 1}
        assert set(row) == {"model", "hidden", "image_to_text", "text_to_image"} | {
            f"consistency_{name}" for name in ("accuracy", "f1", "auroc")
        }
        likelihoods = scores["likelihoods"]["trials"][label]["3"]
        assert bool(likelihoods) == label.startswith("mmvae_plus")
        assert np.isfinite(list(likelihoods.values())).all()
        assert list(scores["distances"]["trials"][label]["3"]) == distances
        assert 0 <= scores["probes"]["trials"][label]["3"]["probe"] <= 1
    majority = np.maximum(a.mean(0), 1 - a.mean(0)).mean()
    known = scores["agreement"]["references"]["always the more frequent answer"]
    assert known["image_to_text"] == pytest.approx(majority)


@pytest.mark.slow  # likewise
def test_the_report_shows_curves_sheets_and_tables(workdir):
    check_pictures(workdir, 5)
    names = sorted(path.stem for path in (workdir / "figures").iterdir())
    assert names == ["all_models", "over_hidden_share", "sheet_mmvae_plus", "sheet_multimodal", "sheet_unimodal"]
    html = (workdir / "report.html").read_text()
    for text in (
        "Attributes 0% hidden in training",
        "Attributes 50% hidden in training",
        SCRIPT.suite.KIM_ALONE,
        SCRIPT.suite.FLOW,
    ):
        assert text.replace("'", "&#x27;") in html
    assert "other images than those of the run" not in html
    assert family_rows.MODELS["mmvae_plus"] in html


@pytest.mark.slow  # trains a whole experiment
def test_digits_are_read_by_a_classifier_of_each_view(tmp_path):
    folder = tmp_path / "digits"
    run(
        *SMALL,
        "--config.data.source=five_views",
        "--config.models=mopoe",
        "--config.hidden=0.5",
        "--config.seeds=3,4",
        "--config.evaluation.images=40",
        "--config.model.batch_size=100",
        f"--workdir={folder}",
    )
    scores = json.loads((folder / "scores.json").read_text())["agreement"]
    row = scores["rows"]["mopoe/hidden_0.5"]
    given = [f"coherence_given_{count}" for count in (1, 2, 3, 4)]
    assert list(row) == ["model", "hidden", *given, "coherence_joint", "coherence_classes"]
    for key in given:
        low, high = sorted(trial[key] for trial in scores["trials"]["mopoe/hidden_0.5"].values())
        assert row[key] == {
            "mean": pytest.approx((low + high) / 2),
            "deviation": pytest.approx((high - low) / np.sqrt(2)),
            "n": 2,
        }
    assert len(list((folder / "classifier").glob("*/config.json"))) == 5
    check_pictures(folder, 3)
    # Classifiers are there: to measure again trains nothing.
    before = {path: path.stat().st_mtime for path in (folder / "classifier").rglob("manifest.json")}
    run("--evaluate", "--compilation-cache=", f"--workdir={folder}")
    assert {path: path.stat().st_mtime for path in (folder / "classifier").rglob("manifest.json")} == before
    again = json.loads((folder / "evaluation" / "scores.json").read_text())["agreement"]
    assert again["trials"] == scores["trials"]
