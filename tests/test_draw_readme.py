"""The script that draws the pictures of README and of the pages, tried on small runs: it draws those that are given."""

import dataclasses
import os
import signal

import draw_readme
import numpy as np
import pytest
import zoo
from PIL import Image

from mvae_jax import runs
from mvae_jax.data import sources
from mvae_jax.data.rendered import faces
from mvae_jax.experiment import Member
from mvae_jax.train import loop
from mvae_jax.train.signals import Interrupted, Interruption
from mvae_jax.train.workdir import Workdir


@pytest.fixture(scope="module")
def vae_gan(tmp_path_factory):
    """A run of VAE/GAN on a few rendered faces."""
    folder = tmp_path_factory.mktemp("vae_gan")
    config = dataclasses.replace(zoo.VAE_GAN, image_size=32)
    data = sources.load(faces.Config(subset_size=24, calibration_size=8), image_size=32)
    runs.train(folder, "vae_gan", config, data, seed=42)
    Member("vae_gan", config, 42).configure(Workdir(folder), data)  # as an experiment: it says what the images are
    return folder


def test_a_run_that_is_given_is_drawn_and_no_other_picture(vae_gan, tmp_path, capsys):
    assert draw_readme.main([f"--vae-gan={vae_gan}", f"--output={tmp_path}"]) == 0
    (picture,) = tmp_path.iterdir()
    assert picture.name == "vae_gan.webp"
    run = runs.load(vae_gan)
    rows = draw_readme.reconstructed_faces(run, "VAE/GAN")
    assert list(rows) == ["rendered faces", "reconstructed by VAE/GAN", "drawn by VAE/GAN"]
    np.testing.assert_array_equal(rows["rendered faces"], faces.sample(draw_readme.UNSEEN, 8, 32).images)
    assert {row.shape for row in rows.values()} == {(8, 32, 32, 3)}
    expected = draw_readme.sheet(rows, 64)
    with Image.open(picture) as drawn:
        assert drawn.format == "WEBP"
        error = np.abs(np.asarray(drawn.convert("RGB"), float) - np.asarray(expected.convert("RGB"), float))
    assert error.mean() < 12  # the format loses some
    assert f"{picture}: {expected.width} x {expected.height}" in capsys.readouterr().out


def refused(capsys, *arguments):
    capsys.readouterr()  # of what was trained before
    with pytest.raises(SystemExit) as end:
        draw_readme.main([*arguments])
    assert end.value.code == 2
    return capsys.readouterr().err


def test_runs_of_other_models_and_on_other_images_are_refused(vae_gan, tmp_path, capsys):
    message = refused(capsys, f"--style-alae={vae_gan}", f"--output={tmp_path / 'pictures'}")
    assert message == (
        f"error: {vae_gan} is a run of vae_gan on rendered faces; expected one of style_alae on rendered faces.\n"
    )
    own = tmp_path / "own"
    runs.train(own, "alae", zoo.ALAE, {"image": zoo.tiny_faces(24)["image"]})
    message = refused(capsys, f"--digits={own}", f"--output={tmp_path / 'pictures'}")
    found = "alae on images that it does not name"
    assert message == f"error: {own} is a run of {found}; expected one of alae on digits of scikit-learn.\n"
    assert "nothing is asked for; expected a run, such as --vae-gan=RUN" in refused(capsys)
    assert not (tmp_path / "pictures").exists()


def test_a_run_that_was_stopped_is_refused(tmp_path):
    config = dataclasses.replace(zoo.VAE_GAN, image_size=32, epochs=3)
    data = sources.load(faces.Config(subset_size=24, calibration_size=8), image_size=32)

    def stop(state, phase, writer):
        os.kill(os.getpid(), signal.SIGTERM)

    options = {"settings": loop.Settings(validate_every=1), "on_validation": stop, "seed": 42}
    with Interruption() as interruption, pytest.raises(Interrupted):
        runs.train(tmp_path, "vae_gan", config, data, interruption=interruption, **options)
    Member("vae_gan", config, 42).configure(Workdir(tmp_path), data)
    with pytest.raises(ValueError, match=r"was stopped in phase \w+ at step \d+; train it to its end"):
        draw_readme.trained(tmp_path, "vae_gan", draw_readme.RENDERED)
