"""Exported models: the same outputs as the run's, in this package and in JAX alone, and folders that are whole."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest
import zoo
from exported_models import card_program, forge, run_alone, run_of
from safetensors.numpy import load_file, save_file

from mvae_jax import _json, export, files, runs
from mvae_jax.experiment import evaluations
from mvae_jax.export import functions

DRAWS = {"sample", "draw", "sample_codes", "draw_subset"}  # what needs a key, or a number of samples


def inputs(shapes, batch, seed=0):
    """Arrays of unit size for shapes with a symbolic batch."""
    rng = np.random.default_rng(seed)

    def drawn(shape):
        sizes = [size if isinstance(size, int) else batch for size in shape.shape]
        return rng.uniform(0, 1, sizes).astype(np.float32)

    return [jax.tree.map(drawn, shape) for shape in shapes.values()]


@pytest.mark.parametrize("name", zoo.TABLE)
def test_every_function_that_takes_arrays_runs_in_jax_alone(name, tmp_path):
    """All are exported for all platforms; one of each model is run, at two sizes of batch."""
    run = run_of(name)
    folder = run.export(tmp_path / "exported")
    manifest = json.loads((folder / "export.json").read_text())
    assert set(run.functions) - set(manifest["functions"]) <= DRAWS
    if names := getattr(run.config, "modalities", ()):
        assert f"examples of {', '.join(modality.name for modality in names)}." in (folder / "README.md").read_text()
    arrays = load_file(folder / "weights.safetensors")
    callables = list(functions.callables(run.model, run.config))
    assert {function for function, _, _ in callables} == set(manifest["functions"])
    for function, _, _ in callables:
        exported = jax.export.deserialize(bytearray((folder / f"functions/{function}.jax").read_bytes()))
        assert exported.platforms == ("cpu", "cuda", "tpu")
    named = [function for function, _, _ in callables]
    decoding = [function for function in named if function.startswith("decode")] or named
    for function, _, shapes in callables:
        if function in (min(decoding), "decode_layers"):
            exported = jax.export.deserialize(bytearray((folder / f"functions/{function}.jax").read_bytes()))
            for batch in (2, 3):
                arguments = inputs(shapes, batch)
                expected = run.functions[function.removesuffix("_layers")](*arguments)
                got = exported.call(arrays, *arguments)
                for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
                    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    loaded = runs.load(folder)
    assert (loaded.config, loaded.phase, loaded.step, loaded.settings) == (run.config, "training", 7, run.settings)
    assert jax.tree.structure(loaded.params) == jax.tree.structure(run.params)
    assert jax.tree.structure(loaded.model_state) == jax.tree.structure(run.model_state)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, run.params)
    jax.tree.map(np.testing.assert_array_equal, loaded.model_state, run.model_state)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return run_of("vae").export(tmp_path_factory.mktemp("exports") / "vae")


def test_a_loaded_export_gives_the_same_bits(exported):
    run, loaded = run_of("vae"), runs.load(exported)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)
    for one, other in zip(run.encode(x), loaded.encode(x), strict=True):
        np.testing.assert_array_equal(one, other)
    key = jax.random.key(0)
    np.testing.assert_array_equal(run.sample(key, 2), loaded.sample(key, 2))


def test_other_platforms_get_plain_convolutions():
    """The CPU's formulation multiplies by zeros and has no dilation; a GPU gets the transposed convolution as it is."""
    run = run_of("vae")
    ((_, decode, shapes),) = [entry for entry in functions.callables(run.model, run.config) if entry[0] == "decode"]

    def dilated(platforms):
        with functions.convolution.for_every_platform():
            lowered = jax.export.export(jax.jit(lambda z: decode(run.params, run.model_state, z)), platforms=platforms)
            text = lowered(shapes["z"]).mlir_module()
        return len(re.findall(r"lhs_dilate = \[2, 2\]|lhs_dilation = array<i64: 2, 2>", text))

    assert 0 == dilated(["cpu"]) < dilated(["cuda"]) == dilated(["tpu"])
    assert functions.convolution.default_formulation() == "canonical"  # outside, on this backend


PRINT = "\nprint(*np.asarray(result)[0].ravel()[:6].tolist(), result.shape)\n"


def test_the_card_says_in_which_range_images_are_and_how_to_draw(exported):
    text = (exported / "README.md").read_text().partition("With JAX and flatbuffers alone")[2]
    assert "Images are float32 in [-1, 1], as which a byte is `byte / 127.5 - 1`." in text
    assert "draw a code from N(0, I)" in text


