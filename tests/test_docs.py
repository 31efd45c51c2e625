"""The documentation: every public name is on a page, every link of a text leads somewhere, and the pages build."""

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import zlib
from pathlib import Path

import check_links
import pytest

import mvae_jax

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TEXTS = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
ALL_TEXT = "\n".join(path.read_text() for path in TEXTS)
DOCUMENTED = re.findall(r"^\.\. automodule:: (\S+)$", ALL_TEXT, re.MULTILINE)


def public_modules(package):
    """Names of the modules of a package, and of those in it, but those whose name begins with an underscore."""
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if not module.name.rpartition(".")[2].startswith("_"):
            yield module.name
            if module.ispkg:
                yield from public_modules(importlib.import_module(module.name))


MODULES = sorted(public_modules(mvae_jax))


def public_names(name):
    """Names that a page of a module has: what is in its `__all__`, or else functions and classes that it defines."""
    module = importlib.import_module(name)
    if hasattr(module, "__all__"):
        yield from module.__all__
        return
    for key, value in vars(module).items():
        ours = getattr(value, "__module__", None) == name and (inspect.isclass(value) or inspect.isfunction(value))
        if not key.startswith("_") and ours and value.__name__ == key:
            yield key


def test_every_public_module_is_on_one_page():
    assert len(MODULES) > 100
    assert sorted(DOCUMENTED) == MODULES


def test_what_is_public_and_no_function_class_or_module_has_a_line_of_its_own():
    names = [f"{module}.{key}" for module in MODULES for key in public_names(module)]
    kinds = (inspect.isclass, inspect.isroutine, inspect.ismodule)
    others = {name for name in names if not any(kind(resolve(name)) for kind in kinds)}
    assert others
    assert others <= set(re.findall(r"^\.\. autodata:: (\S+)$", ALL_TEXT, re.MULTILINE))


@pytest.mark.parametrize("name", MODULES)
def test_what_is_public_has_a_docstring_and_so_stands_on_the_page(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for key in public_names(name):
        value = getattr(module, key)
        assert inspect.ismodule(value) or not callable(value) or inspect.getdoc(value), f"{name}.{key}"


def test_names_that_pages_refer_to_exist():
    names = [name for path in TEXTS for name in re.findall(r"\{py:\w+\}`~?([\w.]+)`", path.read_text())]
    assert len(names) > 30
    for name in names:
        module, _, key = name.rpartition(".")
        assert name in MODULES or (module in MODULES and key in public_names(module)), name


def test_fractions_have_braces():
    """Without them, docutils takes all digits that follow for the numerator."""
    formulas = [formula for path in TEXTS for formula in re.findall(r"\\t?frac.{9}", path.read_text())]
    assert len(formulas) > 5
    for formula in formulas:
        assert re.match(r"\\frac\{", formula), formula


# --- links ----------------------------------------------------------------------------------------------------------


def anchor(heading):
    """Anchor of a heading as GitHub and MyST make it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip())
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def prose(path):
    """A text without its blocks of code."""
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_a_file_and_a_heading(path):
    for target, fragment in re.findall(r"\]\(([^)#:\s]*)#?([^)\s:]*)\)", prose(path)):
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), f"{path.name} links to {target}"
        if fragment:
            headings = re.findall(r"^#+ (.*)$", prose(file), re.MULTILINE)
            assert fragment in map(anchor, headings), f"{path.name} links to {target}#{fragment}"


def test_links_of_pages_that_lead_nowhere_are_found(tmp_path):
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "b.html").write_text("<p id='here'>")
    links = ["b.html", "b.html#here", "#top", "https://example.org/x", "b.html#gone", "c.html", "../d.html"]
    (folder / "a.html").write_text("<p id='top'>" + "".join(f"<a href='{link}'>" for link in links))
    assert [line.split(" links to ")[1].split(",")[0] for line in check_links.broken(folder)] == links[4:]
    assert list(check_links.broken(tmp_path / "none"))


def test_docstrings_become_restructured_text(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "_extensions")
    docstrings = pytest.importorskip("docstrings", reason="the extra 'docs' is not installed")
    text = "Norms |x|, x_ and `a < b` of `losses`s.\n\n    x  *  y\n\nArgs:\n    *inputs: of `f`.\n\n* an item: *\n"
    assert docstrings.translate(text.split("\n")) == [
        r"Norms \|x\|, x\_ and ``a < b`` of `losses`\ s.",
        *("", "::", "", "    x  *  y", ""),
        *("Args:", r"    \*inputs: of `f`.", ""),
        *(r"* an item: \*", ""),
    ]


def test_links_in_blocks_of_code_stay_as_they_are(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "_extensions")
    root_pages = pytest.importorskip("root_pages", reason="the extra 'docs' is not installed")
    block = "```diff\n+[a](docs/families/alae.md)\n```\n"
    text = f"[a](docs/families/alae.md)\n{block}[a](docs/families/alae.md)\n````md\n{block}````\n"
    changed = root_pages.in_prose(lambda match: f"](./{match.group(1)})", text)
    assert changed == f"[a](./docs/families/alae.md)\n{block}[a](./docs/families/alae.md)\n````md\n{block}````\n"


# --- the pages ------------------------------------------------------------------------------------------------------


def inventory(path):
    """Names of Python that Sphinx's inventory lists."""
    with path.open("rb") as file:
        for _ in range(4):
            file.readline()
        lines = zlib.decompress(file.read()).decode().splitlines()
    return {line.split()[0] for line in lines if line.split()[1].startswith("py:")}


@pytest.mark.slow  # runs the notebooks
def test_the_documentation_builds_without_a_warning_and_has_every_public_name(tmp_path):
    pytest.importorskip("myst_nb", reason="the extra 'docs' is not installed")
    # Several devices and programs that are not optimised are for tests, see conftest.py.
    variables = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "NPROC")}
    variables["XDG_CACHE_HOME"] = str(tmp_path / "cache")  # a notebook decodes images, and the user's cache is not ours
    options = ["-W", "--keep-going", "-q", "-j", "auto", "-b", "html", "-d", str(tmp_path / "trees")]
    command = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(tmp_path / "html")]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(check_links.broken(tmp_path / "html"))
    listed = inventory(tmp_path / "html" / "objects.inv")
    wanted = {f"{name}.{key}" for name in MODULES for key in public_names(name)}
    missing = {name for name in wanted - listed if not inspect.ismodule(resolve(name))}
    assert not missing
    for page in (tmp_path / "html" / "notebooks").glob("*.html"):
        assert page.stem == "index" or "cell_output" in page.read_text()


def resolve(name):
    module, _, key = name.rpartition(".")
    return getattr(importlib.import_module(module), key)
