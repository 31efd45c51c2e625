"""Settings that reconstruct equally well, and images of given factors."""

from types import SimpleNamespace

import numpy as np
import pytest

from mvae_jax.data import sources
from mvae_jax.data.rendered import binned_faces, faces, shapes
from mvae_jax.experiment import pages
from mvae_jax.experiment.suites import disentanglement as suite


def setting(method, beta, *trials):
    """A setting with the squared error and MIG of each trial."""
    scores = {
        seed: suite.Scores({"squared_error": error, "mig": mig}, {}) for seed, (error, mig) in enumerate(trials, 5)
    }
    return suite.Setting(method, beta, beta / 10, scores)


SETTINGS = {
    "beta_vae_1": setting("beta_vae", 1.0, (0.0500, 0.02)),
    "beta_vae_4": setting("beta_vae", 4.0, (0.1050, 0.10)),
    "beta_vae_6": setting("beta_vae", 6.0, (0.0951, 0.30)),
    "beta_tcvae_2": setting("beta_tcvae", 2.0, (0.0700, 0.15)),
    "beta_tcvae_8": setting("beta_tcvae", 8.0, (0.0900, 0.10), (0.1000, 0.50), (0.2000, 0.20)),
}


def test_pairs_are_of_equal_error_and_named_where_there_is_none():
    pairs = suite.equal_pairs(SETTINGS)
    assert pairs == [
        suite.Pair(2.0, 0.07, 0.15),
        suite.Pair(8.0, 0.10, 0.20, 4.0, 0.105, 0.10),
        suite.Pair(8.0, 0.10, 0.20, 6.0, 0.0951, 0.30),
    ]
    text = suite.statement(pairs)
    assert "In 1 of 2 such pairs the beta-TCVAE has the higher median MIG: 0.200 at beta 8 against 0.100 at 4" in text
    assert text.endswith("No beta-VAE reconstructs as the beta-TCVAE of beta 2 does.")
    assert suite.statement(pairs[:1]).endswith("there is nothing to compare.")


def test_a_comparison_has_spreads_and_every_trial():
    result = pages.plain(suite.Comparison(SETTINGS))
    assert list(result) == ["settings", "equal_reconstruction", "statement", "models"]
    assert result["settings"]["beta_tcvae_8"] == {
        "squared_error": {"median": 0.1, "lowest": 0.09, "highest": 0.2},
        "mig": {"median": 0.2, "lowest": 0.1, "highest": 0.5},
    }
    assert result["equal_reconstruction"][0]["beta_vae"] is None
    assert result["statement"] == suite.statement(suite.equal_pairs(SETTINGS))
    assert result["models"]["beta_tcvae_8"]["6"] == {"squared_error": 0.1, "mig": 0.5, "details": {}}


def test_the_typical_trial_has_the_median_of_mig():
    assert SETTINGS["beta_tcvae_8"].typical == 7
    even = setting("beta_vae", 1.0, (0.1, 0.4), (0.1, 0.3), (0.1, 0.1), (0.1, 0.2))
    assert even.typical == 8


@pytest.mark.parametrize(
    "config",
    [shapes.Config(train_size=1, validation_size=100), binned_faces.Config(train_size=1, validation_size=100, seed=7)],
    ids=["shapes", "faces"],
)
def test_images_of_given_factors_are_drawn_once_for_all_models(config, monkeypatch):
    data, render = sources.load(config, image_size=32), suite.renderer(config, 32)
    factors = data.train["factors"]
    assert (factors < list(suite.FACTORS[config.source].values())).all()
    drawn = render(factors)
    assert drawn.shape == data.train["image"].shape
    # The factors of a shape are all there is to it; those of a face are not.
    assert (drawn == data.train["image"]).all() == (config.source == "shapes")
    others = render((factors + 1) % 2)
    assert (others != drawn).any()
    if config.source == "faces":  # of the same seed, after those that the models have seen
        np.testing.assert_array_equal(drawn, faces.sample_bins(factors, 7, 32, 101).images)
    monkeypatch.setattr(shapes, "render", None)
    monkeypatch.setattr(faces, "sample_bins", None)
    np.testing.assert_array_equal(render(factors.copy()), drawn)


def test_models_have_names_for_people():
    assert suite.title_of("beta_tcvae_8/seed_3") == "beta-TCVAE of beta 8, seed 3"
    assert suite.title_of("beta_vae_0.5") == "beta-VAE of beta 0.5"


def test_a_report_names_factors_without_a_dimension_and_differences_that_may_be_chance():
    gaps = (0.3, 0.04, 0.2, 0.01, 0.06)
    scores = {
        seed: suite.Scores({"squared_error": 0.1, "mig": mig}, {"mig": SimpleNamespace(per_factor=gaps)})
        for seed, mig in enumerate((0.3, 0.5))
    }
    best = suite.Setting("beta_tcvae", 8.0, 0.8, scores)

    def problems(*migs):
        other = setting("beta_vae", 4.0, *((0.1, mig) for mig in migs))
        comparison = suite.Comparison({"beta_vae_4": other, "beta_tcvae_8": best})
        config = SimpleNamespace(data=shapes.Config())
        return suite.problems(SimpleNamespace(config=config), {"disentanglement": comparison})

    without, chance = problems(0.1, 0.31)
    assert without.startswith(
        "No dimension alone stands for scale, x: even in the best setting, the beta-TCVAE of beta 8"
    )
    assert chance.startswith("In 1 of 1 pairs that reconstruct equally well, the MIGs of the two models' seeds overlap")
    assert problems(0.1, 0.29) == [without]
