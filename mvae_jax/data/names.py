"""Names of files in a data set, whoever has packed it: one spelling, and which of them lead elsewhere or are hidden.

A name is the path inside the data set with forward slashes, such as "CelebA-HQ-img/0.jpg", and composed letters: macOS
decomposes "é" into two characters, and no other system does. A leading "./", as some programs write it, means nothing.
"""

from __future__ import annotations

import re
import unicodedata
import zipfile
from collections.abc import Iterable

_DRIVE = re.compile(r"[A-Za-z]:")
_UTF_8 = 0x800  # the flag of a zip's member whose name is UTF-8
# Thumbnails, waste and resource forks of Synology, QNAP, Windows and macOS.
_HIDDEN = ("__MACOSX", "@eaDir", "@Recycle", "#recycle", "$RECYCLE.BIN")


def normal(name: str) -> str:
    """Returns the one spelling of a name that does not lead outside."""
    name = name if name.isascii() else unicodedata.normalize("NFC", name)
    return "/".join(part for part in name.split("/") if part not in ("", ".")) if "/" in name else name


def shown(name: str) -> str:
    """Returns a name as messages have it: what would break their line, or is not to be seen, stands as escapes."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)


def leads_outside(name: str) -> bool:
    """Returns whether a name leads, or on some system could lead, outside its archive."""
    return name.startswith("/") or "\\" in name or bool(_DRIVE.match(name)) or ".." in name.split("/")


def is_hidden(name: str) -> bool:
    """Returns whether a file, or a folder that it is in, is none that a user has put there."""
    return any(part.startswith(".") or part in _HIDDEN for part in name.split("/"))


def in_zip(members: Iterable[zipfile.ZipInfo]) -> tuple[list[str], int, str]:
    """The names of a zip's members as their programs meant them, as far as can be told: with backslashes as slashes.

    Returns:
        A name for each member, that of a folder with a slash at its end; how many names do not state their encoding;
        and as what these are read: UTF-8 if all of them can be, else code page 437, as the format has it.
    """
    members = list(members)
    spelled, unflagged = [member.filename.replace("\\", "/") for member in members], {}
    for place, member in enumerate(members):
        if not member.flag_bits & _UTF_8 and not spelled[place].isascii():
            unflagged[place] = spelled[place].encode("cp437")
    try:
        decoded = {place: raw.decode("utf-8") for place, raw in unflagged.items()}
    except UnicodeDecodeError:
        return spelled, len(unflagged), "code page 437"
    for place, name in decoded.items():
        spelled[place] = name
    return spelled, len(unflagged), "UTF-8"