def check_printed(folder, output):
    z = np.zeros((4, zoo.VAE.latent_size), np.float32)
    images = np.asarray(runs.load(folder).decode(z))
    *values, shape = output.strip().split(" ", 6)
    assert shape == str(images.shape)
    np.testing.assert_allclose(np.array(values, float), images[0].ravel()[:6], rtol=1e-5, atol=1e-6)


def test_the_program_of_the_card_runs_in_jax_alone(exported, tmp_path):
    check_printed(exported, run_alone(card_program(exported) + PRINT, exported, tmp_path))


@pytest.mark.slow  # fills an environment
def test_the_program_of_the_card_runs_in_an_environment_of_jax_alone(exported, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "jax", "flatbuffers"]
    subprocess.run(install, check=True, env=variables)
    command = [python, "-W", "error", "-c", card_program(exported) + PRINT]
    done = subprocess.run(command, cwd=exported, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check_printed(exported, done.stdout)


# --- the folder ------------------------------------------------------------------------------------------------------


def weights_only(folder, **options):
    return run_of("vae").export(folder, with_functions=False, **options)


def test_equal_exports_are_equal_and_replace_each_other(tmp_path):
    folder = weights_only(tmp_path / "one")
    other = weights_only(tmp_path / "two")
    names = {"weights.safetensors", "config.json", "export.json", "README.md"}
    assert {path.name for path in folder.iterdir()} == names
    for name in names:
        assert (folder / name).read_bytes() == (other / name).read_bytes()
    assert weights_only(folder) == folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]  # nothing is left beside them


@pytest.mark.parametrize("kind", ["file", "folder", "changed", "added"])
def test_what_is_no_untouched_export_is_not_replaced(kind, tmp_path):
    folder = tmp_path / "place"
    if kind in ("changed", "added"):
        weights_only(folder)
        name = "README.md" if kind == "changed" else "notes.txt"
        (folder / name).write_text("mine")
        message = f"{name} is not as it was exported"
    elif kind == "folder":
        folder.mkdir()
        (folder / "thesis.tex").write_text("mine")
        message = "place exists and is no export"
    else:
        folder.write_text("mine")
        message = "place exists and is no export"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match=message):
        weights_only(folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path, monkeypatch):
    folder = weights_only(tmp_path / "place")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(export.folder.card, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        weights_only(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_all_files_are_on_the_disk_before_the_name(tmp_path, to_disk):
    weights_only(tmp_path / "place")
    synced = [Path(path).name for kind, path in to_disk if kind == "fsync"]
    assert {"weights.safetensors", "config.json", "export.json", "README.md"} <= set(synced)


def test_a_full_disk_is_named(small_disk):
    disk = small_disk(8)
    with pytest.raises(files.DiskFull, match="cannot be written"):
        weights_only(disk / "place")
    assert [*disk.iterdir()] == []


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("weights.safetensors", lambda data: data[:-4] + b"\0\0\1\0", "weights.safetensors is not as it was exported"),
        ("config.json", lambda data: data.replace(b'"seed": 3', b'"seed": 4'), "config.json was changed"),
        ("export.json", lambda data: data.replace(b'"step": 7', b'"step": 8'), "export.json was changed"),
        ("export.json", lambda data: data[:100], "export.json is not that of an export"),
        ("weights.safetensors", None, "weights.safetensors does not exist"),
    ],
)
def test_damage_is_noticed(name, damage, message, tmp_path):
    path = weights_only(tmp_path / "place") / name
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        runs.load(tmp_path / "place")


@pytest.mark.parametrize(
    "entries",
    [
        *({"format": value} for value in ("x", None, -1, True, [1])),
        *({"phase": value} for value in (5, None, ..., "", "..", "../../etc", "a/b", "a\0", "x" * 5000 + "/")),
        *({"step": value} for value in ("7", -1, 7.5, True, ...)),
        *({"member": value} for value in (None, ["vae"], ...)),
        *(
            {"without_arrays": value}
            for value in (["model_state/more"], [1], [[]], {}, "params", [""], ["params"], ["a" + "/a" * 5000])
        ),
        {"without_arrays": ["params/encoder/Conv_0/kernel"]},
        {"without_arrays": ["params/encoder/Conv_0/kernel/below"]},
        {"functions": []},
        *({"files": value} for value in ([], {}, "x", {"weights.safetensors": 3, "config.json": []})),
    ],
    ids=lambda entries: f"{entries}"[:50].replace("\0", "0"),
)
def test_a_forged_manifest_is_refused(entries, tmp_path):
    """Its sum is its own; what it says is checked like what any stranger says."""
    folder = weights_only(tmp_path / "place")
    forge(folder, **entries)
    with pytest.raises(ValueError, match=re.escape(str(folder))) as caught:
        runs.load(folder)
    assert len(str(caught.value)) < 400 + len(str(folder))


