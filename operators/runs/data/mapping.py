"""Which columns make which model input, which are kept as keys, and what the output holds. Knows no file and no model.

As TOML:                                    In words on a command line:
    keys = ["id"]                               keys    id
    outputs = "auto"                            outputs auto | raw | COLUMN=EXPRESSION
    [inputs]                                    inputs  features=f*  or  ids=tokens  or  x=a,b,c
    features = ["f*"]
"""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections.abc import Iterable, Sequence

import msgspec

from broker.errors import RunError
from broker.settings import unknown


class Mapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a run maps. JSON-able, and equal content encodes equally: it is part of a run's identity.

    `inputs`: model input -> columns or patterns such as `f*`, in natural order (f2 before f10); several columns are stacked
    to the row's shape, a list column gives the row. What is left out is found by name, see `bind`.
    `keys`: columns that are carried into the output. `outputs`: "auto", "raw", or {column: expression}, see `expressions`.
    """

    inputs: dict[str, tuple[str, ...]] = {}
    keys: tuple[str, ...] = ()
    outputs: str | dict[str, str] = "auto"


def parse(
    inputs: Iterable[str] = (), toml: str = "", *, keys: Iterable[str] = (), outputs: Iterable[str] = ()
) -> Mapping:
    """Words of a command line over the text of a TOML file; what words say replaces what the file says for the same thing.

    `inputs`: "INPUT=COLUMN[,COLUMN...]"; `keys`: column names, also with commas; `outputs`: "auto", "raw" or
    "COLUMN=EXPRESSION". Raises RunError naming the word or key that is wrong.
    """
    mapping = _from_toml(toml)
    named = dict(mapping.inputs)
    for text in inputs:
        name, sign, columns = text.partition("=")
        if not (sign and name.strip() and columns.strip(" ,")):
            raise RunError(f"mapping {text!r} is not understood; write INPUT=COLUMN, INPUT=A,B,C or INPUT=f*")
        named[name.strip()] = _listed(columns)
    kept = tuple(column for text in keys for column in _listed(text)) or mapping.keys
    if twice := [key for place, key in enumerate(kept) if key in kept[:place]]:
        raise RunError(f"key column {twice[0]!r} is named twice; name it once")
    return Mapping(named, kept, _outputs(list(outputs), mapping.outputs))


def expand(pattern: str, columns: Sequence[str]) -> list[str]:
    """The columns a name or pattern stands for, in natural order; a column of exactly that name comes before any pattern."""
    if pattern in columns or not any(letter in pattern for letter in "*?["):
        return [pattern]
    return sorted((name for name in columns if fnmatch.fnmatchcase(name, pattern)), key=natural)


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts f2 before f10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _from_toml(text: str) -> Mapping:
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RunError(f"the mapping is no TOML: {error}; see docs/runs.md") from None
    known = [field.name for field in msgspec.structs.fields(Mapping)]
    for key in raw:
        if key not in known:
            raise RunError(f"the mapping has an {unknown('key', key, known)}")
    inputs = raw.get("inputs")
    if isinstance(inputs, dict):
        raw["inputs"] = {name: [value] if isinstance(value, str) else value for name, value in inputs.items()}
    try:
        return msgspec.convert(raw, Mapping)
    except msgspec.ValidationError as error:
        raise RunError(f"the mapping is not understood: {error}; see docs/runs.md") from None


def _listed(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _outputs(words: list[str], before: str | dict[str, str]) -> str | dict[str, str]:
    if not words:
        chosen: str | dict[str, str] = before
    elif len(words) == 1 and "=" not in words[0]:
        chosen = words[0].strip()
    else:
        chosen = {}
        for word in words:
            column, sign, expression = word.partition("=")
            if not (sign and column.strip() and expression.strip()):
                raise RunError(f"output {word!r} is not understood; write auto, raw or COLUMN=EXPRESSION")
            chosen[column.strip()] = expression.strip()
    if isinstance(chosen, str) and chosen not in ("auto", "raw"):
        raise RunError(f"outputs {chosen!r} is not understood; write auto, raw or COLUMN=EXPRESSION")
    return chosen
