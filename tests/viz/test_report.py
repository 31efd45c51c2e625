import base64
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image

from mvae_jax.viz import report

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror='go()'> \"$\\frac{$\" & ' \ud800\x00\x1b[31m \u202egnp.exe "
    "&lt;b&gt; </style></table></details></title>--> \U0001f9d1\u200d\U0001f680 " + "w" * 500
)
SHOWN = HOSTILE.translate({0xD800: "?", 0: " ", 0x1B: " ", 0x202E: " ", 0x200D: " "})
VOID = {"meta", "img"}


class Reader(html.parser.HTMLParser):
    """Tags, texts and attributes of a document; fails if tags do not nest."""

    def __init__(self, document):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(document)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def picture(width=30, height=20):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def everything(text):
    return report.page(
        text,
        [
            text,
            report.heading(text),
            report.subheading(text),
            report.note(text),
            report.code(text),
            report.table([{text: text, "n": 1}], text),
            report.values({text: {text: text}}, text),
            report.figure(picture(), text),
            report.details(text, [text, report.note(text)]),
        ],
    )


def test_hostile_text_is_shown_and_never_obeyed():
    hostile, harmless = Reader(everything(HOSTILE)), Reader(everything("harmless"))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in harmless.tags]
    assert [list(attributes) for _, attributes in hostile.tags] == [list(a) for _, a in harmless.tags]
    assert hostile.text.count(SHOWN) == harmless.text.count("harmless")
    assert hostile.of("img")[0]["alt"] == SHOWN


def test_nothing_invisible_gets_into_the_page():
    assert {c for c in everything(HOSTILE) if not c.isprintable()} == {"\n"}
    assert everything(HOSTILE).encode("utf-8")


def test_nothing_is_loaded_from_elsewhere():
    document = everything("text")
    reader = Reader(document)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in reader.tags}
    for tag, attributes in reader.tags:
        for name in ("src", "href", "srcset", "action", "background", "data"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, name)
    assert "://" not in document
    assert "url(" not in document
    assert "@import" not in document
    assert "default-src 'none'" in [meta.get("content", "") for meta in reader.of("meta")][1]


def test_readable_on_a_phone_and_in_the_dark():
    document = everything("text")
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in Reader(document).of("meta")
    assert "@media (prefers-color-scheme: dark)" in document
    assert document.count('class="scroll"') == 3  # both tables and the figure
    # Captions stand outside the boxes that scroll.
    assert not re.search(r'class="scroll"[^>]*>((?!</div>).)*<figcaption', document, re.DOTALL)


@pytest.mark.parametrize(("width", "narrowest"), [(30, 30), (400, 360), (990, 660), (1244, 829), (3000, 1000)])
def test_wide_pictures_shrink_no_further_than_is_legible(width, narrowest):
    (shown,) = Reader(report.figure(picture(width)).html).of("img")
    assert shown["style"] == f"min-width: {narrowest}px"


@pytest.mark.parametrize("form", ["image", "bytes", "path", "string"])
def test_figures_are_embedded_whole(form, tmp_path):
    image = picture()
    path = tmp_path / "a.png"
    image.save(path)
    source = {"image": image, "bytes": path.read_bytes(), "path": path, "string": str(path)}[form]
    (shown,) = Reader(report.figure(source, "caption").html).of("img")
    assert (shown["width"], shown["height"], shown["alt"]) == ("30", "20", "caption")
    kind, data = shown["src"].split(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as decoded:
        np.testing.assert_array_equal(decoded, image)


def test_what_is_no_png_is_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"<svg onload=go()>")
    with pytest.raises(ValueError, match=r"a\.png begins with b'<svg onl', expected a PNG"):
        report.figure(path)


def test_table_aligns_and_rounds():
    rows = [
        {"name": "bald", "accuracy": 0.98765, "count": 12345},
        {"name": "young", "accuracy": np.float32(0.5), "auroc": None, "count": np.int64(7)},
    ]
    part = report.table(rows, "Accuracy")
    expected = [
        '<th scope="col">name</th><th scope="col" class="number">accuracy</th><th scope="col" class="number">count'
        '</th><th scope="col" class="number">auroc</th>',
        '<td>bald</td><td class="number">0.9877</td><td class="number">12345</td><td class="number">–</td>',
        '<td>young</td><td class="number">0.5000</td><td class="number">7</td><td class="number">–</td>',
    ]
    for row in expected:
        assert f"<tr>{row}</tr>" in part.html
    assert "<figcaption>Accuracy</figcaption>" in part.html


@pytest.mark.parametrize(
    ("column", "shown"),
    [
        ([0.9, 0.75, 0.5, 0.25], ["0.90", "0.75", "0.50", "0.25"]),
        ([316.94, 8.0, None], ["316.9", "8.0", "–"]),
        ([97.6123, 0.0123], ["97.612", "0.012"]),  # two digits of the smallest
        ([20129.4, 482.0], ["20129", "482"]),
        ([1.0, 2, np.float32(4)], ["1", "2", "4"]),
        ([0.0, 0.5, float("nan")], ["0.0", "0.5", "nan"]),
        ([0.2, 1.5e-7], ["2.000e-01", "1.500e-07"]),
        ([3, 10**9], ["3", "1000000000"]),
    ],
)
def test_numbers_of_a_column_have_one_format(column, shown):
    html = report.table([{"name": "row", "value": value} for value in column]).html
    assert re.findall(r'<td class="number">([^<]*)</td>', html) == shown


def test_values_are_exact_and_flat():
    part = report.values({"seed": 1, "phase": {"rates": {"vae": 0.000123456789}, "widths": (64, 128)}})
    for name, value in (("seed", "1"), ("phase.rates.vae", "0.000123456789"), ("phase.widths", "(64, 128)")):
        assert f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' in part.html


def test_versions_leave_out_what_is_missing():
    found = report.versions(("numpy", "no-such-package-anywhere"))
    assert set(found) == {"python", "numpy"}
    assert found["numpy"] == np.__version__


def test_write_replaces_the_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "run" / "report.html"
    report.write(path, "First", ["text"])
    assert path.read_text(encoding="utf-8") == report.page("First", ["text"])

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.write(path, "Second", ["text"])
    monkeypatch.undo()
    assert "First" in path.read_text(encoding="utf-8")
    report.write(path, "Second", ["text"])
    assert "Second" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
