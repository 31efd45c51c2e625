import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex

from mvae_jax.viz import curves

RECORDS = [
    {"step": 0, "phase": "first", "split": "setup", "compile_seconds": 9.0},
    {"step": 10, "phase": "first", "split": "train", "loss": 3.0, "image_kl": 100.0},
    {"step": 20, "phase": "first", "split": "train", "loss": 2.0, "image_kl": 1.0},
    {"step": 20, "phase": "first", "split": "validation", "loss": 2.5},
    {"step": 30, "phase": "second", "split": "train", "loss": 1.0, "image_kl": 0.5, "text_kl": float("nan")},
    {"step": 30, "phase": "second", "split": "train", "loss": 1.5, "text_kl": None},
]


@pytest.fixture
def figures(monkeypatch):
    """The matplotlib figures behind the pictures."""
    seen = []
    render = curves._render
    monkeypatch.setattr(curves, "_render", lambda figure: (seen.append(figure), render(figure))[1])
    return seen


def points(axis):
    """(colour, steps, values) of the curves, without the borders of phases."""
    lines = (line for line in axis.get_lines() if line.get_linestyle() == "-")
    return [(to_hex(line.get_color()), list(line.get_xdata()), list(line.get_ydata())) for line in lines]


def test_losses_draws_the_numbers(figures):
    picture = curves.losses(RECORDS, {"Total": ["loss"], "KL": ["*_kl"], "Images": ["image_from_*"]}, title="Run")
    assert picture.mode == "RGB"
    assert picture.size == (990, int((2 * 2.6 + 0.6) * 110))
    total, divergence = figures[0].axes  # the third panel has no values
    blue = to_hex("C0")
    assert points(total) == [(blue, [10, 20, 30], [3.0, 2.0, 1.5]), (blue, [20], [2.5])]
    assert points(divergence) == [(blue, [10, 20, 30], [100.0, 1.0, 0.5])]
    assert (total.get_yscale(), divergence.get_yscale()) == ("linear", "log")
    assert [text.get_text() for text in total.get_legend().get_texts()] == ["loss", "train", "validation"]
    for axis in (total, divergence):
        (border,) = (line for line in axis.get_lines() if line.get_linestyle() == "--")
        assert set(border.get_xdata()) == {20}
    assert [text.get_text() for text in total.texts] == ["first", "second"]


def test_signed_values_have_a_linear_axis(figures):
    curves.losses([{"step": 1, "loss": -1.0}, {"step": 2, "loss": 100.0}], {"Total": ["loss"]})
    assert figures[0].axes[0].get_yscale() == "linear"


def test_any_name_can_be_drawn(figures):
    name = "_$\\frac{$ \U0001f9d1 日本\n\x00\ud800"
    records = [{"step": step, "phase": f"{name}{step // 5}", name: float(step)} for step in range(1, 12)]
    picture = curves.losses(records, {name: ["*"]}, title=name)
    assert (np.asarray(picture) < 128).any()
    texts = figures[0].axes[0].get_legend().get_texts()
    assert texts[0].get_text() == "_$\\frac{$ � �� ��"


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match=r"none of the panels .*'Text'.* of the 6 records.*\['image_kl', 'loss'\]"):
        curves.losses(RECORDS, {"Text": ["text_*"]})
    with pytest.raises(ValueError, match="panel 'All' has 11 metrics, expected at most 10"):
        curves.losses([{"step": 1} | {f"m{i}": 1.0 for i in range(11)}], {"All": ["m*"]})


def test_score_distributions_counts_pairs(figures):
    picture = curves.score_distributions([0.8, 0.9, 0.9], [0.1, 0.2, 0.85, 0.1], 0.6, title=r"$\frac{$")
    assert picture.size == (990, int((1.3 * 2.6 + 0.6) * 110))
    (axis,) = figures[0].axes
    assert [sum(bar.get_height() for bar in bars) for bars in axis.containers] == [3, 4]
    (line,) = axis.get_lines()
    assert set(line.get_xdata()) == {0.6}


def test_equal_scores_can_be_drawn():
    curves.score_distributions([1.0, 1.0], [1.0], 1.0)


def test_no_global_state_of_matplotlib_changes():
    before = dict(matplotlib.rcParams)
    curves.losses(RECORDS, {"Total": ["loss"]})
    assert dict(matplotlib.rcParams) == before
    code = "import sys, mvae_jax.viz.curves; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
