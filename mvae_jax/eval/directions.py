"""Directions of a latent space that stand for attributes: found from labelled images, compared, followed, and read.

Reference:
    Larsen et al., 2016, arXiv:1512.09300, section 4.1.2; Pidhorskyi et al., 2020, arXiv:2004.04467.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from mvae_jax import gaussian
from mvae_jax.eval._arguments import check_finite, device_measure, measure


@device_measure()
def attribute_vectors(
    encode: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    images: Any,
    attributes: npt.ArrayLike,
    *,
    names: Sequence[str] | None = None,
    key: jax.Array | None = None,
    batch_size: int = 250,
) -> np.ndarray:
    """Mean code of the images that have an attribute minus that of those that do not.

    Attributes that go together share their direction: `cosines` shows how much. The codes are the means of the
    posteriors, of all images, as in the paper; samples would only add noise. The released code has samples, of the
    first 10,000 images (VG-05): give these, and a key.

    Args:
        encode: images [B, H, W, C] to mean and log variance of their posteriors, each [B, D]; it is called as it is,
            so pass a compiled function.
        images: [N, H, W, C], float in [-1, 1].
        attributes: [N, A] in {0, 1}.
        names: A names, for messages.
        key: to draw one sample of each posterior; None for the means. It must serve nothing else.
        batch_size: B; the last batch may be smaller. The samples do not depend on it.

    Returns:
        One vector per attribute, float32 [A, D], in units of the codes.

    Raises:
        ValueError: shapes disagree, an image or a code is not finite, a value is neither 0 nor 1, or all images or none
            have an attribute, whose vector would then be the mean of nothing.

    Reference:
        Larsen et al., 2016, arXiv:1512.09300, section 4.1.2.
    """
    has = _checked(attributes, len(images), names)
    starts = range(0, len(images), batch_size)
    posteriors = [encode(jnp.asarray(images[start : start + batch_size])) for start in starts]
    mean, logvar = map(jnp.concatenate, zip(*posteriors, strict=True))
    codes = np.asarray(mean if key is None else gaussian.sample(key, mean, logvar), np.float64)
    check_finite(codes, "codes")
    with_it, without = (group.T @ codes / group.sum(axis=0)[:, None] for group in (has, ~has))
    return (with_it - without).astype(np.float32)


@measure()
def svm_directions(
    codes: npt.ArrayLike, attributes: npt.ArrayLike, names: Sequence[str], *, least: int = 10
) -> dict[str, np.ndarray]:
    """Normals of the planes that part codes with an attribute from those without, by a linear support vector machine.

    Unlike the difference of means they leave out what merely goes together with the attribute. The released code takes
    60,000 generated images, labelled by classifiers.

    Args:
        codes: [N, D].
        attributes: [N, A] in {0, 1} or bool.
        names: the A names.
        least: codes with an attribute, and without it, below which it has no direction.

    Returns:
        {name: direction [D], float32}, towards the codes that have the attribute, as long as the standard deviation of
        all codes along it; without attributes that too few of the codes have, or lack.

    Raises:
        ValueError: shapes disagree, codes are not finite, or a value is neither 0 nor 1.

    Reference:
        Pidhorskyi et al., 2020, `principal_directions` of the released code: C = 1, squared hinge loss, primal problem.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    points = np.asarray(codes, np.float64)
    has = _binary(attributes, len(points), names)
    varied = np.flatnonzero(np.minimum(has.sum(axis=0), (~has).sum(axis=0)) >= max(least, 1))
    directions = {}
    for column in varied.tolist():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a direction needs no last digits
            normal = LinearSVC(C=1.0, dual=False).fit(points, has[:, column]).coef_[0]
        direction = normal / np.linalg.norm(normal)
        directions[names[column]] = (direction * (points @ direction).std()).astype(np.float32)
    return directions


def _binary(attributes: npt.ArrayLike, count: int, names: Sequence[str] | None) -> np.ndarray:
    """Attributes as bool [N, A]; a ValueError names the shape or the value that does not fit."""
    values = np.asarray(attributes)
    if values.ndim != 2 or len(values) != count or (names is not None and values.shape[1] != len(names)):
        raise ValueError(
            f"attributes have shape {values.shape}, expected [{count}, {'A' if names is None else len(names)}]: a row "
            "per image and a column per name."
        )
    has = values == 1
    if not (has | (values == 0)).all():
        raise ValueError(f"attributes hold {values[~(has | (values == 0))][0]}, expected only 0 and 1.")
    return has


