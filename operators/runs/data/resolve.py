"""Which columns a mapping means, or the one line that says why it cannot be. Reads no rows."""

from __future__ import annotations

from math import prod

import pyarrow as pa

from broker.errors import RunError
from broker.settings import unknown
from broker.spec import ModelSpec, TensorSpec
from operators.runs.data.convert import is_number, is_text
from operators.runs.data.mapping import Mapping, expand

AS_TEXT = b"penstock.text"  # in a schema's metadata: tables hold text, the types are what it looks like
_RAW_NAMES = {"bytes": ("content",), "text": ("text", "content")}


def resolve(mapping: Mapping, schema: pa.Schema, spec: ModelSpec) -> tuple[dict[str, tuple[str, ...]], pa.Schema]:
    """(columns of each input, fields of the keys). For models that take bytes or text the one input is named so."""
    schema = _plain(schema)
    keys = _keys(mapping, schema)
    if spec.takes == "tensors":
        wanted = [tensor.name for tensor in spec.inputs]
        for name in mapping.inputs:
            if name not in wanted:
                raise RunError(f"mapping: model {spec.name!r}: {unknown('input', name, wanted)}")
        return {tensor.name: _tensor(mapping, schema, spec, tensor, keys) for tensor in spec.inputs}, keys
    return {spec.takes: (_raw(mapping, schema, spec, keys),)}, keys


def _plain(schema: pa.Schema) -> pa.Schema:
    """Dictionaries are a way of storing values, and no type of them."""
    kinds = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in schema]
    return pa.schema(
        [pa.field(name, kind) for name, kind in zip(schema.names, kinds, strict=True)], metadata=schema.metadata
    )


def _keys(mapping: Mapping, schema: pa.Schema) -> pa.Schema:
    names = mapping.keys or (("path",) if schema.names == ["path", "content"] else ())
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise RunError(f"key column {twice[0]!r} is named twice; name it once")
    is_written = AS_TEXT in (schema.metadata or {})
    fields = []
    for name in names:
        field = _field(schema, name, "key")
        # of numbers as text only whole ones come back as they were written
        as_text = is_written and not pa.types.is_integer(field.type)
        fields.append(pa.field(name, pa.string() if as_text or pa.types.is_null(field.type) else field.type))
    return pa.schema(fields)


def _tensor(
    mapping: Mapping, schema: pa.Schema, spec: ModelSpec, tensor: TensorSpec, keys: pa.Schema
) -> tuple[str, ...]:
    if tensor.name in mapping.inputs:
        columns = _named(mapping.inputs[tensor.name], schema, tensor.name, keys)
    elif tensor.name in schema.names:
        columns = (tensor.name,)
    elif len(spec.inputs) == 1:
        columns = _found(schema, spec, tensor, keys)
    else:
        raise RunError(
            f"input {tensor.name!r} of model {spec.name!r} has no column of its name; map it: {tensor.name}=COLUMN"
        )
    for name in columns:
        _check_type(_field(schema, name, f"input {tensor.name!r}:"), tensor, len(columns))
    _check_width(schema, tensor, columns)
    return columns


def _named(patterns: tuple[str, ...], schema: pa.Schema, what: str, keys: pa.Schema) -> tuple[str, ...]:
    columns = list[str]()
    for pattern in patterns:
        others = [name for name in schema.names if name not in keys.names]
        found = expand(pattern, schema.names if pattern in schema.names else others)
        if not found:
            raise RunError(f"mapping of input {what!r}: no column matches {pattern!r}; columns: {_some(schema.names)}")
        columns += found
    if not columns:
        raise RunError(f"mapping of input {what!r} names no column; write {what}=COLUMN")
    return tuple(columns)


