import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax.eval import reconstruction


def test_psnr_by_hand():
    black = jnp.full((3, 2, 2, 3), -1.0)
    # Wrong everywhere by the whole range, by a tenth of it, and not at all.
    other = black + jnp.array([2.0, 0.2, 0.0])[:, None, None, None]
    np.testing.assert_allclose(reconstruction.psnr(black, other), [0.0, 20.0, np.inf], atol=1e-4)


def test_psnr_equals_that_of_bytes():
    # The ratio does not depend on the scale: the same as on [0, 255] with peak 255.
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 8, 3)).astype(np.float32)
    error = np.square(pixels[0] - pixels[1]).mean((1, 2, 3))
    image, other = pixels / 127.5 - 1.0
    np.testing.assert_allclose(
        reconstruction.psnr(jnp.asarray(image), jnp.asarray(other)), 10 * np.log10(255**2 / error), rtol=1e-5
    )


def test_psnr_refuses_bytes():
    with pytest.raises(AssertionError):
        reconstruction.psnr(jnp.zeros((1, 2, 2, 3), jnp.uint8), jnp.zeros((1, 2, 2, 3), jnp.uint8))
