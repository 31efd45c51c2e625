"""The matplotlib figures behind the pictures, and text that must neither break a figure nor run in a page."""

import pytest

from mvae_jax.viz import _figure, _narrow

HOSTILE = [
    r"$\frac{$",
    r"\N{dollar} ^_{ \u0000",
    "<b>bold</b> & \"quotes\" 'both' <script>alert(1)</script>",
    "tab\tline\nfeed\x00\x07\x1b[31m",
    "\ud800 lone surrogate",
    "\u202egnp.exe\u202c \u2066turned\u2069 zero\u200bwidth",
    "\U0001f9d1\u200d\U0001f680 日本語 العربية",
    "W" * 3000,
    "word " * 3000,
    "",
    "   ",
]


@pytest.fixture(params=HOSTILE, ids=lambda text: ascii(text)[1:16])
def hostile(request):
    """One text after the other."""
    return request.param


@pytest.fixture
def figures(monkeypatch):
    """The figures that were drawn, in order; not their narrow versions."""
    return noted(monkeypatch, narrow=False)


@pytest.fixture
def narrow_figures(monkeypatch):
    """The narrow versions of the figures that were drawn, in order."""
    return noted(monkeypatch, narrow=True)


def noted(monkeypatch, narrow):
    seen, render = [], _figure.render

    def noting(figure):
        if _narrow.asked() == narrow:
            seen.append(figure)
        return render(figure)

    monkeypatch.setattr(_figure, "render", noting)
    return seen
