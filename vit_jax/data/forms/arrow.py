"""What Arrow's tables say of their columns, and labels out of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.data.forms import labelling
from vit_jax.settings import documents

MISSING = "{what} wants {package}: pip install 'vit_jax[data]'"


def features(schema: Any) -> dict[str, Any]:
    """Returns what Hugging Face's datasets noted of the columns beside a schema."""
    noted = (schema.metadata or {}).get(b"huggingface")
    try:
        found = documents.parse(noted)["info"]["features"] if noted else {}
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _inner(feature: Any) -> Any:
    """The feature of a list's elements, else the feature."""
    if isinstance(feature, list) and len(feature) == 1:
        return feature[0]
    if isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
        return feature["feature"]
    return feature


def class_names(feature: Any) -> tuple[str, ...] | None:
    """Returns the names of a feature's classes, where it has any."""
    inner = _inner(feature)
    if isinstance(inner, dict) and inner.get("_type") == "ClassLabel":
        names = inner.get("names")
        texts = isinstance(names, list) and all(isinstance(n, str) for n in names)
        return tuple(names) if texts and names else None
    return None


def kinds(schema: Any, noted: Mapping[str, Any]) -> dict[str, str]:
    """Returns what each column can be, as `picking.choose` takes it.

    Args:
        schema: Arrow's.
        noted: From `features`.
    """
    found = {}
    for field in schema:
        feature = noted[field.name] if field.name in noted else None
        if isinstance(feature, dict) and feature.get("_type") == "Image":
            found[field.name] = "image"
        elif class_names(feature):
            found[field.name] = "classes"
        else:
            found[field.name] = _kind(field.type)
    return found


def _kind(kind: Any) -> str:
    from pyarrow import types

    if types.is_struct(kind):
        names = {kind.field(i).name for i in range(kind.num_fields)}
        return "image" if "bytes" in names else "other"
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "image"
    if _is_list(kind):
        inner = kind.value_type
        able = types.is_floating(inner) or types.is_boolean(inner) or _is_class(inner)
        return "label" if able else "other"
    return "label" if _is_class(kind) else "other"


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    lists = types.is_list, types.is_large_list, types.is_fixed_size_list
    return any(test(kind) for test in lists)


def _is_class(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    texts = types.is_string(kind), types.is_large_string(kind)
    return any(texts) or types.is_integer(kind)


def labels(column: Any, what: str) -> labelling.Raw:
    """Returns the labels of a column of numbers, texts, or lists of those.

    Args:
        column: A chunked array.
        what: Its name, for messages.

    Raises:
        errors.UserError: nulls, or values of another kind.
    """
    import pyarrow
    from pyarrow import types

    chunks = column.unify_dictionaries().chunks
    empty = pyarrow.array([], type=column.type)
    column = pyarrow.concat_arrays(chunks) if chunks else empty
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise errors.UserError(f"{what}: row {row} has no label")
    kind = column.type
    if not _is_list(kind):
        return labelling.Raw(_flat(column, what))
    inner = kind.value_type
    flat = column.flatten()
    if flat.null_count:
        raise errors.UserError(f"{what}: a list of labels with a null in it")
    if types.is_floating(inner) or types.is_boolean(inner):
        lengths = np.diff(_offsets(column))
        if len(set(lengths.tolist())) != 1:
            raise errors.UserError(
                f"{what}: vectors of {lengths.min()} to {lengths.max()} numbers; "
                "wanted one number for each class"
            )
        numbers = flat.to_numpy(zero_copy_only=False).astype(np.float32)
        return labelling.Raw(numbers.reshape(len(column), -1))
    return labelling.Raw(_flat(flat, what), _offsets(column))


def numbers(column: Any, what: str) -> labelling.Raw:
    """Returns a column of numbers, or of lists of as many, as labels of a regression.

    Args:
        column: A chunked array.
        what: Its name, for messages.

    Raises:
        errors.UserError: anything else.
    """
    return labelling.raw_numbers(column.to_pylist(), lambda row: f"{what}, row {row}")


def _offsets(column: Any) -> np.ndarray:
    from pyarrow import compute

    lengths = compute.call_function("list_value_length", [column])
    counts = lengths.to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _flat(column: Any, what: str) -> np.ndarray:
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not _is_class(column.type):
        raise errors.UserError(
            f"{what} holds {column.type}; wanted whole numbers, texts, or lists of them"
        )
    array = column.to_numpy(zero_copy_only=False)
    return array.astype(np.int64) if types.is_integer(column.type) else array
