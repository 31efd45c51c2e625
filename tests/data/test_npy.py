"""Arrays of NumPy: those that it writes, and headers that lie or are hostile."""

from __future__ import annotations

import io
import itertools
import tracemalloc

import numpy as np
import pytest

from mvae_jax.data import npy


def saved(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version)
    return stream.getvalue()


def with_header(text: str, values: bytes = b"", version: int = 1) -> bytes:
    length = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode("latin-1") + values


@pytest.mark.parametrize("kind", ["u1", "<i8", ">i4", "<f4", "|b1", "<f2", "<u2"])
def test_arrays_that_numpy_writes(kind):
    shapes = [(), (0,), (3,), (2, 3), (2, 0, 3), (2, 3, 4)]
    for shape, version, order in itertools.product(shapes, [(1, 0), (2, 0), (3, 0)], "CF"):
        values = np.random.default_rng(0).integers(0, 2, shape).astype(kind)
        array = np.asarray(values, order=order)
        read = npy.from_bytes(saved(array, version))
        assert (read.dtype, read.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(read, array)
        header = npy.read_header(io.BytesIO(saved(array, version)))
        assert (header.dtype, header.shape, header.bytes) == (array.dtype, array.shape, array.nbytes)


def test_headers_of_other_programs():
    values = np.arange(6, dtype="<f4")
    for text in (
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }          \n",  # Python 2
        "{'shape': (2, 3), 'fortran_order': False, 'descr': '<f4'}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,3)}\n",
    ):
        np.testing.assert_array_equal(npy.from_bytes(with_header(text, values.tobytes())), values.reshape(2, 3))


FIELDS = "'fortran_order': False, "
HOSTILE = {
    "nested": "{'descr': '|u1', " + FIELDS + "'shape': " + "(" * 3000 + ")" * 3000 + "}",
    "unary": "{'descr': '|u1', " + FIELDS + "'shape': (" + "-" * 5000 + "1,)}",
    "brackets": "[" * 8000,
    "a key that is a list": "{[]: 1, 'descr': '|u1', " + FIELDS + "'shape': (1,)}",
    "open string": "{'descr': '|u1, " + FIELDS + "'shape': (1,)}",
    "triple quotes": "{'descr': '''|u1', " + FIELDS + "'shape': (1,)",
    "no such type": "{'descr': '|q9', " + FIELDS + "'shape': (1,)}",
    "many types": "{'descr': '" + "u1," * 2000 + "u1', " + FIELDS + "'shape': (1,)}",
    "a type of records": "{'descr': [('a', '|u1')], " + FIELDS + "'shape': (1,)}",
    "negative": "{'descr': '|u1', " + FIELDS + "'shape': (-1,)}",
    "a size of many digits": "{'descr': '|u1', " + FIELDS + "'shape': (" + "9" * 5000 + ",)}",
    "empty": "",
    "nulls": "\0" * 100,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers_are_refused(text):
    for version in (1, 2, 3):
        with pytest.raises(ValueError, match=r"header|bytes follow"):
            npy.from_bytes(with_header(text, b"\1", version))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the magic string is not correct"),
        (b"\x93NUMPY\4\0" + bytes(100), "the magic string is not correct"),
        (saved(np.zeros(3, np.uint8))[:-1], r"2 bytes follow its header, expected 3 for an array \(3,\)"),
        (saved(np.zeros(3, np.uint8)) + b"0", "4 bytes follow its header, expected 3"),
        (with_header("{'descr': '|u1', " + FIELDS + "'shape': (1099511627776,)}", b"1"), "expected 1099511627776"),
        (with_header("{'descr': '|V2147483647', " + FIELDS + "'shape': (9,)}", b"1"), "expected 19327352823"),
        (saved(np.array([{}], dtype=object)), "it holds Python objects, which are not unpickled"),
    ],
)
def test_arrays_that_are_not_as_stated_are_refused_without_taking_memory(data, message):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            npy.from_bytes(data)
        assert tracemalloc.get_traced_memory()[1] < 2**18
    finally:
        tracemalloc.stop()
