"""Tensors from PyTorch's weight files, without PyTorch and without running what the files say.

A `.pth` file is a pickle: loading one the usual way runs any code that it names. Here the pickle may only describe
tensors; their bytes are then read from the storages beside it. Both layouts of `torch.save` are understood, the zip
archive (since 1.6) and the stream of pickles before it, in which torchvision still publishes its older weights, each in
the pickle protocols 2, PyTorch's own choice, to 5; and safetensors.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import safe_open

_STORAGE_DTYPES: Mapping[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_STREAM_MAGIC = 0x1950A86A20F9469CFC6C
_STREAM_STARTS = tuple(pickle.dumps(_STREAM_MAGIC, protocol=protocol) for protocol in range(2, 6))
_STREAM_VERSION = 1001
# Limits that no file of weights comes near: bytes of its pickle, axes, sizes and strides, how often tensors share, and
# characters of a name, which in a checkpoint has those of all mappings above it.
_LONGEST_PICKLE, _MOST_AXES, _LARGEST, _MOST_SHARED, _LONGEST_NAME = 2**21, 16, 2**48, 4, 256


def read_tensors(
    path: str | Path, wanted: Callable[[str], bool] = lambda name: True, *, nested: bool = False
) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dict.

    Args:
        path: a `.pth` file written by `torch.save`, or a `.safetensors` file; told apart by content.
        wanted: which tensors to read, by name; only their bytes are kept.
        nested: the file is a checkpoint, of mappings of state dicts: a name is a path, "models/generator/weight". What
            else is in it, such as the state of a scheduler or objects of any class, is passed over unseen.

    Returns:
        {name: array} with the file's names, shapes, types and axis order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another kind, is damaged, or its pickle asks for anything but tensors. Such a
            pickle is not run.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}; expected weights, .pth or .safetensors: give their path.")
    with path.open("rb") as file:
        start = file.read(32)
        file.seek(0)
        try:
            if start.startswith(b"PK\x03\x04"):
                return _read_archive(file, wanted, nested)
            if start.startswith(_STREAM_STARTS):
                return _read_stream(file, wanted, nested)
            if start[8:9] == b"{":
                with safe_open(path, framework="numpy") as tensors:
                    return {name: tensors.get_tensor(name) for name in tensors.keys() if wanted(name)}  # noqa: SIM118
        except Exception as error:  # whatever a damaged file provokes, the reader learns which file it was
            raise ValueError(f"{path} cannot be read: {error or type(error).__name__}") from error
    raise ValueError(
        f"{path} is neither safetensors nor written by `torch.save` since 2017 in a pickle protocol from 2 to 5. If "
        "PyTorch can read it, convert it once: torch.save(torch.load(old, weights_only=True), new)."
    )


class _Storage(NamedTuple):
    """A typed run of numbers, by the key under which the file holds its bytes."""

    dtype: np.dtype
    key: str
    size: int


class _Tensor(NamedTuple):
    """A strided view of a storage; offset and strides count numbers, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, data: bytes) -> np.ndarray:
        flat = np.frombuffer(data, self.storage.dtype)
        if flat.size != self.storage.size:
            raise ValueError(f"storage {self.storage.key} holds {flat.size} numbers, expected {self.storage.size}.")
        # A view may neither leave its storage nor blow it up by repeating numbers.
        count = math.prod(self.shape)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if min((self.offset, *self.shape, *self.strides)) < 0 or count > flat.size or (count and last >= flat.size):
            raise ValueError(f"a tensor of shape {self.shape} exceeds its storage of {flat.size} numbers.")
        steps = [step * flat.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, steps).copy()


# What the opcodes of a pickle do, by their names in `pickletools`.
_PUSH_ARGUMENT = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),  # the last two by Python 2
}
_PUSH: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUSH_EMPTY: Mapping[str, Callable[[], Any]] = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_PUSH_TUPLE = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_KEEP = {"PROTO", "FRAME", "STOP"}


_UNSEEN = object()  # in the place of objects that are neither tensors nor mappings or lists of them
_DEEPEST = 8  # mappings within mappings of a checkpoint


