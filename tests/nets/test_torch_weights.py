"""Files of weights that are hostile: what would end the process, fill the memory or take for ever."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import tracemalloc
import types
import zipfile

import numpy as np
import pytest

from mvae_jax.nets.torch_weights import read_tensors


def write(path, pickled: bytes, *storages: bytes, method: int = zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("x/data.pkl", b"\x80\x02" + pickled + b".")
        for key, data in enumerate(storages):
            file.writestr(f"x/data/{key}", data)
    return path


def atom(value) -> bytes:
    """Opcodes that push a plain value."""
    return pickle.dumps(value, protocol=2)[2:-1]


def tensor(size=4, key="0", offset=0, shape=(4,), strides=(1,)) -> bytes:
    storage = b"(" + atom("storage") + b"ctorch\nFloatStorage\n" + atom(key) + atom("cpu") + atom(size) + b"tQ"
    view = storage + atom(offset) + atom(shape) + atom(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + view + b"\x89ccollections\nOrderedDict\n)RtR"


def mapping(key: bytes, value: bytes = b"N") -> bytes:
    return b"}" + key + value + b"s"


TWICE = b"K\1" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(200))  # (t, t) of (t, t) ...
HOSTILE = {
    "a key of nested tuples": mapping(b")" + b"\x85" * 100_000),
    "a key whose hash takes for ever": mapping(TWICE),
    "a name whose words take for ever": b"("
    + TWICE
    + b"ctorch\nFloatStorage\n"
    + atom("0")
    + atom("cpu")
    + atom(4)
    + b"tQ",
    "a key of a storage that is nested": mapping(atom("a"), tensor().replace(atom("0"), b")" + b"\x85" * 100_000)),
    "a list as key": mapping(b"]"),
    "pairs with nested keys": b"ccollections\nOrderedDict\n](" + b")" + b"\x85" * 100_000 + b"K\1\x86e\x85R",
    "nested lists": b"]" * 100_000 + b"a" * 99_999,
    "a size of many digits": mapping(atom("a"), tensor(size=1 << 100_000)),
    "a size that is text": mapping(atom("a"), tensor(size="4")),
    "axes without end": mapping(atom("a"), tensor(shape=(1,) * 100_000, strides=(0,) * 100_000)),
    "fewer strides than axes": mapping(atom("a"), tensor(strides=())),
    "a tensor of no storage": mapping(atom("a"), b"ctorch._utils\n_rebuild_tensor\n(K\1K\0)" + b")tR"),
    "no such storage": mapping(atom("a"), tensor(key="7")),
    "a string of 2 GiB": b"X\xff\xff\xff\x7f",
    "a string of 16 EiB": b"\x8d" + b"\xff" * 8,
    "a memo that is not there": b"h\7",
    "marks that are not there": b"tttt",
    "nothing on the stack": b"00000",
    "an opcode of classes": b"(ios\nsystem\n",
    "a function of text": b"X\3\0\0\0abc)R",
    "two objects": b"}}",
}


@pytest.mark.parametrize("pickled", HOSTILE.values(), ids=HOSTILE)
def test_hostile_pickles_are_refused(pickled, tmp_path):
    path = write(tmp_path / "x.pth", pickled, bytes(16))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"^{path} cannot be read: ") as error:
            read_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 1000


def test_a_nested_key_does_not_end_the_process(tmp_path):
    path = write(tmp_path / "x.pth", mapping(b")" + b"\x85" * 1_000_000))
    code = "import sys; from mvae_jax.nets.torch_weights import read_tensors; read_tensors(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        f"ValueError: {path} cannot be read: its pickle has a tuple in a place where no tensor has one." in done.stderr
    )


def test_tensors_that_share_their_numbers_take_no_more_memory_than_a_few_files(tmp_path):
    views = b"".join(atom(f"t{i}") + tensor(size=2**16, shape=(2**16,)) for i in range(2000))
    path = write(tmp_path / "x.pth", b"}(" + views + b"u", bytes(2**18))
    with pytest.raises(ValueError, match=r"its tensors have 524288000 bytes, and the file only \d+"):
        read_tensors(path)
    two = b"}(" + b"".join(atom(f"t{i}") + tensor(size=2**16, shape=(2**16,)) for i in range(2)) + b"u"
    assert (
        len(read_tensors(write(tmp_path / "y.pth", two, bytes(2**18)))) == 2
    )  # an output layer that is the input layer


def test_a_pickle_that_is_longer_than_any_is_refused(tmp_path):
    path = write(tmp_path / "x.pth", mapping(atom("a"), atom("x" * 2**21)))
    with pytest.raises(ValueError, match="its pickle has more than 2097152 bytes, as no state dict has"):
        read_tensors(path)


def test_a_file_that_was_compressed_is_refused(tmp_path):
    path = write(tmp_path / "x.pth", mapping(atom("a"), tensor()), bytes(2**24), method=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"it was packed anew, and `torch.save` does not compress"):
        read_tensors(path)


def test_sizes_of_a_stream_that_are_not_true(tmp_path):
    def stream(size: int, data: bytes = bytes(16)):
        values = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
        head = b"".join(pickle.dumps(value, protocol=2) for value in values)
        storage = tensor().replace(b"tQ", b"NtQ")
        body = b"\x80\x02" + mapping(atom("a"), storage) + b"." + pickle.dumps(["0"], protocol=2)
        (tmp_path / "x.pth").write_bytes(head + body + struct.pack("<q", size) + data)
        return tmp_path / "x.pth"

    np.testing.assert_array_equal(read_tensors(stream(4))["a"], np.zeros(4))
    for size in (-1, 0, 5, 2**62):
        with pytest.raises(ValueError, match=f"storage 0 has {size} numbers, expected 4"):
            read_tensors(stream(size))
    with pytest.raises(ValueError, match="storage 0 holds 3 numbers, expected 4"):
        read_tensors(stream(4, bytes(12)))


@pytest.mark.parametrize("layout", ["archive", "stream"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_protocols_of_torch_save(protocol, layout, tmp_path, monkeypatch):
    """With stand-ins under PyTorch's names, pickled by Python's own writer."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    def named(module, name):
        function = types.FunctionType((lambda *_: None).__code__, {}, name)
        function.__module__, function.__qualname__ = module.__name__, name
        setattr(module, name, function)
        return function

    storage_type = named(torch, "FloatStorage")
    rebuild, parameter = named(utils, "_rebuild_tensor_v2"), named(utils, "_rebuild_parameter")

    class Storage:
        def __init__(self, key: str, size: int) -> None:
            self.pid = ("storage", storage_type, key, "cpu", size) + (None,) * (layout == "stream")

    class Made:
        def __init__(self, function, *arguments) -> None:
            self.made = function, arguments

        def __reduce__(self):
            return self.made

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value.pid if isinstance(value, Storage) else None

    shared = Storage("0", 6)
    matrix = Made(rebuild, shared, 0, (2, 3), (3, 1), False, {})
    contents = {
        "matrix": matrix,
        "transposed": Made(rebuild, shared, 0, (3, 2), (1, 3), False, {}),
        "part": Made(rebuild, shared, 2, (2,), (1,), True, {}),
        "parameter": Made(parameter, matrix, True, {}),
        "scalar": Made(rebuild, shared, 5, (), (), False, {}),
        "epoch": 3,
        "rate": 0.5,
        "nested": {"state": {0: [1, (2, "x")]}, "names": ["é", None]},
    } | {f"more{i}": i for i in range(1500)}  # in several batches
    stream = io.BytesIO()
    Pickler(stream, protocol).dump(contents)
    numbers = np.arange(6, dtype=np.float32)
    path = tmp_path / "x.pth"
    if layout == "archive":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("x/data.pkl", stream.getvalue())
            file.writestr("x/data/0", numbers.tobytes())
    else:
        before = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
        pickles = [
            *(pickle.dumps(value, protocol) for value in before),
            stream.getvalue(),
            pickle.dumps(["0"], protocol),
        ]
        path.write_bytes(b"".join(pickles) + struct.pack("<q", numbers.size) + numbers.tobytes())
    tensors = read_tensors(path)
    expected = numbers.reshape(2, 3)
    assert sorted(tensors) == ["matrix", "parameter", "part", "scalar", "transposed"]
    np.testing.assert_array_equal(tensors["matrix"], expected)
    np.testing.assert_array_equal(tensors["parameter"], expected)
    np.testing.assert_array_equal(tensors["transposed"], expected.T)
    np.testing.assert_array_equal(tensors["part"], [2, 3])
    assert tensors["scalar"] == 5


