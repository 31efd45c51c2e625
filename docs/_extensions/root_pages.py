"""Files at the root of the repository as pages: their text stays where it is, and links to files lead to pages.

A page that is nothing but `{include} ../FILE.md`, with a title above or not, gets the file's text before it is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from sphinx.application import Sphinx

PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "README.md#what-is-promised": "promises.md",
    "RESULTS.md": "results.md",
    "SECURITY.md": "security.md",
}
_INCLUDE = re.compile(r"^```\{include\} \.\./([A-Z]+\.md)\n((?::[a-z-]+: .*\n)*)```$", re.MULTILINE)
_FENCED = re.compile(r"^(```+|~~~+).*?^\1[`~]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?:\.\./)*((?:docs/)?[\w/]+\.md)(#[\w-]+)?\)")


def in_prose(change: Callable[[re.Match[str]], str], text: str) -> str:
    """A text whose links are changed, but for those in blocks of code."""
    parts, end = [], 0
    for block in _FENCED.finditer(text):
        parts += [_LINK.sub(change, text[end : block.start()]), block.group()]
        end = block.end()
    return "".join([*parts, _LINK.sub(change, text[end:])])


def _read(app: Sphinx, name: str, source: list[str]) -> None:
    root, up = Path(app.srcdir).parent, "../" * name.count("/")

    def text_of(match: re.Match[str]) -> str:
        path, options = root / match.group(1), dict(re.findall(r":([a-z-]+): (.*)", match.group(2)))
        app.env.note_dependency(str(path))
        text = path.read_text(encoding="utf-8")
        if after := options.get("start-after"):
            text = text.split(f"\n{after}\n", 1)[1]
        if before := options.get("end-before"):
            text = text.split(f"\n{before}\n", 1)[0]
        return in_prose(link_from_root, text)

    def link_from_root(match: re.Match[str]) -> str:
        path, anchor = match.group(1), match.group(2) or ""
        if f"{path}{anchor}" in PAGES:
            return f"]({up}{PAGES[path + anchor]})"
        return f"]({up}{PAGES.get(path, path.removeprefix('docs/'))}{anchor})"

    def link_to_root(match: re.Match[str]) -> str:
        path = match.group(1)
        return link_from_root(match) if "../" in match.group(0) and path in PAGES else match.group(0)

    source[0] = _INCLUDE.sub(text_of, in_prose(link_to_root, source[0]))


def setup(app: Sphinx) -> dict[str, bool]:
    """Works on the source of each page before it is read."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
