"""The script that draws a picture of each model of the zoo, tried on small runs."""

import dataclasses

import draw_zoo
import jax
import numpy as np
import pytest
import zoo
from PIL import Image

from mvae_jax import runs
from mvae_jax.data import sources
from mvae_jax.data.rendered import faces
from mvae_jax.eval.batched import pixels, to_bytes
from mvae_jax.experiment import Member
from mvae_jax.models import ZOO
from mvae_jax.train.workdir import Workdir

SIZE = 32
IMAGE, ATTRIBUTES, _ = zoo.MODALITIES
CONFIGS = {
    "autoencoder": dataclasses.replace(zoo.AUTOENCODER, image_size=SIZE, widths=(4, 4, 8, 8)),
    "vae": dataclasses.replace(zoo.VAE, image_size=SIZE, widths=(4, 4, 8, 8)),
    "cvae": dataclasses.replace(zoo.CVAE, image_size=(SIZE, SIZE), attributes=faces.ATTRIBUTES),
    "mopoe": dataclasses.replace(zoo.MOPOE, modalities=(dataclasses.replace(IMAGE, shape=(SIZE, SIZE, 3)), ATTRIBUTES)),
}


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """Runs on a few rendered faces, as experiments leave them: they say what their images are."""
    folder = tmp_path_factory.mktemp("runs")
    data = sources.load(faces.Config(subset_size=24, calibration_size=8), image_size=SIZE)
    for name, config in CONFIGS.items():
        workdir = folder / draw_zoo.PLACES[name]
        runs.train(workdir, name, config, data, seed=42)
        Member(name, config, 42).configure(Workdir(workdir), data)
    return folder


def test_every_model_that_draws_has_a_place():
    assert {*draw_zoo.PLACES, "latent_flow", "attribute_classifier"} == {*ZOO}


def test_each_run_is_drawn(workdirs, tmp_path, capsys):
    assert draw_zoo.main([str(workdirs), f"--output={tmp_path}"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: autoencoder, vae, cvae, mopoe\n"
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(CONFIGS)
    for path in tmp_path.iterdir():
        with Image.open(path) as picture:
            assert picture.size == (3 * 48 + 2 * 2, 48)


def test_draws_are_the_first_of_a_key_and_of_attributes_where_a_model_takes_them(workdirs):
    run = {name: runs.load(workdirs / draw_zoo.PLACES[name]) for name in CONFIGS}
    unseen, key = faces.sample(draw_zoo.UNSEEN, 3, SIZE), jax.random.key(0)
    mean, _ = run["autoencoder"].encode(pixels({"image": unseen.images}))
    expected = {
        "autoencoder": run["autoencoder"].decode(mean),
        "vae": run["vae"].sample(key, 3),
        "cvae": run["cvae"].sample(key, unseen.attributes),
    }
    for name, images in expected.items():
        np.testing.assert_allclose(draw_zoo.draws(run[name]), images, atol=1e-5)
    of_faces = draw_zoo.draws(run["mopoe"])
    others = run["mopoe"].sample(key, 3)
    assert of_faces.shape == others.shape
    assert np.abs(of_faces - others).max() > 1e-4  # given the attributes, and not from the prior


def test_a_strip_has_the_images_from_left_to_right():
    images = np.zeros((3, 8, 8, 1), np.uint8)
    images[0], images[1, :, :4], images[2] = 50, 100, 150
    strip = np.asarray(draw_zoo.strip(images))
    assert (strip[:, :48] == 50).all()
    assert (strip[:, 50:74] == 100).all()
    assert (strip[:, 74:98] == 0).all()
    assert (strip[:, 100:] == 150).all()
    assert (strip[:, 48:50] == 255).all()  # the gap
    np.testing.assert_array_equal(draw_zoo.strip(to_bytes(np.ones((3, 48, 48, 3)))).size, (148, 48))


def test_a_folder_without_runs_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        draw_zoo.main([str(tmp_path), f"--output={tmp_path / 'pictures'}"])
    assert end.value.code == 2
    assert f"error: {tmp_path} has none of celebahq_mvae, " in capsys.readouterr().err
    assert not (tmp_path / "pictures").exists()
