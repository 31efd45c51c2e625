"""Precision and recall of a generator: the share of its images that look real, and of real ones that it can make.

Each set of features spreads over a manifold: the union of balls around its examples, each out to the example's k-th
nearest neighbour in the set.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from mvae_jax.eval._arguments import measure
from mvae_jax.eval.features import Comparison, Features, check_pair

_ROUNDING = 1e-12  # of a squared distance, as a share of the squared lengths


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrecisionRecall(Comparison):
    """Precision and recall of a set of generated images, `count_b`, against one of real images, `count_a`.

    Attributes:
        precision: share of generated images on the manifold of the real ones, in [0, 1].
        recall: share of real images on the manifold of the generated ones, in [0, 1].
        neighbours: k.
    """

    precision: float
    recall: float
    neighbours: int


@measure()
def precision_and_recall(
    real: npt.ArrayLike,
    generated: npt.ArrayLike,
    *,
    features: Features,
    split: str = "",
    neighbours: int = 3,
    chunk: int = 1000,
) -> PrecisionRecall:
    """Precision and recall by nearest neighbours.

    Few images have large balls: compare only what has equal counts. One outlier among the real images makes a ball that
    holds much. All distances are float64.

    Args:
        real: features of real images, [N, F].
        generated: features of generated images, [M, F].
        features: what made them, for reports.
        split: which images they are, for reports.
        neighbours: k; N and M are at least k + 1.
        chunk: examples at a time; memory holds a few times chunk * max(N, M) distances.

    Returns:
        Both; to exchange the sets is to exchange precision and recall.

    Raises:
        ValueError: shapes disagree, there are too few examples, features are not finite, or `neighbours` or `chunk` is
            not positive.

    Reference:
        Kynkäänniemi et al., 2019, arXiv:1904.06991, equations 1 and 2; k = 3 is theirs.
    """
    if min(neighbours, chunk) < 1:
        raise ValueError(f"neighbours is {neighbours} and chunk {chunk}, expected at least 1 of both.")
    a, b = check_pair(real, generated, least=neighbours + 1)
    # Moved near to the origin, far from which rounding would lose the differences; whole numbers stay whole.
    origin = a[0].astype(np.float64)
    points, queries = a - origin, b - origin
    radii, other_radii = (_squared_radii(centres, neighbours, chunk) for centres in (points, queries))
    precise, recalled = np.zeros(len(queries), bool), np.zeros(len(points), bool)
    for start in range(0, len(points), chunk):
        rows = slice(start, start + chunk)
        distances = _squared_distances(points[rows], queries)
        precise |= (distances <= radii[rows, None]).any(axis=0)
        recalled[rows] = (distances <= other_radii).any(axis=1)
    return PrecisionRecall.of(
        a, b, features, split, precision=float(precise.mean()), recall=float(recalled.mean()), neighbours=neighbours
    )


def _squared_radii(points: np.ndarray, neighbours: int, chunk: int) -> np.ndarray:
    """Squared distance of each point [N, F] to its k-th nearest other one, [N]."""
    radii = []
    for start in range(0, len(points), chunk):
        distances = _squared_distances(points[start : start + chunk], points)
        diagonal = np.arange(len(distances))
        distances[diagonal, start + diagonal] = np.inf  # no point is its own neighbour, but a copy of it is
        radii.append(np.partition(distances, neighbours - 1, axis=1)[:, neighbours - 1])
    return np.concatenate(radii)


def _squared_distances(rows: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[n, F] and [N, F] to [n, N]."""
    squares = np.square(rows).sum(axis=1)[:, None] + np.square(points).sum(axis=1)
    distances = squares - 2.0 * rows @ points.T
    # What rounding leaves of 0 must not put a copy of an image outside of the ball around it.
    return np.where(distances > _ROUNDING * squares, distances, 0.0)
