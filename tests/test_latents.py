"""The comparison of latent spaces, from end to end on small images."""

import dataclasses
import json

import disentanglement
import numpy as np
import pytest
from commands import assert_close, refused, run_all

from mvae_jax import runs
from mvae_jax.data import faces, shapes
from mvae_jax.eval import disentanglement as disentanglement_scores

LATENTS = [
    "--config.seeds=3,4",
    "--config.betas=1",
    "--config.total_correlation_weights=6",
    "--config.data.train_size=64",
    "--config.data.validation_size=120",
    "--config.model.widths=8",
    "--config.model.latent_size=3",
    "--config.model.epochs=1",
    "--config.model.batch_size=16",
    "--config.evaluation.trees=2",
    "--config.evaluation.votes=10",
    "--config.evaluation.scale_samples=64",
    "--config.evaluation.posterior_samples=8",
]


@pytest.fixture(scope="module")
def disentangled(tmp_path_factory):
    """A comparison of the beta-VAE with the beta-TCVAE on small shapes, and what the commands said."""
    folder, script = tmp_path_factory.mktemp("disentangled"), "experiments/disentanglement.py"
    run = [script, *LATENTS, "--config.model.image_size=16", "--workdir=run"]
    commands = {
        "planned": [*run, "--dry-run"],
        "run": run,
        "again": run,
        "changed": [*run, "--config.seeds=3,5"],
        "evaluated": [script, "--evaluate", "--workdir=run"],
    }
    return folder, dict(zip(commands, run_all(folder, *commands.values()), strict=True))


def test_a_model_per_setting_and_seed_is_trained_and_scored(disentangled):
    folder, results = disentangled
    assert results["run"]["code"] == 0
    scores = json.loads((folder / "run" / "scores.json").read_text())
    held_out = shapes.load("shapes", shapes.Settings(64, 120, 0, 16, 42)).validation
    x = held_out["image"].astype(np.float32) / 255
    for label, weight in (("beta_vae_1", 1), ("beta_tcvae_6", 6)):
        found = scores["models"][label]
        assert list(found) == ["3", "4"]
        for seed in found:
            trained = runs.load(folder / "run" / label / f"seed_{seed}")
            assert (disentanglement.beta_of(trained.config), trained.step) == (weight, 4)
            mean, logvar = (np.asarray(part) for part in trained.encode(2 * x - 1))
            mig = disentanglement_scores.mig(mean, held_out["factors"])
            assert found[seed]["MIG"] == pytest.approx(mig.value)
            assert found[seed]["mig"]["samples"] == 120
            error = np.square(np.asarray(trained.decode(mean)) / 2 + 0.5 - x).mean()
            assert found[seed]["squared error per value"] == pytest.approx(error, rel=1e-4)
            kl = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).sum(1).mean()
            assert found[seed]["KL"] == pytest.approx(kl, rel=1e-3, abs=1e-5)
        for name in ("NLL", "SAP"):
            low, high = sorted(found[seed][name] for seed in found)
            expected = {"median": (low + high) / 2, "lowest": low, "highest": high}
            assert scores["settings"][label][name] == pytest.approx(expected)
    # Untrained networks say one half for every pixel: log 2 for each.
    assert scores["settings"]["beta_vae_1"]["NLL"]["median"] == pytest.approx(256 * np.log(2), rel=0.1)


def test_a_comparison_of_latents_is_drawn_and_told(disentangled):
    workdir = disentangled[0] / "run"
    names = ["gaps", "mig_over_beta", "mig_over_reconstruction", "reconstructions", "traversals_best"]
    assert sorted(path.stem for path in (workdir / "figures").glob("*.png")) == [*names, "traversals_worst"]
    assert len(list((workdir / "figures").glob("*.gif"))) == 2
    report = (workdir / "report.html").read_text()
    assert report.count("<img") == 8
    assert "posterior means of 120 held-out images" in report
    assert json.loads((workdir / "scores.json").read_text())["statement"] in report


def test_latents_are_finished_and_scored_again_with_the_same_numbers(disentangled):
    folder, results = disentangled
    assert results["again"]["out"].startswith(f"{folder / 'run'} is finished")
    assert results["changed"]["code"] == 2
    assert "config.seeds: [3, 4] before, [3, 5] now" in results["changed"]["err"]
    assert "beta_tcvae_6/seed_3, beta_tcvae_6/seed_4\nparameters:" in results["planned"]["out"]
    assert results["evaluated"]["code"] == 0
    found, expected = (json.loads((folder / "run" / name / "scores.json").read_text()) for name in ("evaluation", ""))
    assert_close(found, expected)


