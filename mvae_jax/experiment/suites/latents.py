"""Latent spaces drawn: one dimension at a time, and codes to sample from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from mvae_jax import gaussian, runs
from mvae_jax.data.batches import Dataset
from mvae_jax.eval import consistency, fid
from mvae_jax.eval.batched import in_chunks, to_bytes
from mvae_jax.experiment.declaration import plain
from mvae_jax.viz import traversals
from mvae_jax.viz.traversals import Strips

# Of path lengths in the two spaces of a generator with a mapping network.
PATHS = {"z_full": "Z, whole path", "z_end": "Z, its start", "w_full": "W, whole path", "w_end": "W, its start"}
_BEYOND = np.linspace(-0.5, 1.5, 9)  # from half a step before an attribute is missing to half a step after it is there
_COMPARED = 1000  # training images of a mean image, and images that it is compared with, at most
_CANDIDATES = 200  # images of which a typical one is chosen, at most
_ALIKE = 0.95  # correlation of two attributes, male and female, that are one feature


def fitted_codes(codes: npt.ArrayLike, noise: npt.ArrayLike) -> jax.Array:
    """Draws from the Gaussian that has the mean and the covariance of codes.

    Args:
        codes: [N, D], N at least 2; their covariance may be singular.
        noise: draws from N(0, I), [M, D].

    Returns:
        mean + A noise with A A^T the unbiased covariance, float32 [M, D].

    Raises:
        ValueError: there are fewer than two codes, or one is not finite.
    """
    mean, covariance = fid.moments_of(codes)
    variances, directions = np.linalg.eigh(covariance)
    factor = directions * np.sqrt(np.maximum(variances, 0.0))  # rounding may have made a zero negative
    return jnp.asarray(mean + np.asarray(noise, np.float64) @ factor.T, jnp.float32)


def ends(mean: npt.ArrayLike, logvar: npt.ArrayLike | None, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of a traversal of each dimension.

    Args:
        mean: codes of examples, [N, D].
        logvar: their log variances, [N, D]; None for an encoder without a distribution.
        reach: how far to go, in standard deviations.

    Returns:
        Two [D]: minus and plus `reach`, since the prior's standard deviation is 1; without a distribution there is no
        prior, and it is the codes' mean minus and plus `reach` of their standard deviations.
    """
    codes = np.asarray(mean)
    centre, deviation = (codes.mean(0), codes.std(0)) if logvar is None else (0.0, np.ones(codes.shape[1]))
    return centre - reach * deviation, centre + reach * deviation


def along(run: runs.Run, code: jax.Array, dimension: int, start: float, end: float, steps: int) -> np.ndarray:
    """Pictures of a code [D] one dimension of which goes from start to end: uint8 [steps, H, W, C]."""
    codes = jnp.tile(code, (steps, 1)).at[:, dimension].set(jnp.linspace(start, end, steps))
    return to_bytes(run.decode(codes))


def traversal(
    run: runs.Run, x: jax.Array, examples: jax.Array, reach: float, steps: int, rows: int = 6
) -> dict[str, np.ndarray]:
    """Pictures along the latent dimensions that are used most, from the code of one image.

    Args:
        run: a trained autoencoder.
        x: the image, [1, H, W, C] in [-1, 1].
        examples: images that tell the use of each dimension, its mean KL, or the standard deviation of its codes where
            they have no distribution; [N, H, W, C].
        reach: as for `ends`.
        steps: V, pictures per dimension.
        rows: how many dimensions.

    Returns:
        {name and use of the dimension: uint8 [V, H, W, C]}.
    """
    mean, logvar = in_chunks(run.encode)(examples)
    if logvar is None:
        use, word, form = mean.std(0), "deviation", ".3g"
    else:
        use, word, form = np.asarray(gaussian.kl_divergence(mean, logvar, 0.0, 0.0).mean(0)), "KL", ".2f"
    low, high = ends(mean, logvar, reach)
    code = run.encode(x)[0][0]
    return {
        f"z{dimension}, {word} {use[dimension]:{form}}": along(
            run, code, dimension, low[dimension], high[dimension], steps
        )
        for dimension in np.argsort(-use)[:rows]
    }


def traversal_figures(
    name: str, caption: str, run: runs.Run, x: jax.Array, examples: jax.Array, reach: float, steps: int
) -> dict[str, tuple[str, Any]]:
    """Strips and an animation of `traversal`, under a name and with a caption."""
    rows = traversal(run, x, examples, reach, steps)
    return {
        name: (caption, Strips(rows, values_of(np.linspace(-reach, reach, steps)), steps - 1)),
        f"{name}_animated": (f"{caption}, animated", traversals.animation(rows)),
    }


def values_of(numbers: npt.ArrayLike) -> list[str]:
    """The steps of a slider as texts."""
    return [f"{value:+.3g}" if value else "0" for value in np.asarray(numbers, float).round(6)]


# --- what a model is to be compared with -----------------------------------------------------------------------------


