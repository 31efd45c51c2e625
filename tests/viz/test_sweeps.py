import numpy as np
import pytest
from matplotlib.colors import to_hex

from mvae_jax.viz import _figure, sweeps

VALUES = {
    "accuracy": {"MVAE": {0.9: [0.5, 0.7, 0.9], 0.0: [0.8]}, "JMVAE": {0.0: [0.6, 0.8], 0.9: [0.4, 0.4]}},
    "distance": {"JMVAE": {0.0: [30.0]}},
}


def drawn(axis):
    """Line of each method: colour -> x, y, and half the height of each bar."""
    found = {}
    for line, _, (bars,) in axis.containers:
        heights = [np.ptp(segment[:, 1]) / 2 for segment in bars.get_segments()]
        found[to_hex(line.get_color())] = (*np.asarray(line.get_data()).tolist(), heights)
    return found


def test_points_are_means_and_bars_standard_deviations(figures):
    picture = sweeps.panels(VALUES, xlabel="hidden share", baselines={"accuracy": 0.55})
    assert picture.size == (990, round((2.6 + 0.4 + 0.6) * 110))
    first, second = figures[0].axes
    lines = drawn(first)
    x, y, bars = lines[_figure.COLOURS[0]]
    assert x == pytest.approx([-0.06, 0.94])
    assert (y, bars) == (pytest.approx([0.8, 0.7]), pytest.approx([0.0, 0.2]))
    x, y, bars = lines[_figure.COLOURS[1]]
    assert x == pytest.approx([0.06, 1.06])
    assert (y, bars) == (pytest.approx([0.7, 0.4]), pytest.approx([0.2 / np.sqrt(2), 0.0]))
    # A method has one colour in all panels.
    assert drawn(second) == {_figure.COLOURS[1]: ([pytest.approx(0.06)], [30.0], [0.0])}
    assert [text.get_text() for text in first.get_xticklabels()] == ["0", "0.9"]
    assert [line.get_ydata()[0] for line in first.lines if line.get_linestyle() == "--"] == [0.55]
    assert not [line for line in second.lines if line.get_linestyle() == "--"]
    assert [text.get_text() for text in second.get_legend().get_texts()] == ["MVAE", "JMVAE", "baseline"]
    assert (first.get_title("left"), second.get_title("left")) == ("accuracy", "distance")


def test_any_name_can_be_drawn(hostile, figures):
    sweeps.panels({hostile: {hostile: {0.5: [1.0]}}}, xlabel=hostile, title=hostile)
    box = figures[0].axes[0].get_window_extent()
    assert min(box.width, box.height) > 100


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "got 0 panels with 0 methods in all"),
        ({"a": {}, "b": {"c": {0: [1.0]}}}, "got 2 panels with 1 methods"),
        ({"a": {str(i): {0: [1.0]} for i in range(11)}}, "got 1 panels with 11 methods"),
        ({"a": {"b": {0.5: []}}}, r"'a' of 'b' at 0.5 is \[\]; expected a finite number"),
        ({"a": {"b": {0: [1.0, np.nan]}}}, r"'a' of 'b' at 0 is \[1.0, nan\]"),
    ],
)
def test_mistakes_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        sweeps.panels(values)