def test_pairs_are_of_equal_error_and_named_where_there_is_none():
    models = disentanglement.Config(betas=(1.0, 4.0, 6.0), total_correlation_weights=(2.0, 8.0)).models()
    numbers = {
        "beta_vae_1": (0.0500, 0.02),
        "beta_vae_4": (0.1050, 0.10),
        "beta_vae_6": (0.0951, 0.30),
        "beta_tcvae_2": (0.0700, 0.15),
        "beta_tcvae_8": (0.1000, 0.20),
    }
    summary = {
        label: {"squared error per value": {"median": error}, "MIG": {"median": mig}}
        for label, (error, mig) in numbers.items()
    }
    pairs = disentanglement.equal_pairs(summary, models)
    assert [(pair["beta-TCVAE"], pair["beta-VAE"], pair["its MIG"], pair["MIG"]) for pair in pairs] == [
        (2.0, None, 0.15, None),
        (8.0, 4.0, 0.20, 0.10),
        (8.0, 6.0, 0.20, 0.30),
    ]
    said = disentanglement.state(pairs)
    assert "In 1 of 2 such pairs the beta-TCVAE has the higher median MIG: 0.200 at beta 8 against 0.100 at 4" in said
    assert said.endswith("No beta-VAE reconstructs as the beta-TCVAE of beta 2 does.")
    assert disentanglement.state(pairs[:1]).endswith("there is nothing to compare.")


@pytest.mark.parametrize("source", ["shapes", "faces"])
def test_images_of_given_factors_are_drawn_once_for_all_models(source, monkeypatch):
    sizes = {"train_size": 1, "validation_size": 100}
    model = dataclasses.replace(disentanglement.Config().model, channels=disentanglement.CHANNELS[source])
    config = disentanglement.Config(data=disentanglement.Data(source, **sizes), model=model)
    data, draw = disentanglement.load(config), disentanglement.artist(config)
    factors = data.train["factors"]
    assert list(factors[0] < list(disentanglement.FACTORS[source].values())) == [True] * factors.shape[1]
    drawn = draw(factors)
    assert drawn.shape == data.train["image"].shape
    # The factors of a shape are all there is to it; those of a face are not.
    assert (drawn == data.train["image"]).all() == (source == "shapes")
    others = draw((factors + 1) % 2)
    assert (others != drawn).any()
    monkeypatch.setattr(shapes, "render", None)
    monkeypatch.setattr(faces, "sample_bins", None)
    assert (draw(factors.copy()) == drawn).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.source=dsprites"], "data.source is 'dsprites'; choose one of 'shapes', 'faces'"),
        (["data.source=faces"], "model.channels is 1; expected 3 for images of faces"),
        (["data.validation_size=50"], "data.validation_size 50; expected at least 1, and 100"),
        (["data.train_size=800000"], "there are no more combinations"),
        (["model.image_size=48"], "image_size is 48, expected one of (16, 32, 64)"),
        (["model.batch_size=68"], "batch_size is 68, expected between 1 and the 64 examples"),
        (["seeds=1,1"], "seeds are (1, 1); expected at least one, and none twice"),
        (["seeds=-1"], "expected numbers from 0 to 2**32 - 1"),
        (["betas=-2"], "beta is -2.0; expected at least 0"),
        (["evaluation.votes=9"], "evaluation.votes is 9; expected at least 10"),
        (["model.latent_size=1"], "model.latent_size is 1; expected at least 2"),
        (["betas=1.0,1.0000001"], "expected values that differ in six digits"),
        (
            ["data.source=faces", "model.channels=3", "evaluation.votes=10"],
            "evaluation.votes is 10; expected at least one per factor, 11",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_with_latents_end_with_a_message_before_anything_is_made(tmp_path, capsys, arguments, message):
    settings = [*LATENTS, *(f"--config.{argument}" for argument in arguments)]
    assert message in refused(capsys, disentanglement, tmp_path / "run", *settings)
    assert not (tmp_path / "run").exists()
