import numpy as np
import pytest
from matplotlib.colors import to_hex

from mvae_jax.viz import _figure, tradeoff

VALUES = {
    "beta-VAE": {"1": [(1.0, 0.1), (2.0, 0.3), (4.0, 0.2)], "4": [(5.0, 0.5)]},
    "beta-TCVAE": {"2": [(3.0, 0.9), (2.0, 0.7)]},
}


def test_points_are_medians_and_bars_reach_from_least_to_greatest(figures):
    picture = tradeoff.medians(VALUES, xlabel="error", ylabel="MIG", title="Models")
    assert picture.size == (990, int((1.8 * 2.6 + 0.6) * 110))
    (axis,) = figures[0].axes
    drawn = {}
    for container, colour in zip(axis.containers, _figure.COLOURS, strict=False):
        line, _, (horizontal, vertical) = container
        assert to_hex(line.get_color()) == colour
        drawn[colour] = (
            np.stack(line.get_data(), axis=1).tolist(),
            [segment[:, 0].tolist() for segment in horizontal.get_segments()],
            [segment[:, 1].tolist() for segment in vertical.get_segments()],
        )
    first, second = drawn.values()
    assert first == ([[2.0, 0.2], [5.0, 0.5]], [[1.0, 4.0], [5.0, 5.0]], [pytest.approx([0.1, 0.3]), [0.5, 0.5]])
    assert second == ([[2.5, 0.8]], [[2.0, 3.0]], [pytest.approx([0.7, 0.9])])


def test_every_run_is_a_small_point_of_its_method(figures):
    tradeoff.medians(VALUES)
    runs = [points.get_offsets().tolist() for points in figures[0].axes[0].collections if len(points.get_offsets()) > 1]
    assert runs == [[[1.0, 0.1], [2.0, 0.3], [4.0, 0.2], [5.0, 0.5]], [[3.0, 0.9], [2.0, 0.7]]]


def test_settings_and_methods_are_named(figures):
    tradeoff.medians(VALUES, xlabel="error", ylabel="MIG")
    (axis,) = figures[0].axes
    assert [(text.get_text(), text.xy[0]) for text in axis.texts] == [("1", 2.0), ("4", 5.0), ("2", 2.5)]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == list(VALUES)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("error", "MIG")


def test_any_name_can_be_drawn(hostile, figures):
    tradeoff.medians({hostile: {hostile: [(1.0, 2.0)]}}, xlabel=hostile, ylabel=hostile, title=hostile)
    box = figures[0].axes[0].get_window_extent()
    assert min(box.width, box.height) > 300


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "got 0 methods, expected 1 to 10"),
        ({str(i): {"1": [(1.0, 1.0)]} for i in range(11)}, "got 11 methods"),
        ({"a": {}}, "method 'a' has no settings"),
        ({"a": {"1": []}}, r"the runs of '1' of 'a' have shape \(0,\), expected \[R, 2\]"),
        ({"a": {"1": [(1.0, 2.0, 3.0)]}}, r"have shape \(1, 3\)"),
        ({"a": {"1": [(1.0, np.nan)]}}, "all finite"),
    ],
)
def test_what_cannot_be_drawn_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        tradeoff.medians(values)
