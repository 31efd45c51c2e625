"""Looks whether the links of built pages lead somewhere: to a file of the folder, and to an anchor in it.

    python tools/check_links.py build/docs

Links to the network are not followed. Ends with status 1, and a line for each link that is broken.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LINKS = {"href", "src"}
_ANCHORS = {"id", "name"}


class _Page(HTMLParser):
    """What a page links to, and what can be linked to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if value and name in _LINKS:
                self.links.append(value)
            elif value and name in _ANCHORS:
                self.anchors.add(value)


def broken(folder: Path) -> Iterator[str]:
    """Yields a sentence for each link of the HTML files below a folder that leads nowhere, or out of the folder."""
    folder = folder.resolve()
    pages = {path: _Page(path) for path in sorted(folder.rglob("*.html"))}
    if not pages:
        yield f"{folder} has no page; expected what `make docs` has built."
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            where = f"{path.relative_to(folder)} links to {link}"
            if not target.is_relative_to(folder):
                yield f"{where}, which is not below {folder.name}."
            elif not target.exists():
                yield f"{where}, which does not exist."
            elif (anchor := unquote(parts.fragment)) and target in pages and anchor not in pages[target].anchors:
                yield f"{where}, and {target.name} has no such anchor."


def main() -> int:
    """Prints what is broken; returns the exit status."""
    if len(sys.argv) != 2:
        print("usage: python tools/check_links.py FOLDER", file=sys.stderr)
        return 2
    found = list(broken(Path(sys.argv[1])))
    print(*found, sep="\n", end="\n" * bool(found))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
