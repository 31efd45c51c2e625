"""The Python of README and of the pages in docs/ runs as it stands, block after block, and its tests pass."""

import importlib.util
import re
import unittest
from pathlib import Path

import pytest

from mvae_jax import experiment
from mvae_jax.experiment import listing

ROOT = Path(__file__).parent.parent
PYTHON = {
    str(path.relative_to(ROOT)): "\n".join(
        re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    )
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
WITHOUT_A_RUN = ("docs/export.md", "docs/testing.md")
WITH_A_RUN = [page for page, code in PYTHON.items() if code and page not in WITHOUT_A_RUN]
SMALLEST = """
    --config.data.subset_size=40 --config.data.calibration_size=12 --config.model.image_size=32
    --config.model.latent_size=8 --config.model.private_size=4 --config.model.encoder_widths=(4,8,8)
    --config.model.decoder_widths=(8,8,4,4)
    --config.model.decoder_hidden=16 --config.model.text_hidden=16 --config.model.discriminator_widths=(4,8,8)
    --config.model.batch_size=8 --config.model.unimodal.epochs=1 --config.model.alignment.epochs=0
    --config.model.adversarial.epochs=0
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A folder with a run as `make train` makes it, small enough for a test."""
    path = tmp_path_factory.mktemp("pages")
    arguments = [f"--workdir={path / 'runs/celebahq_mvae'}", *SMALLEST.split()]
    experiment.run(listing.load("celebahq_mvae"), ["experiments/celebahq_mvae.py", *arguments])
    return path


def run_page(page, folder):
    path = folder / f"{Path(page).stem}_page.py"  # a file, of which chex reads the source
    path.write_text(PYTHON[page])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromModule(module).run(result)
    assert not [*result.errors, *result.failures, *result.skipped]
    assert result.testsRun == sum(line.count("=True") for line in re.findall("chex.variants.*", PYTHON[page]))


@pytest.mark.parametrize("page", WITHOUT_A_RUN)
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page, tmp_path)


@pytest.mark.slow  # trains the runs that it shows
@pytest.mark.parametrize("page", WITH_A_RUN)
def test_python_that_needs_a_run_runs(page, workdir, monkeypatch):
    monkeypatch.chdir(workdir)
    run_page(page, workdir)


def test_pages_have_python():
    assert len(WITH_A_RUN) > 3
    assert all(PYTHON[page] for page in WITHOUT_A_RUN)