def _checked(attributes: npt.ArrayLike, count: int, names: Sequence[str] | None) -> np.ndarray:
    """`_binary`, of attributes that some images have and others do not."""
    has = _binary(attributes, count, names)
    same = np.flatnonzero((has == has[:1]).all(axis=0))
    if len(same):
        listed = ", ".join(str(index) if names is None else names[index] for index in same.tolist())
        raise ValueError(
            f"all or none of the {count} images have the attributes {listed}: leave these out or give more images."
        )
    return has


@measure()
def cosines(vectors: npt.ArrayLike) -> np.ndarray:
    """Cosines of the angles between all vectors, [A, D]: 1 for one direction, 0 for what has nothing in common.

    Args:
        vectors: [A, D].

    Returns:
        [A, A], symmetric, in [-1, 1]; ones on the diagonal.

    Raises:
        ValueError: a vector is zero, and so has no direction, or is not finite.
    """
    vectors = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError(f"vector {int(lengths.argmin())} is zero and has no direction: leave it out.")
    units = vectors / lengths
    return np.clip(units @ units.T, -1.0, 1.0)


@device_measure()
def edited(
    decode: Callable[[jax.Array], jax.Array], z: jax.Array, vector: npt.ArrayLike, strengths: npt.ArrayLike
) -> jax.Array:
    """Images of codes that have moved along an attribute's vector: decode(z + strength * vector).

    Args:
        decode: codes [N, D] to images [N, H, W, C]; called once per strength, as it is.
        z: codes, [N, D].
        vector: of one attribute, [D].
        strengths: [S]; 0 is the reconstruction, 1 the published edit, and negative ones take the attribute away.

    Returns:
        [S, N, H, W, C].

    Raises:
        ValueError: a code, the vector or a strength is not finite.
    """
    direction = jnp.asarray(vector, z.dtype)
    chex.assert_shape(direction, z.shape[1:])
    return jnp.stack([decode(z + strength * direction[None]) for strength in np.asarray(strengths, float).tolist()])


@dataclasses.dataclass(frozen=True)
class EditScore:
    """What a classifier reads from images without an attribute, before and after their codes move along its vector.

    Attributes:
        images: number of images without the attribute.
        read_before: share of their reconstructions from which the attribute is read all the same, in [0, 1].
        read_after: share of the edited ones from which it is read.
        others_unchanged: share of the other attributes, over all of these images, that are read as before; None if
            there are no others. Those that the attribute excludes ought to change.
    """

    images: int
    read_before: float
    read_after: float
    others_unchanged: float | None


@measure()
def edit_scores(
    read: Callable[[np.ndarray], npt.ArrayLike],
    z: npt.ArrayLike,
    attributes: npt.ArrayLike,
    vectors: Mapping[str, npt.ArrayLike],
    names: Sequence[str],
) -> dict[str, EditScore]:
    """How often a classifier reads an attribute whose vector is added to codes of images without it.

    Args:
        read: codes [M, D] to the classifier's logits of their images, [M, A]; called once, with all codes, those that
            have moved too, so that it may take them in chunks of one size.
        z: codes of images, [N, D].
        attributes: those that the images have, [N, A] in {0, 1}.
        vectors: attribute -> vector [D], which is added once, as published.
        names: the A attributes.

    Returns:
        {attribute: score}, of the vectors' attributes that some image lacks.

    Raises:
        ValueError: attributes are not [N, A], or neither 0 nor 1, or there is a vector of none of them.

    Reference:
        Larsen et al., 2016, arXiv:1512.09300, section 4.1.2 and figure 5.
    """
    codes = np.asarray(z)
    lacking = ~_binary(attributes, len(codes), names)
    if unknown := [name for name in vectors if name not in names]:
        raise ValueError(f"there is a vector of {unknown[0]!r}, expected vectors of some of {', '.join(names)}.")
    rows = {name: np.flatnonzero(lacking[:, names.index(name)]) for name in vectors}
    moved = [codes[rows[name]] + np.asarray(vector, codes.dtype) for name, vector in vectors.items()]
    logits = np.asarray(read(np.concatenate([codes, *moved])))
    check_finite(logits, "the classifier's logits")
    before, *edited_ones = np.split(logits > 0, np.cumsum([len(codes), *map(len, rows.values())])[:-1])
    scores = {}
    for (name, images), after in zip(rows.items(), edited_ones, strict=True):
        if len(images):
            column = names.index(name)
            same = np.delete(before[images] == after, column, axis=1)
            scores[name] = EditScore(
                images=len(images),
                read_before=float(before[images, column].mean()),
                read_after=float(after[:, column].mean()),
                others_unchanged=float(same.mean()) if same.size else None,
            )
    return scores
