import numpy as np
import pytest
import threadpoolctl
from sklearn.manifold import TSNE

from mvae_jax.viz import projections


def codes(count=40):
    """Image codes near their text codes; those of half the pairs lie far from the others, as the labels tell."""
    rng = np.random.default_rng(0)
    female = np.arange(count) % 2 == 0
    texts = rng.normal(size=(count, 8)) + 10.0 * female[:, None]
    return texts + 0.1 * rng.normal(size=texts.shape), texts, np.where(female, "female", "male")


def distances(first, second):
    return np.linalg.norm(first[:, None] - second[None], axis=-1)


def test_embedding_keeps_neighbours_and_pairs_together():
    image_codes, text_codes, labels = codes()
    images, texts = projections.embed(image_codes, text_codes)
    assert images.shape == texts.shape == (40, 2)
    together, classes = np.concatenate([images, texts]), np.concatenate([labels, labels])
    nearest = distances(together, together).argsort(axis=1)[:, 1:6]
    assert (classes[nearest] == classes[:, None]).all()
    between = distances(images, texts)
    assert np.diag(between).mean() < 0.1 * between.mean()
    images, strangers = projections.embed(image_codes, np.roll(text_codes, 1, axis=0))
    assert np.diag(distances(images, strangers)).mean() > 0.5 * distances(images, strangers).mean()


def test_embedding_is_the_same_bit_for_bit(monkeypatch):
    image_codes, text_codes, _ = codes(12)
    first = projections.embed(image_codes, text_codes, seed=3)
    threads = []
    fit = TSNE.fit_transform

    def watched(self, x):
        threads.extend(pool["num_threads"] for pool in threadpoolctl.threadpool_info())
        return fit(self, x)

    monkeypatch.setattr(TSNE, "fit_transform", watched)
    second = projections.embed(image_codes.tolist(), text_codes, seed=3)
    assert [places.tobytes() for places in first] == [places.tobytes() for places in second]
    assert set(threads) == {1}


@pytest.mark.parametrize("count", [4, 5, 8])
def test_few_pairs_can_be_embedded(count):
    for places in projections.embed(*codes(count)[:2]):
        assert places.shape == (count, 2)
        assert np.isfinite(places).all()


def test_equal_codes_can_be_embedded():
    image_codes, text_codes, _ = codes(40)
    images, texts = projections.embed(image_codes, np.zeros_like(text_codes))
    assert np.isfinite(images).all()
    assert texts.std(axis=0).max() < 0.2 * images.std(axis=0).max()
    for places in projections.embed(np.ones((6, 3)), np.ones((6, 3))):
        np.testing.assert_array_equal(places, np.zeros((6, 2)))


def test_modalities_draws_both_panels_and_joins_pairs(figures, monkeypatch):
    image_codes, text_codes, labels = codes(12)
    images, texts = np.random.default_rng(1).normal(size=(2, 12, 2)) * (30.0, 10.0)
    monkeypatch.setattr(projections, "embed", lambda *_, seed: (images, texts))
    picture = projections.modalities(image_codes, text_codes, list(labels), lines=7)
    assert picture.size == (990, 550)
    (axis,) = figures[0].axes
    drawn = [line.get_xydata() for line in axis.get_lines()]
    female, male = (np.flatnonzero(labels == name) for name in ("female", "male"))
    assert [len(points) for points in drawn] == [len(female)] * 2 + [len(male)] * 2
    left, right = np.empty((12, 2)), np.empty((12, 2))
    left[female], right[female], left[male], right[male] = drawn
    for points, start in ((left, 0.0), (right, 1.12)):
        assert ((points > (start, 0.0)) & (points < (start + 1.0, 1.0))).all()
    # One scale for both directions and both modalities.
    scale = (left[1:] - left[0]) / (images[1:] - images[0])
    np.testing.assert_allclose(scale, scale[0, 0], rtol=1e-6)
    np.testing.assert_allclose((right - left - (1.12, 0.0)) / scale[0, 0], texts - images, atol=1e-9)
    segments = np.concatenate([lines.get_segments() for lines in axis.collections])
    assert len(segments) == 7
    pairs = {(*a, *b) for a, b in zip(left.tolist(), right.tolist(), strict=True)}
    assert {tuple(segment.ravel().tolist()) for segment in segments} <= pairs
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["female (6)", "male (6)"]
    shapes = {line.get_marker() for line in axis.get_lines()}
    assert len(shapes) == 2  # readable without colours


def test_equal_codes_can_be_drawn():
    projections.modalities(np.ones((4, 2)), np.ones((4, 2)), ["one"] * 4, lines=0)


def test_any_label_can_be_drawn(hostile, monkeypatch):
    places = np.random.default_rng(0).normal(size=(2, 4, 2))
    monkeypatch.setattr(projections, "embed", lambda *_, seed: tuple(places))
    projections.modalities(places[0], places[1], [hostile, "other"] * 2, title=hostile)


@pytest.mark.parametrize(
    ("images", "texts", "message"),
    [
        (np.ones((3, 2)), np.ones((3, 2)), r"\(3, 2\) and \(3, 2\), expected both \[N, D\] with N from 4"),
        (np.ones((4, 2)), np.ones((5, 2)), r"\(4, 2\) and \(5, 2\)"),
        (np.ones((4, 1)), np.ones((4, 1)), "D from 2"),
        (np.ones(4), np.ones(4), r"shapes \(4,\)"),
        (np.full((4, 2), np.nan), np.ones((4, 2)), "4 of 4 image codes are not finite"),
        (np.ones((4, 2)), np.diag([1, 1, 1, np.inf])[:, 2:], "1 of 4 text codes are not finite"),
    ],
)
def test_wrong_codes_are_refused(images, texts, message):
    with pytest.raises(ValueError, match=message):
        projections.embed(images, texts)


@pytest.mark.parametrize(
    ("labels", "lines", "message"),
    [
        (["a"] * 11, 1, "got 11 labels, expected 12"),
        ([str(i) for i in range(12)], 1, "12 classes, expected at most 10"),
        (["a"] * 12, -1, "lines is -1"),
    ],
)
def test_wrong_labels_are_refused(labels, lines, message):
    with pytest.raises(ValueError, match=message):
        projections.modalities(np.ones((12, 2)), np.ones((12, 2)), labels, lines=lines)
