"""Several files with one schema, or a reason why not. Reads nothing."""

from __future__ import annotations

import pyarrow as pa

from broker.errors import RunError


class Agreement:
    """The schema of all files so far: the first one's columns, and types that hold every file's values."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._first = ""
        self.schema: pa.Schema = pa.schema([])

    def add(self, path: str, schema: pa.Schema) -> None:
        """Raises RunError naming the file and the column when `schema` does not fit those before."""
        plain = pa.schema([pa.field(field.name, field.type) for field in schema])
        if not self._first:
            self._first, self.schema = path, plain
            return
        if plain.equals(self.schema):
            return
        fields = []
        for field in self.schema:
            if field.name not in plain.names:
                raise RunError(
                    f"input {path} has no column {field.name!r}, and {self._first} has; "
                    "give files of one sort, for instance with a glob"
                )
            fields.append(self._unified(path, field, plain.field(field.name)))
        self.schema = pa.schema(fields)

    def _unified(self, path: str, known: pa.Field, other: pa.Field) -> pa.Field:
        try:
            return pa.unify_schemas([pa.schema([known]), pa.schema([other])], promote_options="permissive").field(0)
        except pa.ArrowException:
            raise RunError(
                f"input {path} has column {known.name!r} as {other.type}, {self._first} as {known.type}; "
                "give files of one sort, for instance with a glob"
            ) from None
