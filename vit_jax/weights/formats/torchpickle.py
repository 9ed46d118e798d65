"""Tensors and storages in the pickles of `torch.save`, as views that are not read yet.

A tensor is a call of `_rebuild_tensor_v2` on a storage, which is a persistent id
`("storage", class, key, device, elements)`; see PyTorch's `torch/_utils.py` and
`torch/serialization.py`.
"""

import re
from dataclasses import dataclass
from typing import IO, Any

import ml_dtypes
import numpy as np

from vit_jax import errors
from vit_jax.weights.formats import npz, unpickle

MAX_SIZE = 1 << 48
DTYPES: dict[str, np.dtype] = {
    "Double": np.dtype("<f8"),
    "Float": np.dtype("<f4"),
    "Half": np.dtype("<f2"),
    "BFloat16": np.dtype(ml_dtypes.bfloat16),
    "Long": np.dtype("<i8"),
    "Int": np.dtype("<i4"),
    "Short": np.dtype("<i2"),
    "Char": np.dtype("i1"),
    "Byte": np.dtype("u1"),
    "Bool": np.dtype("?"),
}
# Storages whose tensors are not read, and what takes how many bytes in one.
OTHERS = {"ComplexFloat": 8, "ComplexDouble": 16, "QInt8": 1, "QUInt8": 1, "QInt32": 4}


@dataclass(frozen=True, eq=False)
class Storage:
    """Bytes that tensors are views of; `dtype` is None where none of ours is in it."""

    key: str
    dtype: np.dtype | None
    name: str
    size: int


@dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage: offset and strides count elements."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """Elements from the first to the last."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides))


def load(stream: IO[bytes], storages: dict[str, Storage]) -> Any:
    """Reads one pickle: dicts, lists, text, numbers, `Tensor` and `unpickle.Unknown`.

    Args:
        stream: Left after the pickle.
        storages: Those that the tensors are views of are put here, by key.

    Raises:
        errors.UserError: a tensor that its storage does not hold.
        ValueError: and its like: a damaged pickle.
    """
    return unpickle.load(stream, BUILDERS, _persistent(storages))


def _is_size(value: Any) -> bool:
    number = isinstance(value, int) and not isinstance(value, bool)
    return number and 0 <= value < MAX_SIZE


def item_size(storage: Storage) -> int:
    """Returns the bytes of one element."""
    return OTHERS[storage.name] if storage.dtype is None else storage.dtype.itemsize


def _persistent(storages: dict[str, Storage]) -> Any:
    """A function from the id of a storage to it; collects all of them."""

    def of(persistent_id: Any) -> Any:
        if not isinstance(persistent_id, tuple) or not 5 <= len(persistent_id) <= 6:
            raise ValueError("its pickle refers to what is no storage")
        tag, kind, key, _, count, *view = persistent_id
        good = tag == "storage" and isinstance(kind, unpickle.Global)
        if not good or not isinstance(key, str) or not _is_size(count):
            raise ValueError("its pickle refers to what is no storage")
        found = re.fullmatch(r"torch\.(?:cuda\.|storage\.)?(\w+)Storage", kind.name)
        name = "Byte" if found and found[1] == "Untyped" else found and found[1]
        if name not in DTYPES and name not in OTHERS or view not in ([], [None]):
            raise errors.UserError(f"has a storage of an unknown kind, {kind.name}.")
        dtype = DTYPES.get(name)
        item = OTHERS[name] if dtype is None else dtype.itemsize
        storage = Storage(key, dtype, name, count * item)
        known = storages.setdefault(key, storage)
        if (known.name, known.size) != (storage.name, storage.size):
            raise errors.UserError(f"says two things of its storage {key[:50]!r}.")
        return known

    return of


def _tensor(arguments: tuple[Any, ...], dtype: np.dtype | None = None) -> Any:
    storage, offset, shape, strides = arguments[:4]
    if isinstance(storage, unpickle.Unknown):
        return storage
    if not isinstance(storage, Storage):
        raise ValueError("its pickle makes a tensor of what is no storage")
    if storage.dtype is None:
        return unpickle.Unknown(f"torch.{storage.name}Tensor")
    tuples = isinstance(shape, tuple) and isinstance(strides, tuple)
    if not tuples or not all(map(_is_size, (offset, *shape, *strides))):
        raise errors.UserError("has a tensor whose shape is no whole numbers.")
    if len(shape) != len(strides) or len(shape) > npz.MAX_AXES:
        raise errors.UserError(f"has a tensor of {len(shape)} axes.")
    tensor = Tensor(storage, dtype or storage.dtype, offset, shape, strides)
    end = (offset + tensor.span) * tensor.dtype.itemsize
    if end > storage.size:
        raise errors.UserError(
            f"has a tensor of shape {str(shape)[:60]} that ends at byte {end:,} of a "
            f"storage of {storage.size:,}: it is damaged."
        )
    return tensor


# torch's names of dtypes, for the tensors that say theirs themselves.
_TORCH_DTYPES = {
    "float64": "Double",
    "float32": "Float",
    "float16": "Half",
    "bfloat16": "BFloat16",
    "int64": "Long",
    "int32": "Int",
    "int16": "Short",
    "int8": "Char",
    "uint8": "Byte",
    "bool": "Bool",
}


def _tensor_of_dtype(arguments: tuple[Any, ...]) -> Any:
    dtype = arguments[6]
    name = dtype.name if isinstance(dtype, unpickle.Global) else "an unknown dtype"
    if name.removeprefix("torch.") not in _TORCH_DTYPES:
        return unpickle.Unknown(f"torch.Tensor of {name}")
    return _tensor(arguments, DTYPES[_TORCH_DTYPES[name.removeprefix("torch.")]])


def _of_type(arguments: tuple[Any, ...]) -> Any:
    """A tensor with attributes of its own, `(function, type, its arguments, state)`."""
    function, _, inner, _ = arguments
    known = isinstance(function, unpickle.Global) and function.name in BUILDERS
    if not known or not isinstance(inner, tuple) or function.name == _OF_TYPE:
        return unpickle.Unknown("torch.Tensor of its own type")
    return BUILDERS[function.name](inner)


def _ordered(arguments: tuple[Any, ...]) -> Any:
    """An OrderedDict: empty, or as Python 2 wrote it, of a list of pairs."""
    pairs = arguments[0] if arguments else []
    if not isinstance(pairs, list):
        return unpickle.Unknown("collections.OrderedDict")
    parts = [part for key, value in pairs for part in (key, value)]
    pairs.clear()  # Python 2 wrote it for this one; others may name it without end
    return unpickle.table(parts)


def _size(arguments: tuple[Any, ...]) -> Any:
    """A shape, of no more axes than an array has."""
    if not isinstance(arguments[0], list | tuple) or len(arguments[0]) > npz.MAX_AXES:
        return unpickle.Unknown("torch.Size")
    return tuple(arguments[0])


_OF_TYPE = "torch._tensor._rebuild_from_type_v2"
BUILDERS: dict[str, unpickle.Builder] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": lambda arguments: arguments[0],
    "torch._utils._rebuild_parameter_with_state": lambda arguments: arguments[0],
    _OF_TYPE: _of_type,
    "torch.Size": _size,
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": lambda arguments: {},
}