def mean_image_errors(known: npt.ArrayLike, x: npt.ArrayLike) -> np.ndarray:
    """Errors of a model that answers every image with the mean of the images that it knows.

    Args:
        known: training images, uint8 [M, H, W, C], of which up to 1,000 are averaged.
        x: the images that it is asked for, uint8 [N, H, W, C], of which up to 1,000 are taken.

    Returns:
        Squared error of each, a mean over values in [0, 1], [N].
    """
    mean = np.asarray(known)[:_COMPARED].mean(0) / 255
    return np.stack([np.square(image / 255 - mean).mean() for image in np.asarray(x)[:_COMPARED]])


def mean_image_psnr(data: Dataset, image_size: int | tuple[int, int], count: int = _COMPARED) -> float:
    """PSNR of such a model on held-out images, its mean in dB.

    Args:
        data: training and held-out images.
        image_size: their height and width in pixels, or one number for both.
        count: of either, at most.
    """
    train = data.examples("train", image_size)
    known = train.take(np.arange(min(count, len(train))))["image"]
    return float(-10 * np.log10(mean_image_errors(known, data.validation.first(count)["image"])).mean())


def typical(images: npt.ArrayLike) -> int:
    """The place of the image that is most like the others, to be varied in figures.

    Of up to 200 images, the one that correlates most with their mean. Of faces it looks straight ahead, so that what
    changes in a figure is what was varied; the first image of a split may be a profile, or dark.

    Args:
        images: [N, H, W, C], of any range.
    """
    known = np.asarray(images)[:_CANDIDATES]
    mean = known.mean(0, dtype=np.float64).reshape(-1, 1)
    return int(np.argmax([correlations(image.reshape(-1, 1), mean)[0, 0] for image in known]))


# --- attributes that are moved ---------------------------------------------------------------------------------------


def attribute_ends(present: np.ndarray, names: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A person without and with each attribute: item of `consistency.single_edits` -> both, [A].

    Args:
        present: attributes of the person, [A] in {0, 1}; all but one stay, see `consistency.single_edits`.
        names: A names.
    """
    ends = {}
    for edited, item in zip(*consistency.single_edits(present[None], names), strict=True):
        column = list(names).index(item.partition("/")[0])  # of the two of "male/female"
        ends[item] = tuple(sorted((present, edited[0]), key=lambda row: row[column]))
    return ends


def attribute_strips(
    draw: Callable[[jax.Array], jax.Array], ends: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]]
) -> Strips:
    """A picture along attributes, from without each to with it, and half as far beyond either.

    Args:
        draw: vectors [9, A] -> their images, [9, H, W, C] in [-1, 1].
        ends: item of `consistency.single_edits` -> vectors without and with it, both [A]: attributes, or codes.
    """
    fractions = jnp.asarray(_BEYOND, jnp.float32)[:, None]
    rows = {
        plain(item.replace("/", " instead of ")): to_bytes(
            draw(gaussian.lerp(jnp.asarray(without)[None], jnp.asarray(having)[None], fractions))
        )
        for item, (without, having) in ends.items()
    }
    marks = {0.0: "0, without", 1.0: "1, with"}
    # A page first shows what each attribute does, not as many times the same picture.
    return Strips(rows, [marks.get(place, f"{place:g}") for place in _BEYOND], list(_BEYOND).index(1.0))


# --- dimensions that follow attributes -------------------------------------------------------------------------------


def correlations(codes: npt.ArrayLike, attributes: npt.ArrayLike) -> np.ndarray:
    """Pearson correlation of each attribute with each dimension, [A, D]; 0 where either of the two is constant.

    Args:
        codes: [N, D].
        attributes: [N, A].
    """
    z, a = (np.asarray(values, np.float64) for values in (codes, attributes))
    z, a = z - z.mean(0), a - a.mean(0)
    scales = np.sqrt(np.outer(np.square(a).sum(0), np.square(z).sum(0)))
    return np.divide(a.T @ z, scales, out=np.zeros(scales.shape), where=scales > 1e-9)


def common_features(
    codes: Mapping[str, npt.ArrayLike], attributes: npt.ArrayLike, names: Sequence[str], count: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """The attributes that a dimension of every model follows best, and that dimension of each.

    The paper picks dimensions by hand; here it is the one whose codes correlate most with the attribute. An attribute
    ranks by the model in which it correlates least. What correlates by more than .95 with one before is left out.

    Args:
        codes: model -> [N, D], of the same examples.
        attributes: [N, A] in {0, 1}.
        names: A names.
        count: attributes to return, at most.

    Returns:
        Attribute -> model -> "dimension", int, and "correlation", in [-1, 1].

    Reference:
        Schik, overview of variational autoencoders, figure 1.
    """
    by_model = {model: correlations(z, attributes) for model, z in codes.items()}
    least = np.min([np.abs(table).max(1) for table in by_model.values()], axis=0)
    alike = np.abs(correlations(attributes, attributes)) > _ALIKE
    chosen: list[int] = []
    for row in np.argsort(-least.round(6), kind="stable"):  # of male and female, which rounding parts, the first
        if len(chosen) < count and least[row] > 0 and not alike[row, chosen].any():
            chosen.append(int(row))
    best = {model: np.abs(table).argmax(1) for model, table in by_model.items()}
    return {
        names[row]: {
            model: {"dimension": int(best[model][row]), "correlation": float(table[row, best[model][row]])}
            for model, table in by_model.items()
        }
        for row in chosen
    }
