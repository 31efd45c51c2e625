"""PyTorch's pickles written byte by byte: protocol 2, storages as persistent ids."""

import pickle


def atom(value):
    """Opcodes that push a plain value."""
    return pickle.dumps(value, protocol=2)[2:-1]


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def tensor(array, key, stream, offset=0, strides=None):
    strides = strides or tuple(step // array.itemsize for step in array.strides)
    kind = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}[array.dtype.name]
    view = atom(None) if stream else b""
    storage = b"(" + atom("storage") + name("torch", kind) + atom(key) + atom("cpu") + atom(array.size) + view + b"tQ"
    view = storage + atom(offset) + atom(array.shape) + atom(strides)
    if stream:  # as in torchvision's vgg16-397923af.pth
        return name("torch._utils", "_rebuild_tensor") + b"(" + view + b"tR"
    hooks = name("collections", "OrderedDict") + b")R"
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + view + b"\x89" + hooks + b"tR"


def mapping(entries):
    """A dict of values that are opcodes already."""
    return b"}(" + b"".join(atom(key) + value for key, value in entries.items()) + b"u"