def _found(schema: pa.Schema, spec: ModelSpec, tensor: TensorSpec, keys: pa.Schema) -> tuple[str, ...]:
    others = [field for field in schema if field.name not in keys.names]
    plain = [field.name for field in others if is_number(field.type)]
    lists = [field.name for field in others if _is_list(field.type)]
    values = prod(dim for dim in tensor.shape if isinstance(dim, int))
    varies = any(isinstance(dim, str) for dim in tensor.shape)
    if not varies and len(plain) == values:
        return tuple(plain)
    if len(lists) == 1:
        return (lists[0],)
    wanted = f"{values} values" if not varies else "a list column"
    raise RunError(
        f"input {tensor.name!r} of model {spec.name!r} takes {wanted} per row, and {len(plain)} numeric columns that are no "
        f"keys stand there: {_some(plain)}; name the key columns, or map it: {tensor.name}=COLUMN,COLUMN or {tensor.name}=f*"
    )


def _raw(mapping: Mapping, schema: pa.Schema, spec: ModelSpec, keys: pa.Schema) -> str:
    if len(mapping.inputs) > 1:
        raise RunError(f"mapping: model {spec.name!r} takes {spec.takes}, one column of it; name one input")
    for name, patterns in mapping.inputs.items():
        columns = _named(patterns, schema, name, keys)
        field = _field(schema, columns[0], f"input {name!r}:")
        if len(columns) > 1 or not (
            is_text(field.type) or pa.types.is_null(field.type) or AS_TEXT in (schema.metadata or {})
        ):
            raise RunError(
                f"mapping of input {name!r}: model {spec.name!r} takes {spec.takes}, "
                f"and {_some(list(columns))} is {field.type if len(columns) == 1 else 'several columns'}; name one column of {spec.takes}"
            )
        return columns[0]
    texts = [field.name for field in schema if is_text(field.type) and field.name not in keys.names]
    for name in (*_RAW_NAMES[spec.takes], *texts[: 1 if len(texts) == 1 else 0]):
        if name in texts:
            return str(_field(schema, name, "input").name)
    raise RunError(
        f"model {spec.name!r} takes {spec.takes}, and which column holds it is not clear among {_some(texts)}; "
        f"map it: {spec.takes}=COLUMN"
    )


def _field(schema: pa.Schema, name: str, what: str) -> pa.Field:
    places = schema.get_all_field_indices(name)
    if len(places) == 1:
        return schema.field(places[0])
    if places:
        raise RunError(
            f"mapping: {what} column {name!r} is {len(places)} times in the input; write it with distinct names"
        )
    raise RunError(f"mapping: {what} {unknown('column', name, schema.names)}")


def _check_type(field: pa.Field, tensor: TensorSpec, count: int) -> None:
    kind = field.type
    depth = 0
    while count == 1 and _is_list(kind):
        kind, depth = kind.value_type, depth + 1
    is_flag = pa.types.is_boolean(kind) or pa.types.is_null(kind)
    if not is_number(kind) or (tensor.dtype == "bool" and not is_flag):
        raise RunError(
            f"column {field.name!r} is {field.type}, and input {tensor.name!r} takes {tensor.dtype}; "
            "map a column of numbers, or convert it before"
        )
    varying = [place for place, dim in enumerate(tensor.shape) if isinstance(dim, str)]
    if depth and (depth > max(1, len(tensor.shape)) or len(varying) > 1 or any(varying)):
        raise RunError(
            f"column {field.name!r} is {field.type}, and input {tensor.name!r} takes {tensor.shape} per row, "
            "which lists in a column cannot give; only a first dimension may vary"
        )


def _check_width(schema: pa.Schema, tensor: TensorSpec, columns: tuple[str, ...]) -> None:
    known = prod(dim for dim in tensor.shape if isinstance(dim, int))
    varying = sum(isinstance(dim, str) for dim in tensor.shape)
    kind = schema.field(columns[0]).type
    width = len(columns)
    if width == 1 and _is_list(kind):
        if not pa.types.is_fixed_size_list(kind) or _is_list(kind.value_type):
            return  # known by its rows only
        width = kind.list_size
    if varying > 1 or (width % known if varying else width != known):
        shape = " x ".join(str(dim) for dim in tensor.shape) or "one value"
        raise RunError(
            f"input {tensor.name!r} takes {known} values per row ({shape}), and {_some(list(columns))} give {width}; "
            "map as many columns as the row has values"
        )


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        or types.is_list_view(kind) or types.is_large_list_view(kind)
    )  # fmt: skip


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:8]) or "none"
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"
