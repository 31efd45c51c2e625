"""Lists of images as spreadsheets, pandas and Kaggle save them."""

from __future__ import annotations

import csv
import io
import tracemalloc

import pytest

from mvae_jax.data.archive import DefectError
from mvae_jax.data.formats import celeba, delimited, folder

NAMES = [f"{i:06}.jpg" for i in range(1, 7)]
HEADER = ["image_id", "Smiling", "Male"]
ROWS = [[name, str(i % 2 * 2 - 1), str(i // 2 % 2 * 2 - 1)] for i, name in enumerate(NAMES)]
PARTITIONS = [["image_id", "partition"], *([name, str(i // 2)] for i, name in enumerate(NAMES))]


def saved(rows: list[list[str]], **options) -> str:
    stream = io.StringIO()
    csv.writer(stream, **options).writerows(rows)
    return stream.getvalue()


def indexed(rows: list[list[str]], name: str = "") -> list[list[str]]:
    return [[name, *rows[0]], *([str(i), *row] for i, row in enumerate(rows[1:]))]


def padded(rows: list[list[str]], count: int = 1) -> list[list[str]]:
    return [[*row, *[""] * count] for row in rows]


# How a program saves rows; all mean the same.
DIALECTS = {
    "commas": saved,
    "quoted": lambda rows: saved(rows, quoting=csv.QUOTE_ALL),
    "texts quoted": lambda rows: saved(rows, quoting=csv.QUOTE_NONNUMERIC),
    "semicolons": lambda rows: saved(rows, delimiter=";"),
    "tabs": lambda rows: saved(rows, delimiter="\t"),
    "tabs, quoted": lambda rows: saved(rows, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n"),
    "lines of Unix": lambda rows: saved(rows, lineterminator="\n"),
    "lines of old Macs": lambda rows: saved(rows, lineterminator="\r"),
    "no end of the last line": lambda rows: saved(rows).rstrip(),
    "blanks around": lambda rows: saved([[f" {cell} " for cell in row] for row in rows]),
    "a comma at the end of each line": lambda rows: saved(padded(rows)),
    "a comma at the end of each line but the first": lambda rows: saved([rows[0], *padded(rows[1:])]),
    "empty columns": lambda rows: saved(padded(rows, 3), delimiter=";"),
    "empty lines": lambda rows: saved([rows[0], [], *rows[1:], [], [""] * len(rows[0])]),
    "a first line that is empty": lambda rows: "\r\n" + saved(rows),
    "index": lambda rows: saved(indexed(rows)),
    "index that was read and saved": lambda rows: saved(indexed(indexed(rows), "Unnamed: 0")),
    "index and semicolons": lambda rows: saved(indexed(rows), delimiter=";", quoting=csv.QUOTE_ALL),
    "separator stated": lambda rows: "sep=;\r\n" + saved(rows, delimiter=";"),
    "comma stated": lambda rows: '"sep=,"\n' + saved(rows),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_lists_of_celeba_in_every_dialect(dialect):
    expected = celeba.parse(("a.csv", saved([HEADER, *ROWS])), ("p.csv", saved(PARTITIONS)))
    write = DIALECTS[dialect]
    table = celeba.parse(
        ("a.csv", write([HEADER, *ROWS])),
        ("p.csv", write(PARTITIONS)),
        ("i.csv", write(PARTITIONS[:1] + [[name, "7"] for name in NAMES])),
    )
    assert (table.names, table.index.tolist()) == (("smiling", "male"), list(range(1, 7)))
    assert (table.attributes == expected.attributes).all()
    assert table.attributes.tolist() == [[row[1] == "1", row[2] == "1"] for row in ROWS]
    assert table.partition.tolist() == [0, 0, 1, 1, 2, 2]
    assert table.identity.tolist() == [7] * 6


OWN = [["file", "smiling", "red_car", "split"]] + [
    [f"{i}, copy.png", str(i % 2), str(i // 2 % 2), folder.SPLITS[i % 3]] for i in range(6)
]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_own_lists_in_every_dialect(dialect):
    table = folder.parse(DIALECTS[dialect](OWN))
    assert table.files == tuple(row[0] for row in OWN[1:])
    assert table.names == ("smiling", "red_car")
    assert table.attributes.tolist() == [[row[1] == "1", row[2] == "1"] for row in OWN[1:]]
    assert table.splits == tuple(row[3] for row in OWN[1:])


def test_published_lists_are_separated_by_any_blanks():
    counted = "\n".join(["6", "Smiling  Male ", *("  ".join(row) for row in ROWS)])
    for attributes in (counted, counted.replace("  ", "\t"), counted.replace("\n", "\r\n") + "\r\n\r\n"):
        for partitions in (" ", "\t", "   "):
            text = "\n".join(f"{name}{partitions}{i // 2}" for i, name in enumerate(NAMES))
            table = celeba.parse(("a.txt", attributes), ("p.txt", text))
            assert table.partition.tolist() == [0, 0, 1, 1, 2, 2]
            assert table.attributes.tolist() == [[row[1] == "1", row[2] == "1"] for row in ROWS]


def test_lines_are_those_of_the_file():
    text = "sep=;\n\nfile;hat\n0.png;1\n\n1.png;2\n"
    with pytest.raises(ValueError, match=r"^here.csv, line 6 has '2' for 'hat'"):
        folder.parse(text, where="here.csv")
    assert folder.parse(text.replace(";2", ";0")).lines.tolist() == [4, 6]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file,hat,\n0.png,1,\n1.png,1,x\n",
            "line 3 has 'x' in column 3, which has no name in the first line: name it",
        ),
        ("file,,hat\n0.png,7,1\n", "line 2 has '7' in column 2, which has no name"),
        (",file,hat\nrow,0.png,1\n", "line 2 has 'row' in column 1, which has no name"),
        ("Unnamed: 0,file,hat\nrow,0.png,1\n", "line 2 has 'row' in column 1, which has no name"),
        ("file,hat,\n0.png,1,0,\n1.png,1,1,\n", "line 2 has '0' in column 3, which has no name"),
        ("file,hat\n0.png,1,,0\n", "line 2 has 4 values, expected 2, one for each of file, hat"),
        (",\n0.png,1\n", "line 2 names the columns '0.png', '1', expected 'file' among them"),
    ],
)
def test_columns_without_a_name_that_hold_something_are_reported(text, message):
    with pytest.raises(ValueError, match=f"^here.csv,? {message}"):
        folder.parse(text, where="here.csv")


def test_a_list_of_celeba_without_names_of_columns_is_reported():
    partitions = ("p.csv", saved(PARTITIONS))
    with pytest.raises(ValueError, match=r"a.csv, line 1 names no attributes, expected a name for each column"):
        celeba.parse(("a.csv", "image_id,\n000001.jpg,\n"), partitions)


def test_what_is_no_list_of_images_ends_early(monkeypatch):
    """Millions of rows, of cells and of sentences about them."""
    columns = ",".join(["file", *(f"a{i}" for i in range(delimited.MAX_COLUMNS))])
    with pytest.raises(
        ValueError, match=r"here.csv, line 1 is row 1 and has 4097 cells, expected at most 2097152 rows of"
    ):
        folder.parse(columns, where="here.csv")
    with pytest.raises(
        ValueError, match=r"here.csv, line 2 has a cell of 20000 characters, expected at most 16384: look"
    ):
        folder.parse(f"file,hat\n{'x' * 20_000},1\n", where="here.csv")
    with pytest.raises(ValueError, match=r"here.csv, line 1 is malformed \(field larger than"):
        folder.parse(f"file,{'x' * 200_000}\n", where="here.csv")
    with pytest.raises(ValueError, match=r"line 2 has 1 values, expected 4000, one for each of file, aaaa") as error:
        folder.parse(",".join(["file", *("a" * 10 + str(i) for i in range(3999))]) + "\n0.png\n")
    assert len(str(error.value)) < 3000
    monkeypatch.setattr(delimited, "MAX_ROWS", 10)
    text = "file,hat\n" + "".join(f"{i}.png,1\n" for i in range(10))
    with pytest.raises(ValueError, match=r"here.csv, line 11 is row 11 and has 2 cells, expected at most 10 rows"):
        folder.parse(text, where="here.csv")
    with pytest.raises(ValueError, match=r"a.txt, line 13 is row 11"):
        celeba.parse(("a.txt", "8\n\n\nA\n" + "000001.jpg 1\n" * 20), ("p.csv", ""))
    monkeypatch.undo()
    text = "file,hat\n" + "".join(f"{i}.png,yes\n" for i in range(100_000))
    tracemalloc.start()
    try:
        with pytest.raises(DefectError, match=r"line 2 has 'yes' for 'hat'.* \(999 more"):
            folder.parse(text)
        assert tracemalloc.get_traced_memory()[1] < 5 * len(text)
    finally:
        tracemalloc.stop()
    monkeypatch.setattr(delimited, "MAX_PROBLEMS", 7)
    for call in (
        lambda: folder.parse("file,hat\n" + "0.png,x\n" * 1000),
        lambda: celeba.parse(("a.txt", "1000\nA\n" + "000001.jpg 1 1\n" * 1000), ("p.txt", "")),
    ):
        with pytest.raises(DefectError) as error:
            call()
        assert 7 <= len(error.value.problems) <= 9
