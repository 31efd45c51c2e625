"""The Python of the guides in docs/ runs as it stands, block after block."""

import importlib.util
import re
import unittest
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


def blocks(page):
    return "\n".join(re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("page", ["testing.md", "export.md"])
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"{Path(page).stem}_page.py"  # a file, of which chex reads the source
    path.write_text(blocks(page))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromModule(module).run(result)
    assert not [*result.errors, *result.failures, *result.skipped]
    assert result.testsRun == 5 * ("chex.variants" in blocks(page))
