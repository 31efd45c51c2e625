"""The command line that looks at data sets: what it finds, says and refuses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import command_lines
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from published import write_celeba, write_cub

from mvae_jax.commands import data
from mvae_jax.data import pyramid
from mvae_jax.data.batches import Splits
from mvae_jax.data.formats import five_views
from mvae_jax.data.rendered import faces
from mvae_jax.data.sources import load
from mvae_jax.data.views import VIEWS
from mvae_jax.experiment import flags

tfds.disable_progress_bar()

SCRIPT = Path(__file__).parent.parent / "tools" / "data.py"


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """CelebAMask-HQ and a folder with a CSV, of images of noise."""
    root, rng = tmp_path_factory.mktemp("sources"), np.random.default_rng(0)
    attributes = np.zeros((40, len(faces.ATTRIBUTES)), np.float32)
    column = dict(zip(faces.ATTRIBUTES, attributes.T, strict=True))
    column["male"][::2], column["female"][1::2], column["young"][:30], column["smiling"][5:] = 1, 1, 1, 1
    images = rng.integers(0, 256, (40, 8, 8, 3), np.uint8)
    faces.write_celebamask_hq(
        root / "published", faces.Faces(images, attributes, np.zeros((40, len(faces.FACTORS)), np.float32))
    )
    for name in ("own", "plain"):
        (root / name).mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image[: 8 - i % 2]).save(root / "own" / f"{i}.png")
    lines = [f"{i}.png,{i % 2},{i // 20},{i % 2 * (i // 20)},1,{'train' if i % 4 else 'validation'}" for i in range(36)]
    lines += [f"{i}.png,0,0,0,0,calibration" for i in range(36, 40)]
    (root / "own" / "attributes.csv").write_text("\n".join(["file,red_car,smiling,tree,same,split", *lines]))
    shutil.make_archive(str(root / "own"), "zip", root, "own")
    write_celeba(root / "celeba", rng)
    write_cub(root / "cub" / "CUB_200_2011", rng)
    return root


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs a command: its status, its output and its errors."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments):
        try:
            status = data.main([*map(str, arguments)])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


# --- verify --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["own", "own.zip", "published", "celeba", "cub"])
def test_verify_says_that_all_is_well(source, run, sources):
    status, out, _ = run("verify", sources / source)
    assert (status, out) == (0, f"no defects in {sources / source}\n")


def test_verify_lists_every_defect(run, sources, tmp_path):
    shutil.copytree(sources / "own", tmp_path / "own")
    (tmp_path / "own/3.png").write_bytes(b"<html>")
    (tmp_path / "own/7.png").unlink()
    status, out, _ = run("verify", tmp_path / "own")
    lines = out.splitlines()
    assert status == 1
    assert lines[0] == (f"There is no file {tmp_path}/own/7.png, which {tmp_path}/own/attributes.csv, line 9 names.")
    assert lines[1].startswith(f"{tmp_path}/own/3.png (6 bytes) cannot be used")
    assert lines[2:] == [f"2 defects in {tmp_path / 'own'}"]

    text = (tmp_path / "own/attributes.csv").read_text()
    (tmp_path / "own/attributes.csv").write_text(text.replace(",validation", ",test"))
    status, out, _ = run("verify", tmp_path / "own", "--limit=4")
    assert status == 1
    assert out.count("has the split 'test'") == 4
    assert out.splitlines()[-1] == "stopped after 4: --limit=8 shows more."


def test_images_without_attributes_are_counted_and_are_no_defect(run, sources, tmp_path):
    own = shutil.copytree(sources / "own", tmp_path / "own")
    text = (own / "attributes.csv").read_text()
    (own / "attributes.csv").write_text(text.replace("1.png,1,0,0,1,train", "1.png,,,?,nan,train"))
    status, out, _ = run("verify", own)
    first, last = out.splitlines()
    assert (status, last) == (0, f"no defects in {own}")
    assert first.startswith(f"2 of 40 images have no attributes in {own / 'attributes.csv'}, the first in line 3:")
    status, out, _ = run("statistics", own, "--image-size=8")
    table = {line[:15].strip(): line[15:].split() for line in out.splitlines()}
    assert status == 0
    assert table["with attributes"] == ["25", "9", "4"]
    assert table["red_car"] == ["16", "64.0%", "0", "0.0%", "0", "0.0%"]  # of 27 with 18, two with a red car are gone
    assert run("preview", own, "--image-size=8", "--count=3", "-o", tmp_path / "sheet.png")[0] == 0


def test_verify_reads_only_the_chosen_columns(run, sources, tmp_path):
    shutil.copytree(sources / "own", tmp_path / "own")
    text = (tmp_path / "own/attributes.csv").read_text()
    (tmp_path / "own/labels.csv").write_text(text.replace("tree", "age of tree").replace("0.png,0,0,0", "0.png,0,0,27"))
    assert run("verify", tmp_path / "own", "--csv=labels.csv")[0] == 1
    assert run("verify", tmp_path / "own", "--csv=labels.csv", "--attributes=red_car, smiling")[0] == 0


def test_verify_of_an_image_of_celebamask_hq(run, sources, tmp_path):
    shutil.copytree(sources / "published", tmp_path / "published")
    (tmp_path / "published/CelebAMask-HQ/CelebA-HQ-img/30.jpg").write_bytes(b"")
    status, out, _ = run("verify", tmp_path / "published")
    assert status == 1
    assert "CelebA-HQ-img/30.jpg (0 bytes) cannot be used" in out
    assert out.endswith(f"1 defect in {tmp_path / 'published'}\n")


@pytest.mark.parametrize(
    ("source", "image"), [("celeba", "img_align_celeba/000030.jpg"), ("cub", "CUB_200_2011/images/001.Bird/2.jpg")]
)
def test_verify_of_an_image_of_celeba_and_of_cub(source, image, run, sources, tmp_path):
    shutil.copytree(sources / source, tmp_path / source)
    (tmp_path / source / image).write_bytes(b"")
    status, out, _ = run("verify", tmp_path / source)
    assert status == 1
    assert f"{tmp_path / source / image} (0 bytes) cannot be used" in out


def test_names_that_standard_output_cannot_show_are_escaped(tmp_path):
    names = ["写真.png", "한국.png", "smile 😀.png", "größe.png"]
    (tmp_path / "attributes.csv").write_text("\n".join(["file,hat", *(f"{name},1" for name in names)]), "utf-8")
    for encoding in ("cp1252", "ascii", "utf-8"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        command = [sys.executable, "-m", "mvae_jax", "data", "verify", tmp_path]
        done = subprocess.run(command, capture_output=True, env=environment)
        assert (done.returncode, done.stderr) == (1, b"")
        for name in names:
            assert name.encode(encoding, "backslashreplace") in done.stdout
        assert done.stdout.splitlines()[-1] == f"4 defects in {tmp_path}".encode()


def test_rendered_faces_have_no_files(run):
    assert run("verify", "rendered")[:2] == (0, "no defects in rendered\n")


def test_verify_reads_the_digits_of_five_views(run, tmp_path):
    status, out, _ = run("verify", "five_views", f"--digits={tmp_path}")
    assert status == 1
    assert f"{tmp_path} does not hold train-images-idx3-ubyte" in out


# --- statistics ----------------------------------------------------------------------------------------------------


def test_statistics_counts_by_hand(run, sources):
    status, out, _ = run("statistics", sources / "own.zip", "--image-size=8")
    assert status == 0
    lines = out.splitlines()
    assert "counts: listed 40, train 27, validation 9, calibration 4" in lines
    assert "image_files: from 8 x 7 to 8 x 8 pixels" in lines
    assert "cropped: 20" in lines
    assert "image_size: 8 x 8 pixels" in lines
    table = {name: cells for name, *cells in map(str.split, lines[lines.index("") + 1 :][1:6])}
    assert table["images"] == ["27", "9", "4"]
    # Of 0 to 35 the multiples of 4 are validated on; none of those is odd.
    assert table["red_car"] == ["18", "66.7%", "0", "0.0%", "0", "0.0%"]
    assert table["smiling"] == ["12", "44.4%", "4", "44.4%", "0", "0.0%"]
    assert table["same"] == ["27", "100.0%", "9", "100.0%", "0", "0.0%"]
    assert "every image of the train split has same" in lines
    assert "no image of the validation split has red_car" in lines
    assert "no image of the train split has smiling" not in lines
    (pair,) = [line for line in lines if line.startswith("smiling and tree")]
    # 16 smile, 8 of them with a red car: tree. correlation sqrt(8 / 16) sqrt(24 / 32).
    assert pair == (
        "smiling and tree: correlation +0.61; 50.0% of images with smiling have tree, 0.0% of those without"
    )


def test_statistics_of_celebamask_hq_takes_the_settings_of_experiments(run, sources):
    arguments = ("--image-size=8", "--subset-size=20", "--calibration-size=4", "--attributes=male,young,female")
    status, out, _ = run("statistics", sources / "published", *arguments, "--minimum-attributes=2")
    assert status == 0
    assert "counts: annotated 40, frontal 40, eligible 30" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["images", "18", "2", "4"] in lines
    assert ["young", "18", "100.0%", "2", "100.0%", "4", "100.0%"] in lines
    assert "male and female: correlation -1.00; 0.0% of images with male have female, 100.0%" in out


def test_statistics_of_all_eligible_images_of_celebamask_hq(run, sources):
    arguments = ("--image-size=8", "--subset-size=0", "--calibration-size=2", "--minimum-attributes=2")
    everybody = run(
        "statistics", sources / "published", *arguments, "--balanced=false", "--attributes=male,young,female"
    )
    assert everybody[0] == 0
    assert ["images", "25", "3", "2"] in [line.split() for line in everybody[1].splitlines()]  # 30 are eligible
    status, _, err = run("statistics", sources / "published", *arguments, "--balanced=no")
    assert status == 2
    assert "'no' is neither true nor false" in err


def test_statistics_of_celeba_and_of_cub(run, sources):
    arguments = ("--image-size=109", "--crop=none", "--subset-size=0", "--partitions=train+validation/test")
    status, out, _ = run("statistics", sources / "celeba", *arguments)
    assert status == 0
    assert "counts: annotated 40, train 30, validation 10, calibration 0" in out
    assert "image_size: 109 x 89 pixels" in out
    assert ["smiling", "15", "50.0%", "5", "50.0%", "0"] in [line.split() for line in out.splitlines()]
    status, out, _ = run("statistics", sources / "cub", "--image-size=8", "--crop=box")
    assert status == 0
    assert "attributes_of: species (at least half of its images)" in out
    assert ["002.Bird", "2", "66.7%", "1", "33.3%", "0"] in [line.split() for line in out.splitlines()]
    assert "error: crop is 'alae', expected 'none'" in run("statistics", sources / "cub", "--crop=alae")[2]


def test_pairs_that_could_be_chance_are_left_out():
    rng = np.random.default_rng(0)
    attributes = (rng.random((4000, 12)) < 0.3).astype(np.float32)
    attributes[:, 7] = np.where(rng.random(4000) < 0.2, 1, attributes[:, 3])
    names = [f"a{i}" for i in range(12)]
    (line,) = data.notable_pairs(attributes, names)
    correlation = np.corrcoef(attributes[:, 3], attributes[:, 7])[0, 1]
    assert line.startswith(f"a3 and a7: correlation {correlation:+.2f}; 100.0% of images with a3 have a7")
    assert len(data.notable_pairs(attributes[:, [3, 7] * 6], names)) == data.NOTABLE


def test_an_empty_split_has_no_prevalence():
    arrays = {"image": np.zeros((3, 2, 2, 3), np.uint8), "attributes": np.ones((3, 1), np.float32)}
    lines = data.counts(Splits.cut(arrays, 2, 1, ("hat",), {}))
    assert lines[1].split() == ["images", "2", "1", "0"]
    assert lines[2].split() == ["hat", "2", "100.0%", "1", "100.0%", "0"]


# --- preview -------------------------------------------------------------------------------------------------------


def test_preview_shows_the_images_enlarged_beside_one_another(run, sources, tmp_path):
    sheet = tmp_path / "made/for it/sheet.PNG"
    command = ("preview", sources / "own", "-o", sheet, "--image-size=8", "--split=validation", "--count=5")
    assert run(*command)[:2] == (0, f"{sheet}\n")
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB"))
    # The split keeps the order of the sorted files: "0.png" is first, in its own pixels.
    image = np.asarray(Image.open(sources / "own/0.png"))
    rows, columns = np.nonzero((pixels == image[0, 0]).all(-1))
    top, left, scale = rows.min(), columns.min(), np.ptp(rows) + 1
    assert scale >= 8
    shown = pixels[top : top + 8 * scale : scale, left : left + 8 * scale : scale]
    np.testing.assert_array_equal(shown, image)
    assert run(*command, "--count=0")[0] == 2


def test_preview_shows_every_picture_of_an_example(run, tmp_path):
    sheet = tmp_path / "sheet.png"
    assert run("preview", "five_views", "--seed=3", "-o", sheet, "--count=2")[0] == 0
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    views = five_views.load(seed=3).train.first(2)
    for name in VIEWS:
        for image in views[name]:
            rows, columns = np.nonzero((pixels == image[0, 0]).all(-1))
            shown = pixels[rows.min() :: 20, columns.min() :: 20][:8, :8]
            np.testing.assert_array_equal(shown, image)


def test_of_a_csv_without_calibration_rows_the_other_splits_are_shown(run, sources, tmp_path):
    text = (sources / "own/attributes.csv").read_text()
    rows = [line for line in text.splitlines() if not line.endswith("calibration")]
    own = shutil.copytree(sources / "own", tmp_path / "own")
    (own / "attributes.csv").write_text("\n".join(rows))
    command = ("preview", own, "--image-size=8", "--count=2", "-o", tmp_path / "sheet.png")
    assert run(*command)[:2] == (0, f"{tmp_path / 'sheet.png'}\n")
    status, _, err = run(*command, "--split=calibration")
    assert status == 2
    assert f"the calibration split of {own} is empty, expected images: give --split=train or --split=validation." in err
    status, out, _ = run("statistics", own, "--image-size=8")
    assert status == 0
    assert ["images", "27", "9", "0"] in [line.split() for line in out.splitlines()]
    (own / "attributes.csv").write_text("\n".join([rows[0], *(line for line in rows if line.endswith("validation"))]))
    assert run(*command, "--split=validation")[0] == 0
    assert run("statistics", own, "--image-size=8")[0] == 0
    assert "the train split of" in run(*command)[2]


@pytest.mark.parametrize("options", [[], ["--seed=3", "--validation-fraction=0.3"]], ids=str)
@pytest.mark.parametrize("has_csv", [True, False])
def test_the_drawn_split_is_said_and_is_that_of_a_training(has_csv, options, run, sources, tmp_path):
    own = shutil.copytree(sources / "own", tmp_path / "own")
    (own / "attributes.csv").unlink()
    if has_csv:
        (own / "attributes.csv").write_text("\n".join(["file,hat", *(f"{i}.png,{i % 2}" for i in range(40))]))
        options = [*options, "--calibration-size=9"]
    sheet = tmp_path / "sheet.png"
    status, _, err = run("preview", own, "--image-size=8", "--count=1", "-o", sheet, *options)
    trained = celeba_vae_data(own, options)
    expected = [len(split) for _, split in trained]
    assert status == 0
    assert [int(number) for number in re.findall(r"(\d+) for (?:training|validation|calibration)", err)] == [
        size for size in expected if size
    ]
    assert f"drawn at random by seed {3 if '--seed=3' in options else 42}." in err
    assert f"split: {trained.provenance['split']}\n" in run("statistics", own, "--image-size=8", *options)[1]
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    image = trained.train["image"][0]
    rows, columns = np.nonzero((pixels == image[0, 0]).all(-1))
    scale = np.ptp(rows) + 1
    top, left = rows.min(), columns.min()
    np.testing.assert_array_equal(pixels[top : top + 8 * scale : scale, left : left + 8 * scale : scale], image)


def celeba_vae_data(source, options):
    """What `experiments/celeba_vae.py` trains on by the same options."""
    experiment = command_lines.script("celeba_vae").EXPERIMENT
    settings = [f"--config.data.{option.removeprefix('--').replace('-', '_')}" for option in options]
    config, _ = flags.parse(
        ["celeba_vae.py", f"--config.data.source={source}", *settings],
        experiment.presets,
        workdir="runs/x",
        description="",
        data=experiment.data,
    )
    return load(config.data, image_size=8)


def test_a_calibration_that_takes_most_images_is_told(run, sources, tmp_path):
    own = shutil.copytree(sources / "own", tmp_path / "own")
    (own / "attributes.csv").write_text("\n".join(["file,hat", *(f"{i}.png,{i % 2}" for i in range(40))]))
    warning = f"{own}/attributes.csv: a smaller calibration_size than 30 leaves more for training."
    assert warning in run("statistics", own, "--image-size=8", "--calibration-size=30")[2].splitlines()
    assert "leaves more for training" not in run("statistics", own, "--image-size=8", "--calibration-size=9")[2]
    assert "9 for calibration, drawn at random by seed 42." in run("statistics", own, "--calibration-size=9")[2]
    status, _, err = run("statistics", sources / "own", "--image-size=8")
    assert status == 0
    assert "of 40 images 27 for training, 9 for validation, 4 for calibration, as the column split says." in err


@pytest.mark.parametrize("source", ["digits", "five_views"])
def test_digits_take_no_other_size_than_theirs(source, run, tmp_path):
    command = ("preview", source, "--count=2", "-o", tmp_path / "sheet.png")
    status, out, err = run(*command, "--image-size=32")
    assert (status, out) == (2, "")
    assert (
        f"--image-size is 32, but images of {source} have 8 x 8 pixels and keep their size: leave it out."
        == err.splitlines()[-1].removeprefix("error: ")
    )
    assert run(*command, "--image-size=8")[0] == 0
    assert "image_size: 8 x 8 pixels" in run("statistics", source)[1]


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".png", "PNG"), (".jpg", "JPEG"), (".JPG", "JPEG"), (".jpeg", "JPEG"), (".webp", "WEBP")]
)
def test_the_suffix_of_a_preview_says_its_format(suffix, kind, run, sources, tmp_path):
    sheet = tmp_path / f"sheet{suffix}"
    command = ("preview", sources / "own", "--image-size=8", "--count=2", "-o")
    assert run(*command, sheet)[:2] == (0, f"{sheet}\n")
    assert run(*command, tmp_path / "whole.png")[0] == 0
    with Image.open(sheet) as picture, Image.open(tmp_path / "whole.png") as whole:
        assert picture.format == kind
        assert np.abs(np.asarray(picture.convert("RGB"), float) - np.asarray(whole.convert("RGB"))).mean() < 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sheet", "'{root}/sheet' does not end with .png, .jpg, .jpeg, .webp, which say the format"),
        ("sheet.gif", "sheet.gif' does not end with .png"),
        ("sheet.png.part", "sheet.png.part' does not end with .png"),
        ("file/sheet.png", "{root}/file/sheet.png cannot be written, for {root}/file is no folder"),
        ("file/deep/sheet.png", "{root}/file/deep/sheet.png cannot be written, for {root}/file is no folder"),
        ("folder.png", "{root}/folder.png is a folder, expected a file to write: choose another name"),
    ],
)
def test_a_preview_that_cannot_be_written_is_refused_before_anything_is_decoded(
    name, message, run, sources, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(data.sources, "load", None)
    status, out, err = run("preview", sources / "own", "-o", tmp_path / name, "--image-size=8")
    assert (status, out) == (2, "")
    assert message.format(root=tmp_path) in err


def test_preview_names_what_no_caption_can_say(run, sources, tmp_path):
    status, out, _ = run("preview", sources / "cub", "-o", tmp_path / "a.png", "--image-size=8", "--count=2")
    assert (status, out) == (0, f"{tmp_path / 'a.png'}\n")
    names = ["has_wings::yes", "red", "002.Bird"]
    assert data._describe(np.array([1, 0, 1]), names) == "002.Bird, has_wings::yes"
    assert data._describe(np.array([1]), ["smiling"]) == "a person who is smiling"


# --- catalogue -----------------------------------------------------------------------------------------------------


def test_catalogue_prepares_what_the_other_commands_read(run, sources, tmp_path):
    status, out, _ = run("catalogue", sources / "published", tmp_path / "data", "--image-size=8")
    assert status == 0
    assert out.startswith(f"{tmp_path}/data/celebamask_hq/8px/1.0.0: 0 MiB")
    assert f"--config.data.source={tmp_path / 'data'}" in out
    assert run("verify", tmp_path / "data")[:2] == (0, f"no defects in {tmp_path / 'data'}\n")
    arguments = ("--image-size=8", "--subset-size=20", "--calibration-size=4", "--minimum-attributes=1")
    one, two = (run("statistics", source, *arguments)[1] for source in (sources / "published", tmp_path / "data"))
    assert one[one.index("images ") :] == two[two.index("images ") :]
    (records,) = (tmp_path / "data/celebamask_hq/8px/1.0.0").glob("*.array_record-*")
    data = bytearray(records.read_bytes())
    data[len(data) // 2] ^= 1
    records.write_bytes(data)
    status, out, _ = run("verify", tmp_path / "data")
    assert status == 1
    assert "is damaged" in out
    assert "was prepared as 8px, but 64px is asked for" in run("statistics", tmp_path / "data")[2]


def test_catalogue_prepares_celeba(run, sources, tmp_path):
    status, out, _ = run("catalogue", sources / "celeba", tmp_path / "data", "--image-size=8", "--crop=schik")
    assert status == 0
    assert out.startswith(f"{tmp_path}/data/celeba/schik_8x8/1.0.0: 0 MiB")
    assert run("verify", tmp_path / "data")[:2] == (0, f"no defects in {tmp_path / 'data'}\n")
    arguments = ("--image-size=8", "--subset-size=12", "--calibration-size=4", "--crop=schik")
    one, two = (run("statistics", source, *arguments)[1] for source in (sources / "celeba", tmp_path / "data"))
    assert one[one.index("images ") :] == two[two.index("images ") :]


# --- pyramid -------------------------------------------------------------------------------------------------------


def test_pyramid_prepares_what_verify_reads(run, sources, tmp_path):
    arguments = ("pyramid", sources / "own", tmp_path / "p", "--image-size=4", "--crop=center", "--shard-images=20")
    status, out, err = run(*arguments)
    assert status == 0
    assert out.startswith(f"{tmp_path}/p: 36 train and 4 validation images of 4 to 4 pixels, 0 MiB, ")
    assert "part 3 of 3 is written" in err
    made = pyramid.load(tmp_path / "p")
    assert made.manifest["settings"]["shard_images"] == 20
    assert run("verify", tmp_path / "p")[:2] == (0, f"no defects in {tmp_path / 'p'}\n")
    assert run(*arguments)[0] == 0
    shard = tmp_path / "p/train_4-00001-of-00002.array_record"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    status, out, _ = run("verify", tmp_path / "p")
    assert status == 1
    assert out.startswith(f"{shard} is damaged")
    assert out.endswith(f"1 defect in {tmp_path / 'p'}\n")
    assert run(*arguments)[0] == 0
    assert run("verify", tmp_path / "p")[0] == 0
    assert "other settings: image_size 4, not 8" in run(*arguments, "--image-size=8")[2]


def test_pyramid_says_what_it_leaves_out(run, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "own/@eaDir").mkdir(parents=True)
    for number, suffix in enumerate(["JPG", "jpeg", "jpe", "JFIF", "png", "webp", "bmp", "gif", "tif", "tif"]):
        kind = {"JPG": "JPEG", "jpe": "JPEG", "JFIF": "JPEG", "tif": "TIFF"}.get(suffix, suffix)
        picture = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        picture.save(tmp_path / f"own/{number}.{suffix}", kind)
        picture.save(tmp_path / "own/@eaDir/0.jpg")
    (tmp_path / "own/notes").write_text("")
    arguments = ("--image-size=8", "--validation-fraction=0.3")
    status, out, err = run("pyramid", tmp_path / "own", tmp_path / "p", *arguments)
    assert status == 0
    assert out.startswith(f"{tmp_path}/p: 4 train and 2 validation images")
    (line,) = [line for line in err.splitlines() if "left out" in line]
    assert line == (
        f"{tmp_path}/own: read are 1 .jfif, 1 .jpe, 1 .jpeg, 1 .jpg, 1 .png, 1 .webp; left out are 1 .bmp, 1 .gif, "
        "2 .tif, 1 without a suffix."
    )
    for file in (tmp_path / "own").glob("[6-9]*"):
        file.unlink()
    (tmp_path / "own/notes").unlink()
    assert "left out" not in run("pyramid", tmp_path / "own", tmp_path / "p2", *arguments)[2]


def test_pyramid_skips_no_more_than_it_may(run, sources, tmp_path):
    shutil.copytree(sources / "own", tmp_path / "own")
    for name in ("3.png", "12.png"):
        (tmp_path / "own" / name).write_bytes(b"<html>")
    arguments = ("pyramid", tmp_path / "own", tmp_path / "p", "--image-size=4", "--crop=center")
    status, out, err = run(*arguments, "--most-skipped=1")
    assert (status, out) == (2, "")
    assert "error: 2 of 40 images cannot be used, and most_skipped is 1." in err
    assert run("verify", tmp_path / "p")[0] == 1
    status, out, _ = run(*arguments, "--most-skipped=2")
    lines = out.splitlines()
    assert status == 0
    assert lines[0] == f"skipped: {tmp_path}/own/3.png (6 bytes) cannot be used: it is no JPEG, PNG or WebP image."
    assert lines[1].startswith(f"skipped: {tmp_path}/own/12.png")
    assert sum(pyramid.load(tmp_path / "p").counts.values()) == 38


# --- cache ---------------------------------------------------------------------------------------------------------


def test_cache_shows_its_size_and_is_emptied(run, sources, tmp_path):
    place = tmp_path / "cache" / "mvae_jax"
    assert run("cache")[:2] == (0, f"{place}: 0 files, 0 MiB; at most 4096 MiB are kept\n")
    run("statistics", sources / "own", "--image-size=8")
    (images,) = place.glob("*.npz")
    with (place / f"{images.stem}k3xq.part").open("wb") as part:  # a process was killed while it wrote
        part.truncate(3 * 2**20)
    (place / "compiled").mkdir()
    (place / "compiled" / "program").write_bytes(b"kept")
    assert run("cache")[:2] == (0, f"{place}: 2 files, 3 MiB; at most 4096 MiB are kept\n")
    assert images.exists()
    assert run("cache", "--clear")[:2] == (0, f"{place}: 2 files, 3 MiB, removed\n")
    assert [path.name for path in place.iterdir()] == ["compiled"]
    assert (place / "compiled" / "program").exists()


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["look"], "invalid choice: 'look'"),
        (["verify"], "the following arguments are required: SOURCE"),
        (["verify", "{root}", "--limits=3"], "unrecognized arguments: --limits=3"),
        (["verify", "{root}/own", "--limit=0"], "limit is 0"),
        (["verify", "{root}/nowhere"], "no folder or zip {root}/nowhere"),
        (["verify", "{root}/own", "--digits=mnist"], "--digits is a setting of five views of digits, and"),
        (["verify", "{root}/plain"], "does not hold CelebAMask-HQ, nor anything else"),
        (["verify", "{root}/text.zip"], "text.zip is not a whole zip"),
        (
            ["statistics", "rendered", "--crop=alae"],
            "--crop is a setting of CelebA prepared for TFDS, CUB-200-2011",
        ),
        (["preview", "{root}/own", "-o", "x.png", "--subset-size=9"], "own is images with a CSV: leave it out."),
        (
            ["verify", "rendered", "--csv=a.csv"],
            "--csv is a setting of images with a CSV, and rendered is",
        ),
        (["statistics", "{root}/own", "--attributes=car"], "no attribute 'car': did you mean 'red_car'?"),
        (["statistics", "{root}/published"], "women and"),
        (["statistics", "{root}/own", "--seed=-1"], "data.seed is -1"),
        (["statistics", "{root}/own", "--seed=one"], "argument --seed: invalid int value: 'one'"),
        (
            ["preview", "five_views", "--split=calibration", "-o", "x.png"],
            "the calibration split of five_views is empty, expected images: give --split=train or --split=validation.",
        ),
        (["preview", "{root}/own"], "the following arguments are required: -o/--output"),
        (["preview", "rendered", "-o", "x.png", "--image-size=48"], "image_size is 48"),
        (["catalogue", "{root}/own", "{root}/data"], "does not hold CelebAMask-HQ"),
        (["catalogue", "{root}/published", "{root}/text.zip"], "text.zip"),
        (["pyramid", "{root}/own"], "the following arguments are required: FOLDER"),
        (["pyramid", "{root}/own", "{root}/p", "--recipe=faces"], "recipe is 'faces', expected ffhq, celeba_hq"),
        (["pyramid", "{root}/own", "{root}/p", "--recipe=ffhq"], "recipe 'ffhq' is for 60000 images to train on"),
        (
            ["pyramid", "{root}/own", "{root}/p", "--image-size=8"],
            "central squares of all with the crop 'center' (--crop=center)",
        ),
        (["pyramid", "{root}/own", "{root}/p", "--crop=center"], "no image is enlarged to image_size 256"),
        (["pyramid", "{root}/plain", "{root}/p"], "There are no images in {root}/plain"),
        (["pyramid", "{root}/own", "{root}/own"], "own holds no pyramid, but 0.png: choose a folder that is empty"),
    ],
)
def test_mistakes_end_with_one_line(arguments, message, run, sources):
    (sources / "text.zip").write_text("<html>Sign in to download</html>")
    status, out, err = run(*(text.format(root=sources) for text in arguments))
    assert (status, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message.format(root=sources) in last
    assert "Traceback" not in err


def test_it_runs_from_anywhere(sources, tmp_path):
    command = [sys.executable, "-W", "error", "-m", "mvae_jax", "data", "verify", sources / "own"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"no defects in {sources / 'own'}\n", "")


@pytest.mark.parametrize("command", ["", "verify", "statistics", "preview", "catalogue", "pyramid", "cache"])
def test_help(command, run):
    status, out, err = run(*command.split(), "--help")
    assert (status, err) == (0, "")
    assert ("SOURCE" in out) == (command != "cache")
    if command in ("statistics", "preview"):
        assert "--minimum-attributes" in out
        assert "(default: 5000)" in " ".join(out.split())  # lines break anywhere
