import base64
import hashlib
import html.parser
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from report_pages import HOSTILE, SHOWN, everything, picture, strips

from mvae_jax.viz import grids, report, traversals

VOID = {"meta", "img", "input", "source"}


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
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


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
    assert not {"link", "iframe", "object", "base"} & {tag for tag, _ in reader.tags}
    for tag, attributes in reader.tags:
        for name in ("src", "href", "srcset", "action", "background", "data"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, name)
    assert "://" not in document
    assert re.findall(r"url\((.{15})", document) == ["data:image/webp"]
    assert "@import" not in document


def test_only_the_one_script_of_a_page_with_sliders_may_run():
    (policy,) = (meta["content"] for meta in Reader(everything("text")).of("meta") if "http-equiv" in meta)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    (script,) = re.findall(r"<script>(.*?)</script>", everything("text"), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert rules["script-src"] == f"'sha256-{digest}'"
    without = report.page(HOSTILE, [HOSTILE, report.figure(picture(), report._SLIDERS)])
    assert "script-src" not in without
    assert "<script" not in without


def test_contents_lead_to_every_section():
    parts = [report.heading("Samples & more"), report.subheading("not this"), "nor this", report.heading("Curves")]
    reader = Reader(report.page("Title", [report.contents(parts), *parts]))
    anchors = [attributes["id"] for attributes in reader.of("h2")]
    assert [attributes["href"] for attributes in reader.of("a")] == [f"#{anchor}" for anchor in anchors]
    assert len(set(anchors)) == 2
    assert reader.text.count("Samples & more") == 2


def test_headline_numbers_have_words_and_a_baseline():
    html = report.headline([("99.4%", "of pairs are judged rightly", "guessing: 50%"), ("3", "dogs", "")]).html
    assert "<strong>99.4%</strong> of pairs are judged rightly <small>guessing: 50%</small></li>" in html
    assert "<strong>3</strong> dogs</li>" in html


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


def test_a_sheet_has_another_version_on_narrow_screens_and_in_narrow_columns():
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    few, many = (grids.comparison({"a": images[:count]}, columns=8) for count in (5, 8))
    for sheet, width in ((few, 400), (many, 400)):
        reader = Reader(report.figure(sheet, "A sheet").html)
        (source,), (shown,) = reader.of("source"), reader.of("img")
        assert (source["media"], source["width"]) == ("(max-width: 34rem)", str(width))
        assert (shown["width"], shown["style"], shown["alt"]) == (str(sheet.width), "min-width: 0px", "A sheet")
        wide, narrow = sorted(array.shape[1] for array in embedded(report.figure(sheet).html))[::-1]
        assert (wide, narrow) == (sheet.width, width)
    # In a column: the version for it, unless something is left out there.
    assert [array.shape[1] for array in embedded(report.figure(few, narrow=True).html)] == [400]
    assert [array.shape[1] for array in embedded(report.figure(many, narrow=True).html)] == [many.width]
    assert 'class="wide"' not in report.figure(many, narrow=True).html


def test_a_status_has_a_bar_of_what_is_done():
    reader = Reader(report.status("Step <1> of 3", 1 / 3).html)
    assert reader.text == "Step <1> of 3"
    assert reader.of("progress") == [{"max": "1", "value": "0.3333", "aria-label": "33% done"}]
    assert Reader(report.status("Measuring").html).of("progress") == []


def embedded(html):
    """The pictures within a piece of a page."""
    for data in re.findall(r"data:image/webp;base64,([\w+/=]+)", html):
        with Image.open(io.BytesIO(base64.b64decode(data))) as decoded:
            yield np.asarray(decoded.convert("RGB"), int)


@pytest.mark.parametrize("form", ["image", "bytes", "path", "string"])
def test_drawings_are_embedded_as_they_are(form, tmp_path):
    image = picture(3, 2).resize((300, 200), Image.Resampling.NEAREST)
    path = tmp_path / "a.png"
    image.save(path)
    source = {"image": image, "bytes": path.read_bytes(), "path": path, "string": str(path)}[form]
    html = report.figure(source, "caption").html
    (shown,) = Reader(html).of("img")
    assert (shown["width"], shown["height"], shown["alt"]) == ("300", "200", "caption")
    np.testing.assert_array_equal(next(embedded(html)), image)


def test_photos_are_embedded_with_losses_that_nobody_sees():
    smooth = picture(8, 8).resize((400, 400), Image.Resampling.BICUBIC)
    html = report.figure(smooth).html
    assert np.abs(next(embedded(html)) - np.asarray(smooth, int)).mean() < 3
    assert len(html) < len(report.encoded(smooth)) / 4


@pytest.mark.parametrize("size", [(5000, 40), (30, 20_000)])
def test_pictures_are_no_larger_than_a_page_and_its_format_allow(size):
    (shown,) = embedded(report.figure(Image.new("RGB", size, (9, 99, 199))).html)
    assert shown.shape[1] <= 2400
    assert shown.shape[0] <= 16_000
    assert (np.abs(shown - (9, 99, 199)) <= 3).all()


def test_rows_of_pictures_are_one_picture_with_a_slider_each():
    html = report.figure(strips(start=1), "Attributes").html
    (sheet,) = embedded(html)
    np.testing.assert_allclose(sheet[::8, ::8, 0], [[20, 30, 40], [50, 60, 70]], atol=2)
    reader = Reader(html)
    assert [(row["type"], row["min"], row["max"], row["value"]) for row in reader.of("input")] == [
        ("range", "0", "2", "1")
    ] * 2
    pictures = [row for row in reader.of("div") if row.get("role") == "img"]
    assert [row["aria-label"] for row in pictures] == [f"smiling{n}: 3 pictures, from 0 to 2" for n in range(2)]
    assert [row["style"] for row in pictures] == ["--top: 0.0000%", "--top: 100.0000%"]
    assert len(reader.of("label")) == 2
    assert json.loads(reader.of("figure")[0]["data-steps"]) == ["0", "1", "2"]
    assert "data-plays" not in reader.of("figure")[0]
    assert "data-plays" in Reader(report.figure(strips(plays=True)).html).of("figure")[0]


def test_frames_of_sliders_are_small():
    large = traversals.Strips({"face": np.zeros((40, 1024, 1024, 1), np.uint8)}, ["step"] * 40)
    (sheet,) = embedded(report.figure(large).html)
    assert sheet.shape == (256, 40 * 256, 3)


def test_figures_are_files_too(tmp_path):
    figures = {"a": ("A picture", picture()), "b": ("Rows", strips()), "c": ("Moving", b"GIF89a...")}
    paths = report.save_figures(figures, tmp_path / "figures")
    assert {path.name for path in paths.values()} == {"a.png", "b.png", "c.gif"}
    with Image.open(paths["Rows"]) as sheet:
        np.testing.assert_array_equal(sheet, strips().sheet())


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
        '<td>bald</td><td class="number">0.9877</td><td class="number">12,345</td><td class="number">–</td>',
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
        ([97.6123, 0.0123], ["97.6", "0.0123"]),  # two digits of the smallest
        ([20129.4, 482.0], ["20,130", "482"]),
        ([20129.4, 0.5], ["20,100", "0.5"]),
        ([9999.6, 1234.0], ["10,000", "1,234"]),
        ([1.0, 2, np.float32(4)], ["1", "2", "4"]),
        ([0.0, 0.5, float("nan")], ["0.0", "0.5", "nan"]),
        ([0.2, 1.5e-7], ["0.2", "1.5e-07"]),
        ([3, 10**9], ["3", "1,000,000,000"]),
    ],
)
def test_numbers_of_a_column_have_one_format(column, shown):
    html = report.table([{"name": "row", "value": value} for value in column]).html
    assert re.findall(r'<td class="number">([^<]*)</td>', html) == shown


