"""The latent codes of two modalities in one plane, by t-SNE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import threadpoolctl
from PIL import Image

from mvae_jax.viz import _figure, _narrow

_FEWEST = 4  # pairs
_PERPLEXITY = 30.0
_GAP = 0.12  # between the panels, in widths of a panel
_EDGE = 0.04  # between points and the frame of their panel


def embed(
    image_codes: npt.ArrayLike, text_codes: npt.ArrayLike, *, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Places the codes of both modalities in one plane so that neighbours stay neighbours (t-SNE).

    All 2 N codes are embedded together: a pair whose codes are close lies close. Distances between far groups, and
    their sizes, mean little. The perplexity is 30, or a third of the number of other points where that is less. It
    runs on one thread and from the principal components, so equal codes and seed give equal bits.

    Args:
        image_codes: [N, D], N from 4, D from 2.
        text_codes: [N, D], row i of the same example as row i of the images. They may repeat.
        seed: of what little is random in it.

    Returns:
        Places of the image codes and of the text codes, each [N, 2]; all zero where all codes are equal.

    Raises:
        ValueError: codes differ in shape, are too few or too short, or are not finite.

    Reference:
        van der Maaten and Hinton, 2008, Visualizing data using t-SNE.
    """
    from sklearn.manifold import TSNE  # takes a second to import

    images, texts = np.asarray(image_codes, np.float32), np.asarray(text_codes, np.float32)
    if images.ndim != 2 or images.shape != texts.shape or len(images) < _FEWEST or images.shape[1] < 2:
        raise ValueError(
            f"codes have shapes {images.shape} and {texts.shape}, expected both [N, D] with N from {_FEWEST} and D "
            "from 2."
        )
    for modality, codes in (("image", images), ("text", texts)):
        if broken := int((~np.isfinite(codes)).any(axis=1).sum()):
            raise ValueError(f"{broken} of {len(codes)} {modality} codes are not finite; look at the encoder.")
    together = np.concatenate([images, texts])
    if (together == together[0]).all():
        return np.zeros((len(images), 2), np.float32), np.zeros((len(texts), 2), np.float32)
    tsne = TSNE(perplexity=min(_PERPLEXITY, (len(together) - 1) / 3), init="pca", random_state=seed)
    # Several threads add up the repulsion in an order that varies.
    with threadpoolctl.threadpool_limits(1):
        places = tsne.fit_transform(together)
    return places[: len(images)], places[len(images) :]


def modalities(
    image_codes: npt.ArrayLike,
    text_codes: npt.ArrayLike,
    labels: Sequence[str],
    *,
    seed: int = 0,
    lines: int = 100,
    title: str = "",
) -> Image.Image:
    """The codes of images at the left and of their texts at the right, with lines between the two of a pair.

    Both panels show the same plane at the same scale, see `embed`: the line of a pair whose codes agree is level.

    Args:
        image_codes: [N, D], N from 4, D from 2.
        text_codes: [N, D], row i of the same example as row i of the images.
        labels: N names of classes, such as "male" and "female"; at most ten different ones.
        seed: of the embedding and of the choice of lines.
        lines: for how many pairs, drawn at random, there is a line.
        title: heading of the figure.

    Returns:
        The figure, 990 pixels wide.

    Raises:
        ValueError: labels are not N or name more than ten classes, lines is negative, or what `embed` raises.

    Reference:
        Kim, 2024, figure 9.
    """
    count = len(np.asarray(image_codes))
    if len(labels) != count:
        raise ValueError(f"got {len(labels)} labels, expected {count}: one for each pair of codes.")
    classes = sorted(set(labels))
    if len(classes) > len(_figure.COLOURS):
        raise ValueError(f"labels name {len(classes)} classes, expected at most {len(_figure.COLOURS)}: merge some.")
    if lines < 0:
        raise ValueError(f"lines is {lines}, expected 0 or more.")
    images, texts = _panels(*embed(image_codes, text_codes, seed=seed))
    connected = np.random.default_rng(seed).permutation(count)[:lines]
    return _drawn(images, texts, labels, connected, title)


@_narrow.versions
def _drawn(
    images: np.ndarray, texts: np.ndarray, labels: Sequence[str], connected: np.ndarray, title: str
) -> Image.Image:
    """The figure of `modalities`: places of both modalities, [N, 2], and the pairs with a line."""
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Rectangle

    with _figure.figure(4.4 * (0.7 if _narrow.asked() else 1.0), title) as figure:
        axis = figure.subplots()
        entries = []
        for label, colour, marker in zip(sorted(set(labels)), _figure.COLOURS, _figure.MARKERS, strict=False):
            rows = np.flatnonzero([other == label for other in labels])
            pairs = np.intersect1d(rows, connected)
            paths = np.stack([images[pairs], texts[pairs]], axis=1)
            axis.add_collection(LineCollection(list(paths), colors=colour, linewidths=0.7, alpha=0.35))
            style: dict[str, Any] = {"linestyle": "", "color": colour, "marker": marker, "markersize": 4.5}
            for places in (images, texts):
                axis.plot(*places[rows].T, alpha=0.65, markeredgewidth=0.0, **style)
            entries.append((f"{label} ({len(rows)})", _figure.stroke(**style)))
        for left, name in ((0.0, "image codes"), (1.0 + _GAP, "text codes")):
            axis.add_patch(Rectangle((left, 0.0), 1.0, 1.0, fill=False, edgecolor="0.75"))
            axis.text(left, 1.02, name, color="0.15")
        axis.set_xlim(-0.01, 2.01 + _GAP)
        axis.set_ylim(-0.01, 1.01)
        axis.set_aspect("equal")
        axis.axis("off")
        _figure.legend(axis, entries, loc="upper center", bbox_to_anchor=(0.5, 0.0))
        return _figure.render(figure)


def _panels(images: npt.NDArray[np.float32], texts: npt.NDArray[np.float32]) -> tuple[np.ndarray, np.ndarray]:
    """Places in two unit squares side by side, both modalities moved and scaled alike."""
    together = np.concatenate([images, texts])
    low, high = together.min(axis=0), together.max(axis=0)
    span = float((high - low).max()) or 1.0
    centred = (1 - 2 * _EDGE) * (together - (low + high) / 2) / span + 0.5
    return centred[: len(images)], centred[len(images) :] + np.array([1.0 + _GAP, 0.0])
