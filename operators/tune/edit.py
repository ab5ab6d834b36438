"""Sets keys of one table in a TOML text and leaves every other byte as it is. Pure.

No TOML writer: a key's line is replaced, or put in below the table's last one. The result is read again and held against
what was meant; a file written in a way that this does not master is refused, not harmed.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from broker.errors import ConfigError

Value = int | float | str | list[int]
_HEADER = re.compile(r"\s*\[")


def written(value: Value) -> str:
    """A value as TOML has it."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def lines(table: str, values: Mapping[str, Value]) -> list[str]:
    """The table as one would type it."""
    return [f"[{table}]", *(f"{key} = {written(value)}" for key, value in values.items())]


def put(text: str, table: str, values: Mapping[str, Value], *, where: str) -> str:
    """`text` with these keys of [table] set. Raises ConfigError when that cannot be done by the line."""
    rows = text.splitlines(keepends=True)
    name = r"\s*\.\s*".join(_name(part) for part in table.split("."))
    header = re.compile(rf"\s*\[\s*{name}\s*\]\s*(#.*)?$")
    start = next((at for at, row in enumerate(rows) if header.match(row)), None)
    if start is None:
        gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
        after = text + gap + "\n".join(lines(table, values)) + "\n"
    else:
        end = next((at for at in range(start + 1, len(rows)) if _HEADER.match(rows[at])), len(rows))
        after = "".join(rows[:start]) + _set("".join(rows[start:end]), values) + "".join(rows[end:])
    _check(text, after, table, values, where)
    return after


def diff(before: str, after: str) -> list[str]:
    """The lines that went (-) and came (+), each table's below its header."""
    old, new = before.splitlines(), after.splitlines()
    found: list[str] = []
    under = ""
    for what, old_from, old_to, new_from, new_to in difflib.SequenceMatcher(
        None, old, new, autojunk=False
    ).get_opcodes():
        if what == "equal":
            continue
        header = next((row.strip() for row in reversed(new[:new_from]) if _HEADER.match(row)), "")
        if header != under:
            under = header
            found.append(f" {header}")
        found += [f"-{row}" for row in old[old_from:old_to]] + [f"+{row}" for row in new[new_from:new_to]]
    return found


def _set(section: str, values: Mapping[str, Value]) -> str:
    rows = section.splitlines(keepends=True)
    for key, value in values.items():
        own = re.compile(rf"(\s*{_name(key)}\s*=\s*)([^#\n]*?)(\s*(?:#.*)?)$")
        for at, row in enumerate(rows):
            if match := own.match(row.rstrip("\n")):
                rows[at] = f"{match[1]}{written(value)}{match[3]}\n"
                break
        else:
            last = max(
                at for at, row in enumerate(rows) if at == 0 or (row.strip() and not row.lstrip().startswith("#"))
            )
            rows[last] = rows[last].rstrip("\n") + "\n"
            rows.insert(last + 1, f"{key} = {written(value)}\n")
    return "".join(rows)


def _name(part: str) -> str:
    """A key, bare or in quotes."""
    return rf"(?:{re.escape(part)}|\"{re.escape(part)}\"|'{re.escape(part)}')"


def _check(before: str, after: str, table: str, values: Mapping[str, Value], where: str) -> None:
    """Whether the new text says what the old one did, and these keys besides."""
    wanted: dict[str, Any] = tomllib.loads(before)
    place = wanted
    for part in table.split("."):
        place = place.setdefault(part, {})
    place.update(values)
    try:
        have = tomllib.loads(after)
    except tomllib.TOMLDecodeError:
        have = {}
    if have != wanted:
        said = "; ".join(lines(table, values))
        raise ConfigError(f"{where}: [{table}] is written in a way that cannot be edited by the line; put in: {said}")