class _Pickle:
    """What a pickle describes of tensors, mappings and lists; every other name that it asks for is refused.

    A lenient one puts `_UNSEEN` in the place of objects that are none of these, and runs nothing for them either.

    Python's own reader can be sent into a recursion without end, which ends the process: by keys that are tuples of
    tuples. Here nothing recurs, and keys are names or numbers.

    Attributes:
        value: the object, with a `_Tensor` for each tensor.
        storages: the storages that were referred to, by key.
    """

    def __init__(self, file: BinaryIO, lenient: bool = False) -> None:
        self.storages: dict[str, _Storage] = {}
        self._lenient = lenient
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(file):
            self._run(opcode.name, argument)
        (self.value,) = self._stack

    def _run(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        if opcode in _PUSH_ARGUMENT:
            stack.append(argument)
        elif opcode in _PUSH:
            stack.append(_PUSH[opcode])
        elif opcode in _PUSH_EMPTY:
            stack.append(_PUSH_EMPTY[opcode]())
        elif opcode in _PUSH_TUPLE:
            count = _PUSH_TUPLE[opcode]
            stack[-count:] = [tuple(stack[-count:])]
        elif opcode in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else argument] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif opcode == "MARK":
            self._marks.append(len(stack))
        elif opcode == "TUPLE":
            items = self._since_mark()
            stack.append(tuple(items))
        elif opcode in ("APPEND", "APPENDS"):
            items = [stack.pop()] if opcode == "APPEND" else self._since_mark()
            if stack[-1] is not _UNSEEN:
                _expect(list, stack[-1]).extend(items)
        elif opcode in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if opcode == "SETITEM" else self._since_mark()
            if stack[-1] is not _UNSEEN:
                _put(_expect(dict, stack[-1]), zip(items[::2], items[1::2], strict=True))
        elif opcode == "GLOBAL":
            stack.append(self._named(*argument.split(" ", 1)))
        elif opcode == "STACK_GLOBAL":
            name, module = _expect(str, stack.pop()), _expect(str, stack.pop())
            stack.append(self._named(module, name))
        elif opcode == "REDUCE":
            arguments, function = _expect(tuple, stack.pop()), stack.pop()
            stack.append(_UNSEEN if function is _UNSEEN else _expect(Callable, function)(*arguments))
        elif opcode == "NEWOBJ" and self._lenient:
            stack[-2:] = [_UNSEEN]
        elif opcode == "BINPERSID":
            stack.append(self._storage(*_expect(tuple, stack.pop())))
        elif opcode == "BUILD":  # attributes, as the `_metadata` of a state dict
            stack.pop()
        elif opcode not in _KEEP:
            raise ValueError(
                f"its pickle has the opcode {opcode}, which describes no tensor: save it again with PyTorch."
            )

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _named(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _ordered
        if module == "torch" and name in _STORAGE_DTYPES:
            return name
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        if self._lenient:
            return _UNSEEN
        raise ValueError(
            f"its pickle asks for {module}.{name}, and only tensors are admitted. Nothing was run. Save the state "
            "dict alone, torch.save(net.state_dict(), path), or use safetensors."
        )

    def _storage(self, kind: Any, storage_type: Any, key: Any, _: Any, size: Any, *view: Any) -> Any:
        if kind != "storage" or any(view):
            raise ValueError(
                "its pickle refers to storages in a form that is not supported: save it again with PyTorch."
            )
        if storage_type is _UNSEEN:  # of complex numbers, or of whatever comes later
            return _UNSEEN
        dtype = _STORAGE_DTYPES[_expect(str, storage_type)]
        storage = _Storage(dtype, str(_expect((str, int), key)), _whole(size))
        return self.storages.setdefault(storage.key, storage)


def _expect(kind: Any, value: Any) -> Any:
    """The value, if it is of a kind; one of another may be too large, or too deep, to be shown."""
    if not isinstance(value, kind):
        raise ValueError(f"its pickle has a {type(value).__name__} in a place where no tensor has one.")
    return value


def _whole(value: Any) -> int:
    if abs(_expect(int, value)) >= _LARGEST:
        raise ValueError("its pickle has a size, an offset or a stride that no file has.")
    return int(value)


def _put(mapping: dict[Any, Any], items: Iterable[Any]) -> None:
    for key, value in items:
        mapping[_expect((str, int), key)] = value


def _ordered(items: Any = ()) -> dict[Any, Any]:
    """An OrderedDict, of which Python 2 gives the pairs."""
    mapping: dict[Any, Any] = {}
    _put(mapping, (_expect((list, tuple), pair) for pair in _expect((list, tuple), items)))
    return mapping


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Any:
    if storage is _UNSEEN:
        return _UNSEEN
    if len(_expect(tuple, shape)) > _MOST_AXES or len(_expect(tuple, strides)) != len(shape):
        raise ValueError(f"its pickle has a tensor of {len(shape)} axes and {len(strides)} strides.")
    return _Tensor(_expect(_Storage, storage), _whole(offset), tuple(map(_whole, shape)), tuple(map(_whole, strides)))


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _wanted_tensors(state_dict: Any, wanted: Callable[[str], bool], nested: bool) -> dict[str, _Tensor]:
    if not isinstance(state_dict, Mapping):
        raise ValueError(
            f"it holds a {type(state_dict).__name__}, expected a state dict: a mapping of names to tensors."
        )
    found: dict[str, _Tensor] = {}
    level, seen = {"": state_dict}, {id(state_dict)}  # a mapping may be within itself
    for _ in range(_DEEPEST if nested else 1):
        below: dict[str, Any] = {}
        for prefix, mapping in level.items():
            for name, value in mapping.items():
                if not isinstance(value, _Tensor | dict):
                    continue
                if len(prefix) + len(str(name)) > _LONGEST_NAME:
                    raise ValueError(f"its pickle has a name of more than {_LONGEST_NAME} characters.")
                path = f"{prefix}{name}"
                if isinstance(value, _Tensor) and isinstance(name, str) and wanted(path):
                    found[path] = value
                elif isinstance(value, dict) and id(value) not in seen:
                    seen.add(id(value))
                    below[f"{path}/"] = value
        level = below
    return found


def _read_archive(file: BinaryIO, wanted: Callable[[str], bool], nested: bool) -> dict[str, np.ndarray]:
    """The zip layout: ROOT/data.pkl, ROOT/data/KEY, and perhaps ROOT/byteorder."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        roots = [name.removesuffix("data.pkl") for name in names if name.split("/")[-1] == "data.pkl"]
        if len(roots) != 1:
            raise ValueError("a zip archive without a single data.pkl is not a file of `torch.save`.")
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("it was packed anew, and `torch.save` does not compress: save it again with PyTorch.")
        root = roots[0]
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("it was written on a big-endian machine: save it again on a little-endian one.")
        if archive.getinfo(f"{root}data.pkl").file_size > _LONGEST_PICKLE:
            raise ValueError(f"its pickle has more than {_LONGEST_PICKLE} bytes, as no state dict has.")
        described = _Pickle(io.BytesIO(archive.read(f"{root}data.pkl")), lenient=nested)
        tensors = _wanted_tensors(described.value, wanted, nested)
        _check_total(tensors, file)
        return {name: tensor.read(archive.read(f"{root}data/{tensor.storage.key}")) for name, tensor in tensors.items()}


def _read_stream(file: BinaryIO, wanted: Callable[[str], bool], nested: bool) -> dict[str, np.ndarray]:
    """The layout before 1.6: pickles of magic, version, system, object, keys; then sizes and bytes of storages."""
    beginning = io.BytesIO(file.read(_LONGEST_PICKLE))
    magic, version, system = (_Pickle(beginning).value for _ in range(3))
    little = bool(_expect(dict, system).get("little_endian"))
    if (magic, version) != (_STREAM_MAGIC, _STREAM_VERSION) or not little:
        raise ValueError(
            f"version {_whole(version)} on system little_endian={little} is not supported: save it again with PyTorch."
        )
    described = _Pickle(beginning, lenient=nested)
    tensors = _wanted_tensors(described.value, wanted, nested)
    _check_total(tensors, file)
    needed = {tensor.storage.key for tensor in tensors.values()}
    keys, bytes_of = _expect(list, _Pickle(beginning).value), {}
    file.seek(beginning.tell())
    for key in keys:
        storage = described.storages[str(_expect((str, int), key))]
        (size,) = struct.unpack("<q", file.read(8))
        if size != storage.size:
            raise ValueError(f"storage {storage.key} has {size} numbers, expected {storage.size}.")
        if storage.key in needed:
            bytes_of[storage.key] = file.read(min(size * storage.dtype.itemsize, _bytes(file)))
        else:
            file.seek(size * storage.dtype.itemsize, 1)
    return {name: tensor.read(bytes_of[tensor.storage.key]) for name, tensor in tensors.items()}


def _bytes(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _check_total(tensors: Mapping[str, _Tensor], file: BinaryIO) -> None:
    """Raises ValueError if tensors would take much more memory than the file has, by sharing storages."""
    total = sum(math.prod(tensor.shape) * tensor.storage.dtype.itemsize for tensor in tensors.values())
    if total > _MOST_SHARED * _bytes(file):
        raise ValueError(
            f"its tensors have {total} bytes, and the file only {_bytes(file)}: save it again with PyTorch."
        )
