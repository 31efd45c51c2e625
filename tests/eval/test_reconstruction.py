import jax
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


@pytest.mark.parametrize("measure", [reconstruction.psnr, reconstruction.ssim])
def test_bytes_are_refused(measure):
    with pytest.raises(AssertionError):
        measure(jnp.zeros((1, 16, 16, 3), jnp.uint8), jnp.zeros((1, 16, 16, 3), jnp.uint8))


def pairs(shape=(2, 14, 17, 3), noise=0.3):
    """Smooth images and noisy versions of them; not square, so that no axis can be mistaken for the other."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: shape[1], : shape[2]]
    smooth = np.sin(rows / 3 + columns / 5)[None, :, :, None] * rng.uniform(0.3, 0.7, (shape[0], 1, 1, shape[3]))
    noisy = smooth + noise * rng.uniform(-1, 1, shape)
    return (np.clip(values, -1, 1).astype(np.float32) for values in (smooth, noisy))


def loop_ssim(image, other, window=11, sigma=1.5):
    """Window by window, with moments about the mean, on the scale of bytes as in the paper."""
    image, other = (127.5 * (values.astype(np.float64) + 1) for values in (image, other))
    distance = np.arange(window) - (window - 1) / 2
    weights = np.exp(-(distance[:, None] ** 2 + distance[None] ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    scores = []
    for channel in range(image.shape[2]):
        for row in range(image.shape[0] - window + 1):
            for column in range(image.shape[1] - window + 1):
                x, y = (values[row : row + window, column : column + window, channel] for values in (image, other))
                mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
                variance_x = (weights * (x - mean_x) ** 2).sum()
                variance_y = (weights * (y - mean_y) ** 2).sum()
                covariance = (weights * (x - mean_x) * (y - mean_y)).sum()
                luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
                scores.append(luminance * (2 * covariance + c2) / (variance_x + variance_y + c2))
    return np.mean(scores)


@pytest.mark.parametrize("options", [{}, {"window": 7, "sigma": 0.8}, {"window": 4}])
def test_ssim_equals_loop_over_windows(options):
    image, other = pairs()
    expected = [loop_ssim(x, y, **options) for x, y in zip(image, other, strict=True)]
    assert 0.1 < min(expected) < 0.9  # neither all noise nor all the same
    np.testing.assert_allclose(reconstruction.ssim(image, other, **options), expected, rtol=1e-5)


def test_ssim_of_equal_images_is_one_and_symmetric():
    image, other = pairs()
    np.testing.assert_allclose(reconstruction.ssim(image, image), [1, 1], rtol=1e-6)
    np.testing.assert_allclose(reconstruction.ssim(image, other), reconstruction.ssim(other, image), rtol=1e-6)


@pytest.mark.parametrize(("a", "b"), [(0.0, 0.5), (0.5, -0.5), (1.0, -1.0), (0.05, -0.05), (0.4, 0.4)])
def test_ssim_of_constant_images(a, b):
    # No contrast: what remains is the comparison of the means, (2 u v + C1) / (u^2 + v^2 + C1), C1 = .02^2.
    image, other = (jnp.full((1, 12, 13, 3), value) for value in (a, b))
    u, v = a + 1, b + 1
    expected = (2 * u * v + 4e-4) / (u * u + v * v + 4e-4)
    np.testing.assert_allclose(reconstruction.ssim(image, other), [expected], atol=2e-4)


def test_ssim_of_the_negative_image():
    # The negative has covariance -v: (C2 - 2 v) / (C2 + 2 v), C2 = .06^2.
    stripes = jnp.tile(jnp.array([1.0, -1.0]), (1, 12, 6))[..., None] * 0.5
    weights = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    mean = 0.5 * (weights * (-1.0) ** np.arange(11)).sum() / weights.sum()
    variance = 0.25 - mean**2
    luminance = (2 * (1 - mean**2) + 4e-4) / (2 * (1 + mean**2) + 4e-4)
    expected = luminance * (36e-4 - 2 * variance) / (36e-4 + 2 * variance)
    np.testing.assert_allclose(reconstruction.ssim(stripes, -stripes), [expected], rtol=1e-5)


def test_ssim_averages_channels():
    image, other = pairs()
    mixed = np.concatenate([image[..., :1], other[..., 1:]], axis=3)
    rest = reconstruction.ssim(image[..., 1:], other[..., 1:])
    np.testing.assert_allclose(reconstruction.ssim(image, mixed), (1 + 2 * rest) / 3, rtol=1e-6)


def test_ssim_needs_room_for_a_window():
    with pytest.raises(ValueError, match="images are 16 x 10 pixels, expected at least the window's 11 x 11"):
        reconstruction.ssim(jnp.zeros((1, 16, 10, 3)), jnp.zeros((1, 16, 10, 3)))


def test_ssim_falls_with_noise_and_is_differentiable():
    image, slightly = pairs(noise=0.05)
    _, strongly = pairs(noise=0.3)
    assert (reconstruction.ssim(image, strongly) < reconstruction.ssim(image, slightly)).all()
    gradient = jax.grad(lambda x: reconstruction.ssim(jnp.asarray(image), x).sum())(jnp.asarray(image))
    np.testing.assert_allclose(gradient, 0, atol=1e-5)  # equal images are the maximum
