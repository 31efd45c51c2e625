"""Fréchet distance of two sets of images, in features [N, F] from whatever network the caller has applied."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from mvae_jax.eval._arguments import measure
from mvae_jax.eval.features import Comparison, Features, check_features, check_pair

_ROUNDING = 1e-6  # of a matrix that is meant to be a covariance, as a share of its largest variance


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrechetDistance(Comparison):
    """Fréchet distance of two sets of features.

    Attributes:
        value: the squared distance, as it is published, from 0; in squared units of the features.
        means: the part of it that is the squared distance of the means; the rest is that of the covariances.
    """

    value: float
    means: float

    @property
    def problems(self) -> tuple[str, ...]:
        """See `too_few`."""
        return too_few(min(self.count_a, self.count_b), self.dimensions)


def too_few(count: int, dimensions: int) -> tuple[str, ...]:
    """What is wrong with a distance of so few images, a sentence; empty if there are enough.

    Args:
        count: images of the smaller set.
        dimensions: F, features of each.
    """
    if count >= dimensions:
        return ()
    return (
        f"The Frechet distance compares {count} images in {dimensions} features, expected at least as many images: the "
        "covariances have no full rank, and the number is too large and says little. Compare more images.",
    )


def frechet_distance(
    features_a: npt.ArrayLike, features_b: npt.ArrayLike, *, features: Features, split: str = ""
) -> FrechetDistance:
    """Fréchet distance of two sets of features, as if both were Gaussian; with Inception's features it is the FID.

    Few examples make it too large: two sets of N from the same distribution do not have distance 0, but one that falls
    as 1 / N. Compare only what has equal counts; with fewer examples than features the numbers say little, and the
    result's `problems` says so.

    Args:
        features_a: [N, F], N at least 2.
        features_b: [M, F], M at least 2.
        features: what made them, for reports.
        split: which images they are, for reports.

    Returns:
        The distance; symmetric in the two sets.

    Raises:
        ValueError: shapes disagree, there are fewer than two examples, or features are not finite.

    Reference:
        Heusel et al., 2017, arXiv:1706.08500, equation 6.
    """
    moments = []
    for examples in check_pair(features_a, features_b):
        moments.append(RunningMoments())
        moments[-1].add(examples)
    return frechet_distance_of_sets(*moments, features=features, split=split)


def frechet_distance_of_sets(
    moments_a: RunningMoments, moments_b: RunningMoments, *, features: Features, split: str = ""
) -> FrechetDistance:
    """`frechet_distance` of sets whose features came in blocks.

    Args:
        moments_a: of the first set, of at least 2 examples.
        moments_b: of the second set, likewise.
        features: what made them, for reports.
        split: which images they are, for reports.

    Raises:
        ValueError: a set has fewer than two examples, or F differs.
    """
    mean_a, mean_b = moments_a.mean, moments_b.mean
    return FrechetDistance(
        features=features,
        split=split,
        dimensions=mean_a.size,
        count_a=moments_a.count,
        count_b=moments_b.count,
        value=frechet_distance_of_moments(mean_a, moments_a.covariance, mean_b, moments_b.covariance),
        means=float(np.square(mean_a - mean_b).sum()),
    )


class RunningMoments:
    """Mean and covariance of features that come in blocks of any size: memory holds some F * F numbers, whatever N is.

    Sums are float64, of deviations from the mean of what has come so far: an offset costs no digits. Blocks wait until
    they have F examples together, for each addition to the sums reads and writes F * F numbers.

    Reference:
        Chan, Golub and LeVeque, 1979, Updating formulae and a pairwise algorithm for computing sample variances.
    """

    def __init__(self) -> None:
        self.count = 0
        self._waiting: list[np.ndarray] = []
        self._summed = 0
        self._mean = self._scatter = np.zeros(0)

    def add(self, features: npt.ArrayLike) -> None:
        """Takes further examples, [n, F], n at least 1.

        Raises:
            ValueError: they are not [n, F] with the F of those before, or not finite.
        """
        block = check_features(features, least=1)
        count, size = block.shape
        if not self.count:
            self._mean, self._scatter = np.zeros(size), np.zeros((size, size))
        if size != self._mean.size:
            raise ValueError(f"features have shape {block.shape}, expected {self._mean.size} per example, as before.")
        self.count += count
        enough = self.count - self._summed >= size
        self._waiting.append(block if enough else block.copy())  # the caller may use the array again
        if enough:
            self._sum()

    def _sum(self) -> None:
        """Adds the blocks that wait to the sums."""
        if not self._waiting:
            return
        block, count = np.concatenate(self._waiting), self.count - self._summed
        mean = block.mean(axis=0, dtype=np.float64)
        shift = mean - self._mean
        between = shift * np.sqrt(self._summed * count / self.count)
        rows = np.concatenate([block - mean, between[None]])
        self._scatter += rows.T @ rows
        self._mean += shift * (count / self.count)
        self._waiting, self._summed = [], self.count

    @property
    def mean(self) -> np.ndarray:
        """[F]; empty before there are features."""
        self._sum()
        return self._mean

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased one, [F, F].

        Raises:
            ValueError: there are fewer than two examples.
        """
        if self.count < 2:
            raise ValueError(f"there are features of {self.count} examples, expected at least 2 for a covariance.")
        self._sum()
        return self._scatter / (self.count - 1)