def test_a_checkpoint_is_read_and_what_is_no_tensor_is_passed_over(tmp_path):
    """Objects of any class are neither made nor looked for; alone in a state dict they are refused as before."""
    numbers = np.arange(4, dtype="<f4")
    foreign = b"cos\nsystem\n(" + atom("touch executed") + b"tR"
    built = b"ctracker\nRunningMean\n)\x81}(" + atom("count") + atom(3) + b"ub"
    filled = b"ccollections\ndefaultdict\n(ctracker\nMean\ntR(" + atom("a") + atom(1) + b"u"
    appended = b"ctracker\nHistory\n)R(" + atom(1) + atom(2) + b"e"
    objects = b"".join(atom(str(number)) + item for number, item in enumerate((foreign, built, filled, appended)))
    content = b"}(" + atom("models") + b"}(" + atom("net") + mapping(atom("weight"), tensor()) + b"u" + objects + b"u"
    path = write(tmp_path / "x.pth", content, numbers.tobytes())
    read = read_tensors(path, nested=True)
    assert list(read) == ["models/net/weight"]
    np.testing.assert_array_equal(read["models/net/weight"], numbers)
    assert not (tmp_path / "executed").exists()
    assert read_tensors(path, lambda name: name.startswith("auxiliary/"), nested=True) == {}
    with pytest.raises(ValueError, match=r"asks for os\.system"):
        read_tensors(path)


