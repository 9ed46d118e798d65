"""A reader of `tf.train.Example` records: protobuf without TensorFlow.

The message is described here, as TensorFlow's `core/example/example.proto` has it.
`python benchmarks/libraries.py` compares it with a reader in plain Python.
"""

from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

Value = list[Any] | np.ndarray  # bytes, ints, or float32

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "vit_jax"  # a pool of our own: TensorFlow may register its "tensorflow"


class MalformedExample(ValueError):
    """The bytes are not a `tf.train.Example`."""


def _field(
    name: str, number: int, kind: str | int, label: int = _Field.LABEL_OPTIONAL
) -> dict[str, Any]:
    """A field of a scalar type, or of a message by its name."""
    typed = {"type": kind}
    if isinstance(kind, str):
        typed = {"type": _Field.TYPE_MESSAGE, "type_name": f".{_PACKAGE}.{kind}"}
    return {"name": name, "number": number, "label": label, **typed}


def _list(name: str, kind: int) -> dict[str, Any]:
    return {"name": name, "field": [_field("value", 1, kind, _Field.LABEL_REPEATED)]}


def _message_class() -> type[message.Message]:
    """The class of the messages."""
    entry = {
        "name": "FeatureEntry",
        "field": [_field("key", 1, _Field.TYPE_STRING), _field("value", 2, "Feature")],
        "options": {"map_entry": True},
    }
    features = _field("feature", 1, "Features.FeatureEntry", _Field.LABEL_REPEATED)
    kinds = [
        _field("bytes_list", 1, "BytesList") | {"oneof_index": 0},
        _field("float_list", 2, "FloatList") | {"oneof_index": 0},
        _field("int64_list", 3, "Int64List") | {"oneof_index": 0},
    ]
    messages: list[Any] = [  # as dicts, which its types do not know of
        _list("BytesList", _Field.TYPE_BYTES),
        _list("FloatList", _Field.TYPE_FLOAT),
        _list("Int64List", _Field.TYPE_INT64),
        {"name": "Feature", "field": kinds, "oneof_decl": [{"name": "kind"}]},
        {"name": "Features", "field": [features], "nested_type": [entry]},
        {"name": "Example", "field": [_field("features", 1, "Features")]},
    ]
    file = descriptor_pb2.FileDescriptorProto(
        name="vit_jax/data/example.proto",
        package=_PACKAGE,
        syntax="proto3",
        message_type=messages,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"{_PACKAGE}.Example")
    )


_Example: Any = _message_class()  # its fields are known when it is made


def parse(record: bytes, names: frozenset[str]) -> dict[str, Value]:
    """Returns the wanted features of one serialized `tf.train.Example`.

    Args:
        record: The serialized message.
        names: Features to return; the others are left aside.

    Returns:
        A list of bytes or ints, or a float32 array, for each wanted feature that is
        there.

    Raises:
        MalformedExample: the bytes break off or hold something else.
    """
    try:
        features = _Example.FromString(record).features.feature
    except message.DecodeError as error:
        raise MalformedExample(
            f"not a tf.train.Example ({len(record)} bytes)"
        ) from error
    found: dict[str, Value] = {}
    for name in names:
        if name not in features:  # asking a map for what it lacks would add it
            continue
        feature = features[name]
        kind = feature.WhichOneof("kind")
        if kind == "float_list":
            found[name] = np.array(feature.float_list.value, np.float32)
        elif kind is not None:
            found[name] = list(getattr(feature, kind).value)
    return found
