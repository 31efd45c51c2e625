"""Kernel distance of two sets of images, in features [N, F] from whatever network the caller has applied.

Unlike the Fréchet distance its expectation does not depend on the number of images, and it assumes no distribution.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from mvae_jax.eval.features import Comparison, Features, check_pair


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelDistance(Comparison):
    """Squared maximum mean discrepancy of two sets of features.

    Attributes:
        value: mean of its unbiased estimates from the subsets; around 0, also below, for independent sets of one
            distribution, and below it for sets of which one was made from the other. In units of the kernel; tables
            often have it times 1000.
        standard_error: of that mean, as if subsets were independent. They share images: where these are few, 1000 for
            instance, other images would change the value by several times as much.
        subsets: how many.
        subset_size: images that each takes from each set.
    """

    value: float
    standard_error: float
    subsets: int
    subset_size: int


def kernel_distance(
    features_a: npt.ArrayLike,
    features_b: npt.ArrayLike,
    *,
    features: Features,
    split: str = "",
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> KernelDistance:
    """Mean of `squared_mmd` over random subsets of both sets; with Inception's features it is the KID.

    Each subset is drawn without replacement, and takes half of the smaller set at most, so that subsets differ.

    Args:
        features_a: [N, F], N at least 4.
        features_b: [M, F], M at least 4.
        features: what made them, for reports.
        split: which images they are, for reports.
        subsets: how many, at least 2.
        subset_size: images that each takes from each set, at least 2, if there are enough. It changes the spread of
            the estimates, not their expectation.
        seed: of the draws.

    Returns:
        The distance; symmetric in the two sets, but for the draws.

    Raises:
        ValueError: shapes disagree, there are too few examples or subsets, or features are not finite.

    Reference:
        Binkowski et al., 2018, arXiv:1801.01401, section 4.
    """
    a, b = check_pair(features_a, features_b, least=4)
    if min(subsets, subset_size) < 2:
        raise ValueError(f"subsets is {subsets} and subset_size {subset_size}, expected at least 2 of both.")
    size = min(subset_size, len(a) // 2, len(b) // 2)
    rng = np.random.default_rng(seed)
    draws = ([rng.permutation(len(examples))[:size] for examples in (a, b)] for _ in range(subsets))
    estimates = [squared_mmd(a[rows_a], b[rows_b]) for rows_a, rows_b in draws]
    return KernelDistance.of(
        a,
        b,
        features,
        split,
        value=float(np.mean(estimates)),
        standard_error=float(np.std(estimates, ddof=1) / np.sqrt(subsets)),
        subsets=subsets,
        subset_size=size,
    )


def squared_mmd(features_a: npt.ArrayLike, features_b: npt.ArrayLike) -> float:
    """Unbiased estimate of E k(x, x') + E k(y, y') - 2 E k(x, y) with the kernel k(x, y) = (x.y / F + 1)^3.

    It sees the first three moments and nothing else: its expectation is the sum over r = 1, 2, 3 of binomial(3, r) /
    F^r times the squared difference of the moments of order r. Sums are float64.

    Args:
        features_a: x, [N, F], N at least 2.
        features_b: y, [M, F], M at least 2.

    Returns:
        The estimate; it may be negative.

    Raises:
        ValueError: shapes disagree, there are fewer than two examples, or features are not finite.

    Reference:
        Gretton et al., 2012, A kernel two-sample test, equation 3.
    """
    a, b = (features.astype(np.float64) for features in check_pair(features_a, features_b))

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        base = x @ y.T / x.shape[1] + 1.0
        return base * base * base  # NumPy takes 20 times as long for a power

    def within(x: np.ndarray) -> float:
        values = kernel(x, x)
        return (values.sum() - values.trace()) / (len(x) * (len(x) - 1))  # no example with itself

    return float(within(a) + within(b) - 2.0 * kernel(a, b).mean())
