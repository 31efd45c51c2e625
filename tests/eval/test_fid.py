"""The Fréchet distance in closed form: diagonal, shifted, rotated, scaled and singular Gaussians."""

import functools

import numpy as np
import pytest

from mvae_jax.eval import fid
from mvae_jax.eval.features import Features
from mvae_jax.eval.fid import RunningMoments, frechet_distance_of_moments, moments_of

frechet_distance = functools.partial(fid.frechet_distance, features=Features("pixels"))


def rotation(size, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def test_diagonal_covariances_by_hand():
    # (1 - 3)^2 + (0 - 4)^2 of the means and (2 - 1)^2 + (3 - 5)^2 of the deviations.
    value = frechet_distance_of_moments([1, 0], np.diag([4.0, 9.0]), [3, 4], np.diag([1.0, 25.0]))
    assert value == pytest.approx(4 + 16 + 1 + 4, rel=1e-12)


def test_commuting_covariances_in_a_rotated_basis():
    rng, basis = np.random.default_rng(1), rotation(40)
    s, t = rng.uniform(0.1, 3, (2, 40))
    value = frechet_distance_of_moments(np.zeros(40), basis * s**2 @ basis.T, np.zeros(40), basis * t**2 @ basis.T)
    assert value == pytest.approx(np.square(s - t).sum(), rel=1e-10)


def test_two_lines_at_an_angle():
    """N(0, u u^T) and N(0, v v^T): 1 + 1 - 2 |u.v|; no covariance is invertible, and they do not commute."""
    for angle in (0.0, 0.3, np.pi / 2):
        u, v = np.array([1.0, 0.0]), np.array([np.cos(angle), np.sin(angle)])
        value = frechet_distance_of_moments(np.zeros(2), np.outer(u, u), np.zeros(2), np.outer(v, v))
        assert value == pytest.approx(2 - 2 * np.cos(angle), abs=1e-14)


def test_supports_without_a_common_direction():
    """Nothing is shared: tr C_a + tr C_b to all digits, though rounding fills the zeros of both matrices."""
    rng, basis = np.random.default_rng(8), rotation(60)
    a, b = (part * rng.uniform(1, 2, 30) @ part.T for part in (basis[:, :30], basis[:, 30:]))
    value = frechet_distance_of_moments(np.zeros(60), (a + a.T) / 2, np.zeros(60), (b + b.T) / 2)
    assert value == pytest.approx(np.trace(a) + np.trace(b), rel=1e-12)


def test_general_covariances_equal_the_root_of_the_product():
    """tr (C_a C_b)^{1/2} from the eigenvalues of the unsymmetric product, as the first implementation had it."""
    rng = np.random.default_rng(2)
    a, b = (x @ x.T for x in rng.normal(size=(2, 6, 9)))
    root = np.sqrt(np.linalg.eigvals(a @ b).real).sum()
    value = frechet_distance_of_moments(np.zeros(6), a, np.ones(6), b)
    assert value == pytest.approx(6 + np.trace(a) + np.trace(b) - 2 * root, rel=1e-10)
    assert value == pytest.approx(frechet_distance_of_moments(np.ones(6), b, np.zeros(6), a), rel=1e-12)


def test_equal_moments_have_no_distance():
    """To 1e-13 of the variances, where the root of a rounded zero would leave 1e-8 for each."""
    features = np.random.default_rng(3).normal(size=(30, 100)) * 10  # rank 29 of 100
    mean, covariance = moments_of(features)
    assert frechet_distance_of_moments(mean, covariance, mean, covariance) < 1e-13 * np.trace(covariance)
    permuted = frechet_distance(features, features[::-1])
    assert permuted.value < 1e-10 * np.trace(covariance)
    assert frechet_distance_of_moments(np.zeros(3), np.zeros((3, 3)), np.zeros(3), np.zeros((3, 3))) == 0.0


def test_constant_features_against_others():
    """To a point it is the mean squared distance: all of tr C."""
    features = np.random.default_rng(4).normal(size=(20, 50))
    result = frechet_distance(features, np.zeros((2, 50)))
    mean, covariance = moments_of(features)
    assert result.value == pytest.approx(np.square(mean).sum() + np.trace(covariance), rel=1e-12)
    assert result.means == pytest.approx(np.square(mean).sum(), rel=1e-12)


@pytest.mark.parametrize(("count", "size"), [(200, 5), (10, 60), (2, 7)])
def test_shift_and_scale_of_features(count, size):
    """Features and 3 times them plus a shift: |m - m'|^2 + 4 tr C, also with fewer examples than features."""
    a = np.random.default_rng(5).normal(size=(count, size)).astype(np.float32)
    b = 3.0 * a.astype(np.float64) + 2.0
    mean, covariance = moments_of(a)
    result = frechet_distance(a, b)
    means = np.square(2.0 * mean + 2.0).sum()
    assert result.means == pytest.approx(means, rel=1e-9)
    assert result.value == pytest.approx(means + 4.0 * np.trace(covariance), rel=1e-9)
    turn = rotation(size)
    assert frechet_distance(a @ turn, b @ turn).value == pytest.approx(result.value, rel=1e-9)


def test_moments_are_numpys_and_survive_an_offset():
    features = np.random.default_rng(6).normal(size=(50, 4))
    mean, covariance = moments_of(features.astype(np.float32))
    np.testing.assert_allclose(mean, features.mean(0), atol=1e-7)
    np.testing.assert_allclose(covariance, np.cov(features, rowvar=False), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(moments_of(features + 1e6)[1], np.cov(features, rowvar=False), rtol=1e-8, atol=1e-9)


def running(features, *sizes):
    """Moments of features that come in blocks of the sizes, the rest in one more."""
    moments = RunningMoments()
    for block in np.split(features, np.cumsum(sizes)):
        moments.add(block)
    return moments


@pytest.mark.parametrize("sizes", [(), (1,), (1,) * 199, (50, 50, 50), (3, 120, 1, 40), (199,)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_moments_of_blocks_are_those_of_the_whole_set(sizes, offset):
    features = np.random.default_rng(9).normal(size=(200, 7)) @ np.random.default_rng(10).normal(size=(7, 7)) + offset
    moments = running(features, *sizes)
    assert moments.count == 200
    np.testing.assert_allclose(moments.mean, features.mean(0), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(moments.covariance, np.cov(features, rowvar=False), rtol=1e-9, atol=1e-10)


def test_blocks_wait_until_they_have_as_many_examples_as_features():
    """An addition to the sums costs F * F numbers: of 100 blocks of two, seven features make 25 additions."""
    together = []

    class Watched(RunningMoments):
        def _sum(self):
            together.extend([sum(map(len, self._waiting))] if self._waiting else [])
            super()._sum()

    features, moments, block = np.random.default_rng(13).normal(size=(201, 7)), Watched(), np.empty((2, 7))
    for first in range(0, 200, 2):
        block[:] = features[first : first + 2]  # the same array again
        moments.add(block)
    moments.add(features[200:])
    np.testing.assert_allclose(moments.covariance, np.cov(features, rowvar=False), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(moments.mean, features.mean(0), rtol=1e-12, atol=1e-13)
    assert together == [8] * 25 + [1]


def test_moments_of_float32_blocks_are_summed_in_float64():
    """A sum of squares in float32 would lose all digits of a variance of 1 around 4096."""
    features = (np.random.default_rng(11).normal(size=(5000, 3)) + 4096).astype(np.float32)
    expected = np.cov(features.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(running(features, *(7,) * 714).covariance, expected, rtol=1e-9, atol=1e-10)


def test_distance_of_sets_in_blocks_is_that_of_the_sets():
    rng = np.random.default_rng(12)
    a, b = rng.normal(size=(60, 5)), 2 * rng.normal(size=(40, 5)) + 1
    whole = frechet_distance(a, b, split="held out")
    parts = fid.frechet_distance_of_sets(
        running(a, 13, 1), running(b, 20), features=Features("pixels"), split="held out"
    )
    assert parts.value == pytest.approx(whole.value, rel=1e-12)
    assert parts.means == pytest.approx(whole.means, rel=1e-12)
    assert parts.to_dict() | {"value": 0, "means": 0} == whole.to_dict() | {"value": 0, "means": 0}
    few = fid.frechet_distance_of_sets(running(a[:4], 1), running(b), features=Features("pixels"))
    assert few.problems == fid.too_few(4, 5) != ()


def test_blocks_that_do_not_go_together_are_refused():
    moments = RunningMoments()
    with pytest.raises(ValueError, match="features of 0 examples, expected at least 2"):
        moments.covariance  # noqa: B018
    moments.add(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="features of 1 examples, expected at least 2"):
        moments.covariance  # noqa: B018
    with pytest.raises(ValueError, match=r"shape \(1, 4\), expected 3 per example"):
        moments.add(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="1 of 3 values of features are not finite"):
        moments.add([[0.0, np.nan, 0.0]])
    assert moments.count == 1


def test_few_examples_make_it_too_large():
    """Two sets of one N(0, I): the distance falls as 1 / N."""
    rng = np.random.default_rng(7)
    few, many = (np.mean([frechet_distance(*rng.normal(size=(2, n, 8))).value for _ in range(40)]) for n in (100, 1000))
    assert 8 < few / many < 12


def test_result_carries_what_it_depends_on():
    a, b = np.eye(5, 3), np.ones((4, 3))
    result = fid.frechet_distance(a, b, features=Features("mean colour"), split="held out")
    assert (result.count_a, result.count_b, result.dimensions, result.split) == (5, 4, 3, "held out")
    assert result.to_dict() | {"value": 0, "means": 0} == {
        "features": {"network": "mean colour", "sha256": None, "preprocessing": None, "accuracy": None},
        "split": "held out",
        "dimensions": 3,
        "count_a": 5,
        "count_b": 4,
        "value": 0,
        "means": 0,
    }


def test_fewer_images_than_features_are_a_problem():
    rng = np.random.default_rng(0)
    enough, few = (frechet_distance(rng.normal(size=(n, 8)), rng.normal(size=(20, 8))) for n in (8, 7))
    assert enough.problems == ()
    (problem,) = few.problems
    assert problem.startswith("The Frechet distance compares 7 images in 8 features, expected at least as many")


def test_sets_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match=r"shapes \(5, 3\) and \(5, 4\)"):
        frechet_distance(np.zeros((5, 3)), np.zeros((5, 4)))
    with pytest.raises(ValueError, match=r"shape \(1, 3\), expected"):
        moments_of(np.zeros((1, 3)))


@pytest.mark.parametrize(
    ("covariance", "message"),
    [
        (np.diag([1.0, -0.1]), "eigenvalues from -0.1 to 1"),
        (np.array([[1.0, 0.5], [0.0, 1.0]]), "differs from its transpose by up to 0.5"),
        (np.diag([1.0, np.nan]), "not finite"),
        (np.ones(2), r"shapes .* \(2,\)\], expected"),
    ],
)
def test_what_is_no_covariance_is_refused(covariance, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance_of_moments(np.zeros(2), np.eye(2), np.zeros(2), covariance)
