"""The comparison of latent spaces, from end to end on small images."""

import json

import numpy as np
import pytest
from command_lines import check_pictures, refused, script

from mvae_jax import experiment, runs
from mvae_jax.data import sources
from mvae_jax.data.rendered import shapes
from mvae_jax.eval import disentanglement as scoring
from mvae_jax.experiment import listing
from mvae_jax.experiment.suites import disentanglement as suite
from mvae_jax.viz import report

pytestmark = pytest.mark.slow  # trains a whole experiment

TINY = [
    "--compilation-cache=",
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
    "--config.evaluation.votes=20",
    "--config.evaluation.scale_samples=64",
    "--config.evaluation.posterior_samples=8",
]


def run(*arguments):
    experiment.run(listing.load("disentanglement"), ["experiments/disentanglement.py", *TINY, *arguments])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A comparison of the beta-VAE with the beta-TCVAE on small shapes."""
    folder = tmp_path_factory.mktemp("disentanglement") / "run"
    run("--config.model.image_size=16", "--config.data.seed=5", f"--workdir={folder}")
    return folder


def test_a_model_per_setting_and_seed_is_trained_and_scored(workdir):
    scores = json.loads((workdir / "scores.json").read_text())["disentanglement"]
    held_out = shapes.load("shapes", shapes.Settings(64, 120, 0, 16, 5)).validation
    x = held_out["image"].astype(np.float32) / 255
    for label, weight in (("beta_vae_1", 1), ("beta_tcvae_6", 6)):
        rows = scores["models"][label]
        assert list(rows) == ["3", "4"]
        for seed, row in rows.items():
            assert list(row) == [*suite.WORDS, "details"]
            trained = runs.load(workdir / label / f"seed_{seed}")
            assert (suite.beta_of(trained.config), trained.step) == (weight, 4)
            mean, logvar = (np.asarray(part) for part in trained.encode(2 * x - 1))
            mig = scoring.mig(mean, held_out["factors"])
            assert row["mig"] == pytest.approx(mig.value)
            assert row["details"]["mig"]["samples"] == 120
            assert row["sap"] == pytest.approx(scoring.sap(mean, held_out["factors"]).value)
            assert row["details"]["dci"]["estimator"].startswith("random forest, 2 trees")
            assert row["details"]["mig"]["dimensions"] == list(mig.dimensions)
            error = np.square(np.asarray(trained.decode(mean)) / 2 + 0.5 - x).mean()
            assert row["squared_error"] == pytest.approx(error, rel=1e-4)
            kl = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).sum(1).mean()
            assert row["kl"] == pytest.approx(kl, rel=1e-3, abs=1e-5)
        for name in ("nll", "sap"):
            low, high = sorted(row[name] for row in rows.values())
            expected = {"median": (low + high) / 2, "lowest": low, "highest": high}
            assert scores["settings"][label][name] == pytest.approx(expected)
    # Untrained networks say one half for every pixel: log 2 for each.
    assert scores["settings"]["beta_vae_1"]["nll"]["median"] == pytest.approx(256 * np.log(2), rel=0.1)


def test_the_report_shows_tables_statement_and_figures(workdir):
    names = [
        "gaps",
        "kl",
        "mean_squared_error",
        "mig_over_beta",
        "mig_over_reconstruction",
        "reconstructions",
        "traversals_best",
    ]
    assert sorted(path.stem for path in (workdir / "figures").glob("*.png")) == [*names, "traversals_worst"]
    assert len(list((workdir / "figures").glob("*.gif"))) == 2
    check_pictures(workdir, 10)
    html = (workdir / "report.html").read_text()
    assert "posterior means of 120 held-out images" in html
    scores = json.loads((workdir / "scores.json").read_text())["disentanglement"]
    assert scores["statement"] in html
    (pair,) = scores["equal_reconstruction"]
    medians = {label: {key: row[key]["median"] for key in row} for label, row in scores["settings"].items()}
    assert (pair["beta_tcvae"], pair["beta_tcvae_mig"]) == (6.0, medians["beta_tcvae_6"]["mig"])
    # After four steps all reconstruct alike.
    assert (pair["beta_vae"], pair["beta_vae_mig"]) == (1.0, medians["beta_vae_1"]["mig"])
    shown = html.split("Medians over 2 seeds")[1].split("</table>")[0]
    for text in report.written([row["mig"] for row in medians.values()]):
        assert f">{text}<" in shown


def test_the_models_by_folder():
    module = script("disentanglement")
    presets = module.EXPERIMENT.presets
    assert (presets["laptop"].evaluation.dci, presets["long"].evaluation.dci) == ("random_forest", "gradient_boosting")
    sizes = {"train_size": 1, "validation_size": 100}
    config = module.Config(data=shapes.Config(**sizes))
    members = module.members(config, sources.load(config.data, image_size=32))
    assert list(members)[:4] == [f"beta_vae_{rest}" for rest in ("2/seed_0", "2/seed_1", "2/seed_2", "6/seed_0")]
    assert len(members) == 12
    member = members["beta_tcvae_8/seed_1"]
    assert (member.model, member.seed, member.config.total_correlation_weight) == ("beta_tcvae", 1, 8.0)
    assert (member.config.channels, member.config.widths) == (1, (128, 128))


def test_channels_are_those_of_the_images(tmp_path, capsys):
    workdir = f"--workdir={tmp_path / 'run'}"
    # To give them is no mistake.
    run("--config.data.source=faces", "--config.model.channels=3", "--dry-run", workdir)
    plan = capsys.readouterr().out
    assert "beta_tcvae_6/seed_3, beta_tcvae_6/seed_4\nparameters:" in plan
    # 32 x 32 x 3 values to 8 units, and these to mean and log variance of 3 dimensions.
    assert f"encoder: {3072 * 8 + 8 + 8 * 6 + 6:,}" in plan
    assert list(tmp_path.iterdir()) == []


def test_the_published_images_are_refused():
    with pytest.raises(ValueError, match="choose one of 'shapes', 'faces', for the FactorVAE score draws further"):
        script("disentanglement").Config(data=shapes.Config(source="dsprites.npz"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.source=dsprites"], "There is no folder or zip dsprites"),
        (["data.source=digits"], "which this experiment does not take"),
        (["model.channels=3"], "--config.model.channels changes none of the models"),
        (["data.validation_size=50"], "data.validation_size 50; expected at least 1, and 100"),
        (["data.train_size=800000"], "there are no more combinations"),
        (["model.image_size=48"], "image_size is 48, expected one of (16, 32, 64)"),
        (["model.batch_size=68"], "batch_size is 68, expected between 1 and the 64 examples"),
        (["seeds=1,1"], "seeds are (1, 1); expected at least one, and none twice"),
        (["seeds=-1"], "expected numbers from 0 to 2**32 - 1"),
        (["betas=1.0,1.0"], "betas are (1.0, 1.0); expected at least one, and none twice"),
        (["betas=-2"], "beta is -2.0; expected at least 0"),
        (["evaluation.votes=9"], "evaluation.votes is 9; expected at least 10"),
        (["evaluation.dci=lasso"], "evaluation.dci is 'lasso'; choose one of 'gradient_boosting', 'random_forest'"),
        (["model.latent_size=1"], "model.latent_size is 1; expected at least 2"),
        (["betas=1.0,1.0000001"], "expected values that differ in six digits"),
        (["data.source=faces", "evaluation.votes=10"], "evaluation.votes is 10; expected at least one per factor, 11"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_end_with_a_message_before_anything_is_made(tmp_path, capsys, arguments, message):
    settings = [*TINY, *(f"--config.{argument}" for argument in arguments)]
    assert message in refused(capsys, "disentanglement", tmp_path / "run", *settings)
    assert not (tmp_path / "run").exists()
