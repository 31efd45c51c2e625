"""Arrays of numbers in NumPy's .npy format, read as headers and bytes: nothing is evaluated or unpickled.

NumPy's own reader evaluates the header as Python, and takes as much memory as it states.
"""

from __future__ import annotations

import io
import math
import re
from typing import IO, NamedTuple

import numpy as np

_MAGIC = b"\x93NUMPY"
_LONGEST = 2**14  # bytes of a header; those of arrays of numbers have 128
_FIELDS = (  # in any order; sizes of Python 2 end with an L
    r"'descr': '(?P<descr>[^']*)'",
    r"'fortran_order': (?P<order>True|False)",
    r"'shape': \((?P<shape>[0-9L, ]*)\)",
)
_HEADER = re.compile(rf"\{{(?:(?:{'|'.join(_FIELDS)}),?\s*){{3}}\}}\s*")


class Header(NamedTuple):
    """What a file states of its array.

    Attributes:
        dtype: type of the values; `object` for Python objects.
        shape: of the array; the bytes that follow need not be as many.
        fortran_order: whether the first index varies fastest.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran_order: bool

    @property
    def bytes(self) -> int:
        """Bytes of the values."""
        return self.dtype.itemsize * math.prod(self.shape)


def read_header(stream: IO[bytes]) -> Header:
    """Reads a file's header, and leaves the stream at the first value.

    Raises:
        ValueError: it is no .npy, or has no array of a single type.
    """
    start = stream.read(8)
    if start[:6] != _MAGIC or len(start) < 8 or start[6] not in (1, 2, 3):
        raise ValueError(f"the magic string is not correct, it begins with {start!r}")
    length = int.from_bytes(stream.read(2 if start[6] == 1 else 4), "little")
    text = stream.read(min(length, _LONGEST)).decode("latin-1")
    fields = _HEADER.fullmatch(text)
    if not fields or None in fields.groups():
        raise ValueError(f"its header {text[:60]!r} states no type, order and shape")
    descr, order, shape = fields["descr"], fields["order"], fields["shape"]
    try:
        sizes = [int(size.rstrip("L")) for size in shape.replace(" ", "").split(",") if size]
        return Header(np.dtype(descr), tuple(sizes), order == "True")
    except (TypeError, ValueError) as error:
        raise ValueError(f"its header states the type {descr[:20]!r} and the shape ({shape[:60]})") from error


def from_bytes(data: bytes) -> np.ndarray:
    """Returns the array that a file holds.

    Raises:
        ValueError: as for `read_header`, or the array holds objects, or other than as many bytes as it states.
    """
    stream = io.BytesIO(data)
    header = read_header(stream)
    if header.dtype.hasobject:
        raise ValueError("it holds Python objects, which are not unpickled")
    following = len(data) - stream.tell()
    if following != header.bytes:
        raise ValueError(f"{following} bytes follow its header, expected {header.bytes} for an array {header.shape}")
    values = np.frombuffer(data, header.dtype, offset=stream.tell())
    return values.reshape(header.shape, order="F" if header.fortran_order else "C")
