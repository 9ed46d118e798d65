"""Writes files in the format of `torch.save` without torch, honest ones and others."""

import io
import pickle
import zipfile
from dataclasses import dataclass

import ml_dtypes
import numpy as np

STORAGES = {
    np.dtype("f8"): "DoubleStorage",
    np.dtype("f4"): "FloatStorage",
    np.dtype("f2"): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype("i8"): "LongStorage",
    np.dtype("i4"): "IntStorage",
    np.dtype("?"): "BoolStorage",
}


@dataclass(eq=False)
class Name:
    """What the pickle shall import: "module name"."""

    text: str

    def __call__(self):
        raise AssertionError("only its name is written")


@dataclass(eq=False)
class Call:
    """A call of a name in the pickle; `state` of what it gives."""

    name: str
    arguments: tuple = ()
    state: object = None


@dataclass(eq=False)
class Id:
    """A persistent id."""

    value: object


class Pickler(pickle._Pickler):
    """Python's own, in which the three above are what they say."""

    dispatch = dict(pickle._Pickler.dispatch)

    def persistent_id(self, value):
        return value.value if isinstance(value, Id) else None

    def save_name(self, value):
        module, _, name = value.text.rpartition(" ")
        self.write(f"c{module}\n{name}\n".encode())

    def save_call(self, value):
        self.save_reduce(Name(value.name), value.arguments, value.state, obj=value)

    dispatch[Name] = save_name
    dispatch[Call] = save_call


def pickled(value, protocol=2):
    stream = io.BytesIO()
    Pickler(stream, protocol).dump(value)
    return stream.getvalue()


def storage(key, kind="FloatStorage", count=0):
    return Id(("storage", Name(f"torch {kind}"), key, "cpu", count))


def tensor(stored, shape, strides, offset=0):
    arguments = (stored, offset, shape, strides, False, Call("collections OrderedDict"))
    return Call("torch._utils _rebuild_tensor_v2", arguments)


def archive(path, content, members=(), folder="archive", **options):
    """A zip archive with `data.pkl` (bytes) and more members (name, bytes)."""
    with zipfile.ZipFile(path, "w", **options) as target:
        target.writestr(f"{folder}/data.pkl", content)
        for name, data in members:
            target.writestr(f"{folder}/{name}", data)
    return path


def save(path, tree, **options):
    """Dicts of dicts of arrays as `torch.save` would write them."""
    members = [("byteorder", b"little"), ("version", b"3\n")]

    def convert(value):
        if isinstance(value, dict):
            return {key: convert(part) for key, part in value.items()}
        if not isinstance(value, np.ndarray):
            return value
        key, flat = str(len(members) - 2), np.ascontiguousarray(value)
        members.append((f"data/{key}", flat.tobytes()))
        strides = tuple(int(s) // value.itemsize for s in flat.strides)
        stored = storage(key, STORAGES[value.dtype], value.size)
        return tensor(stored, value.shape, strides if value.ndim else ())

    content = pickled(convert(tree))
    return archive(path, content, members, **options)
