"""What the sheet of a model shows while it trains: each kind of model in its own way, the same each time."""

import dataclasses

import jax
import numpy as np
import pytest
import zoo

from mvae_jax import runs
from mvae_jax.data.batches import Split
from mvae_jax.experiment import sheets
from mvae_jax.experiment.suites import multimodal_figures, style
from mvae_jax.models.alae import style as style_alae

CONFIGS = {"style_alae": zoo.STYLE_ALAE, "multimodal": zoo.MULTIMODAL}
BOTH = ["held-out images", "reconstructions", "samples"]


def untrained(name):
    row = zoo.TABLE[name]
    model, batch = row.model(), row.batch(4)
    params, state = jax.jit(model.init)(jax.random.key(0), batch)
    return runs.Run(model, CONFIGS.get(name), params, state, "first", 0, {}), Split(batch), row.phases()[0]


@pytest.mark.parametrize(
    ("name", "sheet", "rows"),
    [
        ("vae", sheets.reconstructions_and_samples, BOTH),
        ("autoencoder", sheets.reconstructions_and_samples, ["held-out images", "reconstructions"]),
        ("cvae", sheets.reconstructions_and_samples, BOTH),  # with the attributes of the images
        ("gan", sheets.reconstructions_and_samples, ["samples"]),
        ("latent_regressor", sheets.reconstructions_and_samples, BOTH),
        ("multimodal", multimodal_figures.sheet, ["held-out images", "from image", "from text"]),
        ("style_alae", style.sheet, BOTH),
    ],
)
def test_a_sheet_shows_what_the_model_can(name, sheet, rows):
    run, examples, phase = untrained(name)
    first, second = (sheet(run, examples, phase) for _ in range(2))
    assert list(first) == rows
    shapes = {np.asarray(pictures).shape for pictures in first.values()}
    assert len(shapes) == 1
    assert next(iter(shapes))[0] == 4
    for row, pictures in first.items():
        assert np.isfinite(pictures).all()
        assert np.abs(pictures).max() <= 1
        np.testing.assert_array_equal(pictures, second[row])
    if "held-out images" in rows and name != "style_alae":
        np.testing.assert_allclose(first["held-out images"], examples["image"] / 127.5 - 1, atol=1e-6)


def test_a_model_that_grows_is_shown_at_the_resolution_of_its_phase():
    run, examples, _ = untrained("style_alae")
    for phase in style_alae.phases(zoo.STYLE_ALAE, 1):
        size = zoo.STYLE_ALAE.sizes[phase.options["level"]]
        shown = style.sheet(dataclasses.replace(run, phase=phase.name), examples, phase)
        assert {np.asarray(pictures).shape[1] for pictures in shown.values()} == {size}
        expected = (examples["image"] / 127.5 - 1).reshape(4, size, 8 // size, size, 8 // size, 3).mean((2, 4))
        np.testing.assert_allclose(shown["held-out images"], expected, atol=1e-6)
