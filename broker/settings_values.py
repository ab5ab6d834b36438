"""What the keys of pool.toml may hold: kinds in words an operator knows, and the values that cannot be right. Pure."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args, get_origin

import msgspec

from broker.errors import ConfigError

# Where 0 is no switch but a mistake; all other numbers may be 0, none may be negative.
ABOVE_ZERO = {
    "redis": ("connect_s",),
    "pool": ("most_slots",),
    "slot": ("lease_s", "beat_s", "block_ms", "load_timeout_s", "hang_floor_s", "threads"),
    "retire": ("sample_every_s", "samples"),
    "queue": ("max_jobs", "max_bytes", "payload_limit_bytes"),
    "runs": ("slice_s", "window_bytes"),
    "autoscale": ("target_s",),
}
NAMES_A_FILE = {"pool": ("var_dir", "trusted"), "schedules": ("input", "output")}
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text in quotes"}


def check(table: str, where: str, key: str, value: Any, kind: Any) -> None:
    """Raises ConfigError when `key = value` of the table cannot be right. `where` names file and table."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise wrong(where, key, value, _wish(kind)) from None
    if kind == tuple[int, ...] and (value != sorted(set(value)) or min(value, default=1) < 1):
        raise wrong(where, key, value, "sizes that ascend from 1 or more")
    if isinstance(value, bool) or not isinstance(value, int | float):
        if value == "" and key in NAMES_A_FILE.get(table, ()):
            raise wrong(where, key, value, "a path; leave the key out for the default")
        return
    if not math.isfinite(value):
        raise wrong(where, key, value, "a finite number")
    if key in ABOVE_ZERO.get(table, ()) and value <= 0:
        raise wrong(where, key, value, "above 0")
    if value < 0:
        raise wrong(where, key, value, "0 or more")


def require_table(where: str, name: str, value: Any, *, example: str = "") -> None:
    """Raises ConfigError for a number where a table belongs, and for [[name]], which is a list of them."""
    if not isinstance(value, dict):
        said = (
            f"[[{name}]] is a list of tables" if isinstance(value, list) else f"{name} = {written(value)} is no table"
        )
        raise ConfigError(f"{where}: {said}; write [{example or name}], and its keys below")


def wrong(where: str, key: str, value: Any, wish: str) -> ConfigError:
    """The error of one key."""
    return ConfigError(f"{where}: {key} = {written(value)} must be {wish}")


def written(value: Any) -> str:
    """A value as TOML has it, cut where it is long; of a table nothing, nor of a list of texts: it may hold a password."""
    if isinstance(value, list | dict) and not _holds_numbers(value):
        return "[...]" if isinstance(value, list) else "{...}"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, str):
        text = f'"{value}"'
    return text if len(text) <= 60 else text[:59] + "…"


def _holds_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, int | float) for one in value)


def _wish(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(written(one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return "a list of texts in quotes" if kind == tuple[str, ...] else "a list of whole numbers"
    return KINDS.get(kind, "a table")