def changed_weights(folder, change):
    arrays = load_file(folder / "weights.safetensors")
    name = next(name for name in arrays if name.startswith("params/encoder") and arrays[name].ndim == 4)
    save_file(change(arrays, name), folder / "weights.safetensors")
    forge(folder)
    return name


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_weights_of_another_width_or_type_are_named(dtype, tmp_path):
    """Sums tell damage; who computes them anew learns which weights do not fit."""
    folder = weights_only(tmp_path / "place")

    def change(arrays, name):
        kept = arrays[name][:, :, :, :-1] if dtype == "float32" else arrays[name]
        return {**arrays, name: np.ascontiguousarray(kept.astype(dtype))}

    name = changed_weights(folder, change)
    with pytest.raises(ValueError, match=re.escape(f"{name} of shape {dtype}[")):
        runs.load(folder)


@pytest.mark.parametrize("name", ["params", "params/encoder", "other/kernel", "params" + "/a" * 5000])
def test_weights_with_names_of_no_tree_are_refused(name, tmp_path):
    folder = weights_only(tmp_path / "place")
    changed_weights(folder, lambda arrays, _: {**arrays, name: np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match=f"{folder} has no weights of a model"):
        runs.load(folder)


def test_weights_that_are_a_pickle_are_no_safetensors(tmp_path):
    folder = weights_only(tmp_path / "place")
    with zipfile.ZipFile(folder / "weights.safetensors", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}.")
    forge(folder)
    with pytest.raises(ValueError, match=r"weights\.safetensors cannot be read as safetensors"):
        runs.load(folder)


@pytest.mark.parametrize("settings", [{"channels": 2**34}, {"image_size": 2**40}, {"widths": []}, {"widths": 3}])
def test_settings_of_no_model_allocate_nothing(settings, tmp_path):
    """An image of so many channels would take 4 TB."""
    folder = weights_only(tmp_path / "place")
    content = json.loads((folder / "config.json").read_text())
    content["config"]["model"] |= settings
    (folder / "config.json").write_text(json.dumps(_json.with_sum(content)))
    forge(folder)
    with pytest.raises(ValueError, match=r"config\.json"):
        runs.load(folder)


def test_scores_of_an_export_are_those_that_were_exported(tmp_path):
    """What others lay beside them is no part of it, and what was changed is refused."""
    scores = {"phase": "training", "step": 7, "elbo": 1.0}
    folder = weights_only(tmp_path / "place", scores=scores)
    run = runs.load(folder)
    other = json.dumps({**scores, "elbo": 9.0})
    (folder / "finished.json").write_text(other)
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "scores.json").write_text(other)
    assert list(evaluations.of_checkpoint(run, folder)) == [("", scores)]
    (folder / "scores.json").write_text(other)
    with pytest.raises(ValueError, match=r"scores\.json is not as it was exported"):
        list(evaluations.of_checkpoint(run, folder))
    without = weights_only(tmp_path / "without")
    (without / "scores.json").write_text(other)
    assert list(evaluations.of_checkpoint(run, without)) == []


def test_functions_say_nothing_of_the_machine(exported):
    paths = sorted((exported / "functions").iterdir())
    assert paths
    root = str(Path(export.__file__).parents[2]).encode()
    for path in paths:
        content = path.read_bytes()
        assert root not in content
        assert sys.argv[0].encode() not in content
        assert b".py" not in content


def test_nothing_is_trained_in_or_from_an_export(tmp_path):
    folder = weights_only(tmp_path / "place")
    before = sorted(folder.rglob("*"))
    data = {"image": np.zeros((20, 16, 16, 3), np.uint8)}
    for workdir, start in ((folder, None), (tmp_path / "new", folder)):
        with pytest.raises(ValueError, match="place is an exported model, which has no checkpoints to train from"):
            runs.train(workdir, "vae", zoo.VAE, data, start_from=start)
    assert sorted(folder.rglob("*")) == before


