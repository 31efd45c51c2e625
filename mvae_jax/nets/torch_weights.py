"""Tensors from PyTorch's weight files, without PyTorch and without running what the files say.

A `.pth` file is a pickle: loading one the usual way runs any code that it names. Here the pickle may only describe
tensors; their bytes are then read from the storages beside it. Both layouts of `torch.save` are understood, the zip
archive (since 1.6) and the stream of pickles before it, in which torchvision still publishes its older weights, and
safetensors.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
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
_STREAM_VERSION = 1001


def read_tensors(path: str | Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dict.

    Args:
        path: a `.pth` file written by `torch.save`, or a `.safetensors` file; told apart by content.
        wanted: which tensors to read, by name; only their bytes are kept.

    Returns:
        {name: array} with the file's names, shapes, types and axis order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another kind, is damaged, or its pickle asks for anything but tensors. Such a
            pickle is not run.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(16)
        file.seek(0)
        try:
            if start.startswith(b"PK\x03\x04"):
                return _read_archive(file, wanted)
            if start.startswith(pickle.dumps(_STREAM_MAGIC, protocol=2)[:-1]):
                return _read_stream(file, wanted)
            if start[8:9] == b"{":
                with safe_open(path, framework="numpy") as tensors:
                    return {name: tensors.get_tensor(name) for name in tensors.keys() if wanted(name)}  # noqa: SIM118
        except Exception as error:  # whatever a damaged file provokes, the reader learns which file it was
            raise ValueError(f"{path} cannot be read: {error}") from error
    raise ValueError(
        f"{path} is neither safetensors nor written by `torch.save` since 2017. If PyTorch can read it, convert it "
        "once: torch.save(torch.load(old, weights_only=True), new)."
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


class _TensorUnpickler(pickle.Unpickler):
    """Builds descriptions of tensors, and refuses every other name that the pickle asks for.

    Attributes:
        storages: the storages that were referred to, by key.
    """

    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding="utf-8")  # the oldest files were written by Python 2
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGE_DTYPES:
            return name
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return self._parameter
        raise ValueError(
            f"its pickle asks for {module}.{name}, and only tensors are admitted. Nothing was run. Save the state "
            "dict alone, torch.save(net.state_dict(), path), or use safetensors."
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, size, *view = pid
        if kind != "storage" or any(view):
            raise ValueError(
                f"its pickle refers to {kind!r} in a form that is not supported: save it again with PyTorch."
            )
        return self.storages.setdefault(str(key), _Storage(_STORAGE_DTYPES[storage_type], str(key), int(size)))

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
        if not isinstance(storage, _Storage):
            raise ValueError("its pickle builds a tensor from something that is not a storage.")
        return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))

    def _parameter(self, data: Any, *_: Any) -> Any:
        return data


def _wanted_tensors(state_dict: Any, wanted: Callable[[str], bool]) -> dict[str, _Tensor]:
    if not isinstance(state_dict, Mapping):
        raise ValueError(
            f"it holds a {type(state_dict).__name__}, expected a state dict: a mapping of names to tensors."
        )
    return {
        name: tensor
        for name, tensor in state_dict.items()
        if isinstance(tensor, _Tensor) and isinstance(name, str) and wanted(name)
    }


def _read_archive(file: BinaryIO, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """The zip layout: ROOT/data.pkl, ROOT/data/KEY, and perhaps ROOT/byteorder."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        roots = [name.removesuffix("data.pkl") for name in names if name.split("/")[-1] == "data.pkl"]
        if len(roots) != 1:
            raise ValueError("a zip archive without a single data.pkl is not a file of `torch.save`.")
        root = roots[0]
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("it was written on a big-endian machine: save it again on a little-endian one.")
        with archive.open(f"{root}data.pkl") as pickled:
            tensors = _wanted_tensors(_TensorUnpickler(pickled).load(), wanted)
        return {name: tensor.read(archive.read(f"{root}data/{tensor.storage.key}")) for name, tensor in tensors.items()}


def _read_stream(file: BinaryIO, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """The layout before 1.6: pickles of magic, version, system, object, keys; then sizes and bytes of storages."""
    magic, version, system = (_TensorUnpickler(file).load() for _ in range(3))
    if (magic, version) != (_STREAM_MAGIC, _STREAM_VERSION) or not system["little_endian"]:
        raise ValueError(f"version {version} on system {system} is not supported: save it again with PyTorch.")
    unpickler = _TensorUnpickler(file)
    tensors = _wanted_tensors(unpickler.load(), wanted)
    needed = {tensor.storage.key for tensor in tensors.values()}
    bytes_of = {}
    for key in map(str, _TensorUnpickler(file).load()):
        (size,) = struct.unpack("<q", file.read(8))
        length = size * unpickler.storages[key].dtype.itemsize
        if key in needed:
            bytes_of[key] = file.read(length)
        else:
            file.seek(length, 1)
    return {name: tensor.read(bytes_of[tensor.storage.key]) for name, tensor in tensors.items()}