def moments_of(features: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Mean [F] and unbiased covariance [F, F] of features [N, F], float64.

    Raises:
        ValueError: the features are not [N, F] with N at least 2, or not finite.
    """
    moments = RunningMoments()
    moments.add(check_features(features))
    return moments.mean, moments.covariance


@measure()
def frechet_distance_of_moments(
    mean_a: npt.ArrayLike, covariance_a: npt.ArrayLike, mean_b: npt.ArrayLike, covariance_b: npt.ArrayLike
) -> float:
    """Squared Fréchet (2-Wasserstein) distance of two Gaussians.

    |m_a - m_b|^2 + tr C_a + tr C_b - 2 tr (C_a^{1/2} C_b C_a^{1/2})^{1/2}. With C = L L^T the last trace is the sum of
    the singular values of L_a^T L_b. So no root is taken of what rounding has left of a zero, and the covariances may
    be singular. Variances below F times the rounding of the largest are zero.

    Args:
        mean_a: [F].
        covariance_a: symmetric, positive semidefinite, [F, F].
        mean_b: [F].
        covariance_b: symmetric, positive semidefinite, [F, F].

    Returns:
        The distance, not negative.

    Raises:
        ValueError: shapes disagree, a value is not finite, or a matrix is not a covariance.

    Reference:
        Dowson and Landau, 1982, The Fréchet distance between multivariate normal distributions.
    """
    means = [np.asarray(mean, np.float64) for mean in (mean_a, mean_b)]
    covariances = [np.asarray(covariance, np.float64) for covariance in (covariance_a, covariance_b)]
    size = means[0].size
    shapes = [array.shape for array in (*means, *covariances)]
    if shapes != [(size,)] * 2 + [(size, size)] * 2:
        raise ValueError(f"means and covariances have shapes {shapes}, expected [F], [F], [F, F] and [F, F].")
    factors = [_factor(covariance) for covariance in covariances]
    shared = np.linalg.svd(factors[0].T @ factors[1], compute_uv=False).sum()
    apart = np.square(means[0] - means[1]).sum() + np.trace(covariances[0]) + np.trace(covariances[1])
    return max(float(apart - 2.0 * shared), 0.0)  # equal Gaussians may miss 0 by rounding


def _factor(covariance: np.ndarray) -> np.ndarray:
    """L, [F, rank], with L L^T the covariance, [F, F]."""
    variances, directions = np.linalg.eigh(covariance)
    largest = np.abs(variances).max()
    asymmetry = np.abs(covariance - covariance.T).max()
    if max(asymmetry, -variances.min()) > _ROUNDING * largest:
        raise ValueError(
            f"a matrix has eigenvalues from {variances.min():.3g} to {variances.max():.3g} and differs from its "
            f"transpose by up to {asymmetry:.3g}, expected a covariance: symmetric, without negative eigenvalues."
        )
    kept = variances > len(variances) * np.finfo(np.float64).eps * largest
    return directions[:, kept] * np.sqrt(variances[kept])
