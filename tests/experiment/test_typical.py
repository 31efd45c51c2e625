"""What counts as an image like those of the training: 99 % of the calibration images do."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax.data.batches import Split
from mvae_jax.experiment import typical
from mvae_jax.experiment.declaration import Trained


class Blurred:
    """A model whose codes are means of rows, and whose pictures are these; posteriors are as wide as the prior."""

    functions = ("encode_image",)

    def encode_image(self, x):
        mean = jnp.asarray(x).mean((2, 3))
        return mean, jnp.zeros_like(mean)

    def decode_image(self, z):
        return jnp.broadcast_to(z[:, :, None, None], (*z.shape, 4, 3))


def trained(calibration, validation):
    data = SimpleNamespace(calibration=split(*calibration), validation=split(*validation))
    return Trained(None, {"": Blurred()}, data, None, {})


def split(count, seed):
    images = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)
    return Split({"image": images, "attributes": np.zeros((count, 2), np.float32)})


def expected(images):
    x = images / 127.5 - 1
    mean = x.mean((2, 3))
    error = np.square((x - mean[:, :, None, None]) / 2).mean((1, 2, 3))
    return error, np.square(mean).sum(1) / 2


def test_limits_are_quantiles_over_the_calibration_images():
    result = typical.limits(trained((200, 0), (50, 1)))[""]
    error, kl = expected(split(200, 0)["image"])
    assert result["images"] == 200
    assert result["reconstruction_error"] == pytest.approx(np.quantile(error, 0.99), rel=1e-5)
    assert result["kl"] == pytest.approx(np.quantile(kl, 0.99), rel=1e-5)


def test_without_calibration_images_they_are_those_for_validation():
    assert typical.limits(trained((0, 0), (50, 1)))[""]["images"] == 50


def test_most_images_are_typical_and_noise_that_is_coarser_is_not():
    limits = typical.limits(trained((200, 0), (50, 1)))[""]
    x = split(100, 2)["image"] / 127.5 - 1
    found = [typical.excess(typical.terms(Blurred(), x[n : n + 1]), limits) for n in range(100)]
    assert sum(map(bool, found)) < 10
    stripes = np.tile([1.0, -1.0], (1, 4, 2))[..., None] * np.ones(3)
    assert [reason.split(" is")[0] for reason in typical.excess(typical.terms(Blurred(), stripes), limits)] == [
        "its reconstruction error"
    ]
    white = np.ones((1, 4, 4, 3))
    assert [reason.split(" is")[0] for reason in typical.excess(typical.terms(Blurred(), white), limits)] == [
        "its KL divergence from the prior"
    ]


def test_a_number_that_is_not_finite_is_unlike_any():
    limits = {"reconstruction_error": 1.0, "kl": 1.0}
    assert len(typical.excess({"reconstruction_error": np.array([np.nan]), "kl": np.array([0.0])}, limits)) == 1
