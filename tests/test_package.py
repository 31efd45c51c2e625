"""The wheel, built and installed into an environment that holds nothing else."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow  # fills an environment

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with sdist and wheel; the wheel is built from the sdist."""
    folder = tmp_path_factory.mktemp("built")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    return path


def test_an_index_would_take_sdist_and_wheel(built):
    files = sorted(map(str, built.iterdir()))
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == len(files) == 2


def test_the_page_of_an_index_links_to_nothing_that_is_not_there(wheel):
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        page = file.read(name).decode().split("\n\n", 1)[1]
    readme = (ROOT / "README.md").read_text()
    assert len(re.findall(r"\]\((?!https://)", readme)) > 20
    assert set(re.findall(r"\]\(.*?\)", page)) == set(re.findall(r"\]\(https://.*?\)", readme))
    assert page.startswith("# mvae_jax\n\nGenerative autoencoders in JAX: ")
    rest = re.sub(r"<br>!\[[^\]]*\]\([^)]*\)", "", readme.partition("## Two commands")[2])  # pictures within a table
    words = re.sub(r"\]\(.*?\)|[!\[]", "", rest)
    assert re.sub(r"\]\(.*?\)|[!\[]", "", page.partition("## Two commands")[2]).startswith(words)


def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "mvae_jax").rglob("*.py")}
    sources |= {f"mvae_jax/experiments/{path.name}" for path in (ROOT / "experiments").glob("*.py")}
    others = {"mvae_jax/py.typed", "mvae_jax/viz/page.css", "mvae_jax/viz/page.js"}
    assert {name for name in names if name.startswith("mvae_jax/")} == sources | others
    assert all(name.startswith(("mvae_jax/", "mvae_jax-")) for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Runs a program of an environment that holds the wheel alone, in a folder beside it: what it printed."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", with_pip=True)
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS")}
    variables["XLA_FLAGS"] = "--xla_backend_optimization_level=0"

    def run(program, *arguments, status=0):
        command = [folder / "env" / "bin" / program, *arguments]
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    run("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel))
    run.folder = folder
    return run


def test_wheel_imports_in_an_empty_environment(run):
    modules = (
        "losses, gaussian, images, nets, models, objective, runs, train.loop, data.rendered.faces, eval.consistency, "
        "viz.report"
    )
    imports = "\n".join(f"import mvae_jax.{module.strip()}" for module in modules.split(","))
    imports += "\nmvae_jax.viz.report.page('Title', ['with its style sheet'])"
    code = f"{imports}\nimport sys; print(mvae_jax.__file__, 'tensorflow' in sys.modules)"
    file, tensorflow = run("python", "-W", "error", "-c", code).split()
    assert Path(file).is_relative_to(run.folder)
    assert tensorflow == "False"


(TRAIN,) = re.findall(r"```python\n((?:(?!```).)*?runs\.train.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
LOAD = """
import jax, numpy
from mvae_jax import runs
loaded = runs.load("runs/digits")
numpy.testing.assert_array_equal(loaded.sample(jax.random.key(0), 16), images)
print(loaded.step, images.shape, float(images.min()) >= -1, float(images.max()) <= 1)
# As digits are: their first column is black, and no two are the same.
print(float(images[:, :, 0].mean()) < -0.9, float(images.std(0).mean()) > 0.2)
"""


def test_a_model_is_trained_loaded_and_sampled(run):
    assert len([line for line in TRAIN.splitlines() if line]) <= 10
    out = run("python", "-W", "error", "-c", TRAIN + LOAD)
    assert out == f"{60 * (1618 // 128)} (16, 8, 8, 1) True True\nTrue True\n"


MULTIMODAL = """
import dataclasses
from mvae_jax import runs
from mvae_jax.data.rendered import faces
from mvae_jax.models import ZOO

default, renders = ZOO["multimodal"].config(), faces.sample(0, 20)
config = dataclasses.replace(
    default, image_size=32, latent_size=4, encoder_widths=(4, 4), decoder_widths=(4, 4), decoder_hidden=8,
    text_hidden=8, discriminator_widths=(4,), attention_heads=2, batch_size=8,
    unimodal=dataclasses.replace(default.unimodal, epochs=1),
    alignment=dataclasses.replace(default.alignment, epochs=0),
    adversarial=dataclasses.replace(default.adversarial, epochs=0),
)
arrays = {"image": renders.images[:, ::2, ::2], "attributes": renders.attributes}
runs.train("runs/faces", "multimodal", config, arrays)
"""


def test_commands_work(run):
    commands = run("mvae-jax", "--help")
    for name in ("use", "data", "compare", "experiments"):
        assert f"\n    {name}" in commands
    assert run("python", "-m", "mvae_jax", "--help") == commands
    listed = [line.split()[0] for line in run("mvae-jax", "experiments").splitlines()]
    assert listed == sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))
    assert "  vae: " in run("mvae-jax", "experiments", "celebahq_mvae", "--dry-run")

    run("python", "-W", "error", "-c", MULTIMODAL)
    out = run("mvae-jax", "use", "generate", "runs/faces", "a smiling woman", "--count=2", "-o", "drawn")
    assert out == "drawn/000.png\ndrawn/001.png\n"
    with Image.open(run.folder / "drawn" / "001.png") as picture:
        assert picture.size == (32, 32)
    out = run("mvae-jax", "use", "check", "runs/faces", "drawn/000.png", "bald", "--threshold=1", status=1)
    assert out.startswith("mismatch by words: probability 0.")

    folder = run.folder / "images"
    folder.mkdir()
    lines = ["file,smiling"]
    for number in range(3):
        Image.new("RGB", (9, 8), (80 * number, 0, 0)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{number % 2}")
    (folder / "attributes.csv").write_text("\n".join(lines))
    assert run("mvae-jax", "data", "verify", "images") == "no defects in images\n"
    (folder / "1.png").write_bytes(b"")
    assert run("mvae-jax", "data", "verify", "images", status=1).endswith("1 defect in images\n")
