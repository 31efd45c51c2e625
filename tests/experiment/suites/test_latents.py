"""Codes to sample from and dimensions to draw, on codes that are written down."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax.data.batches import Split, Splits
from mvae_jax.experiment.suites import latents


def whitened(count, size):
    """Noise whose mean is 0 and whose unbiased covariance is the identity, but for rounding."""
    noise = np.random.default_rng(1).normal(size=(count, size))
    noise -= noise.mean(0)
    return noise @ np.linalg.inv(np.linalg.cholesky(np.cov(noise.T))).T


def test_fitted_codes_have_the_mean_and_the_covariance_of_the_codes():
    codes = np.random.default_rng(0).normal(size=(50, 3)) @ [[2, 0, 0], [1, 3, 0], [0, -1, 0.1]] + [5, 0, -70]
    drawn = np.asarray(latents.fitted_codes(codes, whitened(40, 3)), np.float64)
    np.testing.assert_allclose(drawn.mean(0), codes.mean(0), atol=1e-4)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(codes.T), atol=1e-3)


def test_a_dimension_that_no_code_uses_stays_constant():
    codes = np.random.default_rng(0).normal(size=(30, 2)) * [3, 0] + [0, 7]
    drawn = latents.fitted_codes(codes, whitened(20, 2))
    np.testing.assert_allclose(drawn[:, 1], 7, atol=1e-5)
    with pytest.raises(ValueError, match="at least 2 examples"):
        latents.fitted_codes(codes[:1], np.zeros((3, 2)))


def test_traversals_end_at_deviations_of_the_prior_or_of_the_codes():
    mean = np.array([[1.0, -4.0], [3.0, 4.0]])
    np.testing.assert_array_equal(latents.ends(mean, np.zeros((2, 2)), 3), [[-3, -3], [3, 3]])
    np.testing.assert_array_equal(latents.ends(mean, None, 3), [[2 - 3, -12], [2 + 3, 12]])


def test_traversals_of_an_autoencoder_take_the_dimensions_of_the_largest_deviation():
    codes = jnp.asarray([[0.0, 10.0, 5.0], [0.0, 30.0, 6.0]])
    decoded = []
    run = SimpleNamespace(
        encode=lambda x: (codes[: len(x)], None),
        decode=lambda z: decoded.append(np.array(z)) or jnp.zeros((len(z), 2, 2, 3)),
    )
    rows = latents.traversal(run, jnp.zeros((1, 2, 2, 3)), jnp.zeros((2, 2, 2, 3)), reach=2, steps=3, rows=2)
    assert list(rows) == ["z1, deviation 10", "z2, deviation 0.5"]
    np.testing.assert_array_equal(decoded[0], [[0, 0, 5], [0, 20, 5], [0, 40, 5]])
    np.testing.assert_array_equal(decoded[1], [[0, 10, 4.5], [0, 10, 5.5], [0, 10, 6.5]])


def test_correlations_are_pearsons():
    generator = np.random.default_rng(0)
    codes, attributes = generator.normal(size=(20, 3)), generator.integers(0, 2, (20, 2))
    expected = np.corrcoef(attributes.T, codes.T)[:2, 2:]
    np.testing.assert_allclose(latents.correlations(codes, attributes), expected, atol=1e-12)
    codes[:, 1], attributes[:, 0] = 4, 1
    result = latents.correlations(codes, attributes)
    np.testing.assert_array_equal(result[0], 0)
    np.testing.assert_array_equal(result[:, 1], 0)


def test_common_features_rank_by_the_model_that_follows_them_least_and_leave_out_complements():
    bits = np.random.default_rng(0).integers(0, 2, (400, 3)).astype(np.float64)
    attributes, names = np.column_stack([bits, 1 - bits[:, 1]]), ("bald", "male", "young", "female")
    noise = np.random.default_rng(1).normal(size=(400, 3))
    codes = {
        "a": np.column_stack([noise[:, 0], bits[:, 1] + 0.1 * noise[:, 1], 2 * bits[:, 0] + 0.2 * noise[:, 2]]),
        "b": np.column_stack([bits[:, 0] + noise[:, 0], noise[:, 1], -bits[:, 1] + 0.3 * noise[:, 2]]),
    }
    features = latents.common_features(codes, attributes, names, 2)
    assert list(features) == ["male", "bald"]
    assert {model: best["dimension"] for model, best in features["male"].items()} == {"a": 1, "b": 2}
    assert {model: best["dimension"] for model, best in features["bald"].items()} == {"a": 2, "b": 0}
    expected = np.corrcoef(bits[:, 1], codes["b"][:, 2])[0, 1]
    assert features["male"]["b"]["correlation"] == pytest.approx(expected)
    assert expected < 0
    # Of four attributes two are one, so that no more than three are left.
    assert sorted(latents.common_features(codes, attributes, names, 4)) == ["bald", "male", "young"]


def test_a_person_is_drawn_without_and_with_each_attribute():
    names = ("young", "male", "female", "black_hair", "bald")
    ends = latents.attribute_ends(np.float32([1, 0, 1, 1, 0]), names)
    assert list(ends) == ["young", "male/female", "black_hair", "bald"]
    expected = {
        "young": ([0, 0, 1, 1, 0], [1, 0, 1, 1, 0]),
        "male/female": ([1, 0, 1, 1, 0], [1, 1, 0, 1, 0]),
        "black_hair": ([1, 0, 1, 0, 0], [1, 0, 1, 1, 0]),
        "bald": ([1, 0, 1, 1, 0], [1, 0, 1, 0, 1]),  # nobody is bald with black hair
    }
    for item, pair in expected.items():
        np.testing.assert_array_equal(ends[item], pair)
    strips = latents.attribute_strips(lambda a: jnp.zeros((9, 2, 2, 3)), ends)
    assert list(strips.rows) == ["young", "male instead of female", "black hair", "bald"]


def test_sliders_go_from_without_an_attribute_to_with_it_and_beyond():
    ends = {"smiling": (np.float32([0, 1]), np.float32([1, 1])), "bald": (np.float32([1, 0]), np.float32([0, 1]))}
    strips = latents.attribute_strips(lambda a: jnp.tile(a[:, None, None, :1] / 2, (1, 2, 2, 3)), ends)
    assert list(strips.rows) == ["smiling", "bald"]
    assert strips.steps == ["-0.5", "-0.25", "0, without", "0.25", "0.5", "0.75", "1, with", "1.25", "1.5"]
    assert strips.steps[strips.start] == "1, with"  # a page shows what each attribute does before anything is moved
    places = np.linspace(-0.5, 1.5, 9)
    for row, first in (("smiling", places), ("bald", 1 - places)):
        np.testing.assert_allclose(strips.rows[row][:, 0, 0, 0], (first / 2 + 1) * 127.5, atol=1)


def test_a_typical_image_is_most_like_the_others():
    generator = np.random.default_rng(0)
    face, profile = generator.uniform(0, 120, (2, 8, 8, 3))
    like = [face + generator.normal(0, sigma, face.shape) for sigma in (60.0, 20.0, 40.0)]
    shown = np.stack([profile, like[0], 2 * like[1], like[2], np.full_like(face, 60.0)])  # one has more contrast
    assert latents.typical(shown) == 2
    first = np.concatenate([shown[:2], np.repeat(shown[:1], 300, axis=0), shown[2:3]])
    assert latents.typical(first) == 0  # no more than 200 are looked at


def test_the_mean_image_is_what_a_model_has_to_beat():
    known = np.random.default_rng(0).integers(0, 256, (7, 2, 3, 3), np.uint8)
    x = np.random.default_rng(1).integers(0, 256, (5, 2, 3, 3), np.uint8)
    errors = [((image / 255 - (known / 255).mean(0)) ** 2).mean() for image in x]
    np.testing.assert_allclose(latents.mean_image_errors(known, x), errors)
    split = Split({"image": known}), Split({"image": x})
    data = Splits(*split, split[0].first(0), (), {})
    assert latents.mean_image_psnr(data, (2, 3)) == pytest.approx(np.mean(-10 * np.log10(errors)))
    few = latents.mean_image_psnr(data, (2, 3), 2)
    assert few == pytest.approx(np.mean(-10 * np.log10(latents.mean_image_errors(known[:2], x[:2]))))
