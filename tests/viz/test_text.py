import pytest

from mvae_jax.viz import _text

UNKNOWN = "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("a  man\twith\nhair ", "a man with hair"),
        ("\x1b[31mred\x00", f"{UNKNOWN}[31mred{UNKNOWN}"),
        ("\u202egnp.exe", f"{UNKNOWN}gnp.exe"),  # the font has this mark, and layout would obey it
        ("zero\u200bwidth", f"zero{UNKNOWN}width"),
        ("\U0001f9d1 日", f"{UNKNOWN} {UNKNOWN}"),
        ("café œ ж", "café œ ж"),
        ("x" * 401, "x" * 399 + "…"),
        ("x" * 400, "x" * 400),
    ],
)
def test_drawable(text, drawn):
    assert _text.drawable(text) == drawn


@pytest.mark.parametrize("ems", [0.5, 1.0, 2.0, 7.3, 100.0])
@pytest.mark.parametrize("text", ["", "a young man with black hair", "W" * 500, "i" * 500])
def test_fitting_keeps_what_there_is_room_for(text, ems):
    def width(line):
        return _text.load_font(50).getlength(line) / 50

    fitted = _text.fitting(text, ems)
    if fitted == text:
        assert width(text) <= ems
    else:
        assert fitted.endswith("…")
        assert text.startswith(fitted[:-1])
        assert width(fitted) <= max(ems, 1.0) + 0.05
        if len(fitted) < 400:  # the limit of any text
            assert width(text[: len(fitted) + 1] + "…") > ems - 0.05  # one letter more (a space may lie between)