def test_a_checkpoint_within_itself_ends(tmp_path):
    """A mapping that holds itself under many names would be visited without end."""
    inner = b"".join(atom(str(number)) + b"h\x05" for number in range(50))
    content = b"}q\x05(" + inner + atom("weight") + tensor() + b"u"
    path = write(tmp_path / "x.pth", content, np.ones(4, "<f4").tobytes())
    assert list(read_tensors(path, nested=True)) == ["weight"]


def test_long_names_of_nested_mappings_take_no_memory(tmp_path):
    """Each of 50,000 mappings would get a path that repeats the name above them."""
    children = b"".join(atom(number) + b"}K\0Ns" for number in range(50_000))
    path = write(tmp_path / "x.pth", mapping(atom("x" * 10_000), b"}(" + children + b"u"))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="its pickle has a name of more than 256 characters"):
            read_tensors(path, nested=True)
        assert tracemalloc.get_traced_memory()[1] < 2**27
    finally:
        tracemalloc.stop()


def test_tensors_of_unknown_types_in_a_checkpoint_are_passed_over(tmp_path):
    strange = tensor().replace(b"FloatStorage", b"ComplexFloatStorage")
    content = b"}(" + atom("strange") + strange + atom("weight") + tensor() + b"u"
    path = write(tmp_path / "x.pth", content, np.ones(4, "<f4").tobytes())
    assert list(read_tensors(path, nested=True)) == ["weight"]
    with pytest.raises(ValueError, match=r"asks for torch\.ComplexFloatStorage"):
        read_tensors(path)