@pytest.mark.parametrize("count", [12, 13])
def test_long_tables_are_folded(count):
    html = report.table([{"name": str(number)} for number in range(count)], "Scores").html
    assert ("<details><summary>Scores: 13 rows</summary>" in html) == (count > 12)


@pytest.mark.parametrize("count", [8, 9])
def test_the_text_of_tables_with_many_columns_is_smaller(count):
    html = report.table([{f"column {number}": number for number in range(count)}]).html
    assert ('<table class="many">' in html) == (count > 8)


@pytest.mark.parametrize(("numbers", "texts"), [([140.13, 3.256], ["140.1", "3.3"]), ([0.01326], ["0.01326"])])
def test_numbers_of_texts_are_those_of_tables(numbers, texts):
    assert report.written(numbers) == texts
    html = report.table([{"value": value} for value in numbers]).html
    assert re.findall(r'<td class="number">([^<]*)</td>', html) == texts


@pytest.mark.parametrize(("width", "said"), [(700, False), (990, True)])
def test_pictures_that_scroll_on_a_phone_say_so(width, said):
    assert ('<figure class="wide">' in report.figure(picture(width, 20), "A sheet").html) == said
    assert "wide" not in report.figure(picture(width, 20), fits=True).html


@pytest.mark.parametrize(("count", "caption", "folded"), [(12, "Data", False), (13, "Data", True), (13, "", False)])
def test_many_values_are_folded(count, caption, folded):
    html = report.values({f"name {number}": number for number in range(count)}, caption).html
    assert ("<details><summary>Data</summary>" in html) == folded
    assert html.count("Data") == bool(caption)


def test_a_column_of_long_texts_takes_room():
    html = report.table([{"path": "x" * 40, "distance": "x" * 31, "of": "x" * 30, "pairs": 12}]).html
    assert re.findall(r"<td([^>]*)>", html) == ["", ' class="text"', "", ' class="number"']


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