def test_an_export_has_one_checkpoint(exported):
    assert runs.load(exported, phase="training").step == 7
    with pytest.raises(ValueError, match="is an export of phase 'training', step 7, and has no other checkpoint"):
        runs.load(exported, best=True)
    with pytest.raises(ValueError, match="is an export of phase 'training', step 7, and has no other checkpoint"):
        runs.load(exported, phase="another")


def test_functions_are_for_images_that_were_trained(tmp_path):
    """An early phase of StyleALAE has not trained the levels of the larger images."""
    run = run_of("style_alae")
    early = dataclasses.replace(run, phase="stabilise_4")
    with pytest.raises(ValueError, match="phase 'stabilise_4' trained images of 4 px, and functions are for those of"):
        early.export(tmp_path / "place")
    assert runs.load(early.export(tmp_path / "place", with_functions=False)).phase == "stabilise_4"


def test_later_formats_are_refused(tmp_path):
    folder = weights_only(tmp_path / "place")
    manifest = json.loads((folder / "export.json").read_text())
    (folder / "export.json").write_text(json.dumps(export.folder._json.with_sum({**manifest, "format": 9})))
    with pytest.raises(ValueError, match="has format 9; this version reads up to 1"):
        runs.load(folder)


def test_without_flatbuffers_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ValueError, match=r"flatbuffers is not installed.*pip install 'mvae-jax\[export\]'"):
        run_of("vae").export(tmp_path / "place")
    assert not (tmp_path / "place").exists()
    assert runs.load(weights_only(tmp_path / "place")).step == 7


# --- the card --------------------------------------------------------------------------------------------------------


def card(tmp_path, kind="", **options):
    run = run_of("vae")
    data = {"data": {"kind": kind}} if kind else {}
    settings = {
        **run.settings,
        "config": {**run.settings["config"], **data},
        "provenance": {"data": {"data_set": kind, "counts": {"train": 1234}}, "starts": [{"commit": "0123abc"}]},
    }
    return (
        dataclasses.replace(run, settings=settings).export(tmp_path / kind, with_functions=False, **options)
    ) / "README.md"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("CelebA", "photographs of real people, and nothing here says that they agreed"),
        ("CelebAMask-HQ prepared for TFDS", "photographs of real people, and nothing here says"),
        ("the FFHQ of 2019", "photographs of real people, and nothing here says"),
        ("cubism of my friends", "Not known: nothing here says whether people can be seen"),
        ("digits and faces", "Not known"),
        ("rendered faces", "No image of a real person was used."),
        ("dSprites", "No image of a real person was used."),
        ("images with a CSV", "Not known: nothing here says whether people can be seen"),
    ],
)
def test_the_card_says_whose_faces_they_are(kind, words, tmp_path):
    text = card(tmp_path, kind).read_text()
    assert words in text.split("## Consent\n\n")[1].split("\n\n## ")[0]
    assert f"- data set: {kind}\n- train images: 1,234" in text
    assert "- trained by commit 0123abc" in text


def test_every_kind_of_data_has_its_note():
    from mvae_jax.data import sources
    from mvae_jax.export.card import _people

    kinds = {
        field.default
        for entry in sources.SOURCES.values()
        for field in dataclasses.fields(entry.config)
        if field.name == "kind"
    }
    said = {kind: _people({"config": {"data": {"kind": kind}}}) for kind in kinds}
    unknown = {kind for kind, note in said.items() if note == "unknown"}
    assert unknown == {"images alone", "images with a CSV", "images at every resolution"}
    assert {kind for kind, note in said.items() if note == "real"} == {kind for kind in kinds if "Celeb" in kind}


def test_the_card_has_scores_and_license(tmp_path):
    scores = {
        "checkpoints": {"vae_1": {"phase": "training", "step": 7}},
        "likelihood": {"vae_1": {"elbo": -1234.5, "name": "x"}, "vae_2": {"elbo": 9.0}},
    }
    path = card(tmp_path, "dSprites", scores=scores, member="vae_1", license="apache-2.0")
    text = path.read_text()
    assert "\nlicense: apache-2.0\n" in text
    assert "| likelihood: elbo | -1234 |" in text
    assert "9" not in text.split("## Scores")[1].split("## ")[0]
    assert json.loads((path.parent / "scores.json").read_text()) == scores
    assert export.scores(path.parent) == ("vae_1", path.parent / "scores.json")
    with pytest.raises(ValueError, match="license is 'mine\\\\nmalware: true'; expected an SPDX identifier"):
        card(tmp_path, license="mine\nmalware: true")
