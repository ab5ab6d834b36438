"""What differs between two pool.toml, key by key, and what it takes to apply each difference. Pure: settings in, values out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from broker.address import safe_url
from broker.settings import Settings

# down: only `penstock down` and `up`.  slots: a restart of the slots it concerns.  scale: slots come or go.  agent, runs: a restart
# of that program.  later: commands and programs take it up by themselves.
Effect = Literal["down", "slots", "scale", "agent", "runs", "later"]

# What supervisord was started with, what every key in Redis is named by, or where queued jobs lie.
FIXED: Mapping[str, frozenset[str]] = {
    "redis": frozenset({"url", "max_memory_mb", "fsync"}),
    "pool": frozenset({"var_dir", "most_slots", "host"}),
    "slot": frozenset({"drain_s"}),
    "queue": frozenset({"bodies"}),
    "runs": frozenset({"workers"}),
}
TABLES: Mapping[str, Effect] = {
    "redis": "later", "pool": "slots", "slot": "slots", "retire": "slots", "queue": "slots", "runs": "runs", "schedules": "runs",
}  # fmt: skip
OF_MODEL: Mapping[str, Effect] = {"slots": "scale", "autoscale": "agent"}  # all else: slots


class Difference(msgspec.Struct, frozen=True):
    """One key. None stands for a table that is not there. `models` are those whose slots it concerns; passwords are masked."""

    key: str
    was: Any
    now: Any
    effect: Effect
    models: tuple[str, ...] = ()

    def line(self) -> str:
        """`slot.lease_s: 15.0 -> 20.0  (restarts the slots of mlp)`."""
        what = f"{self.key}: {shown(self.was)} -> {shown(self.now)}"
        if shown(self.was) == shown(self.now):
            what = f"{self.key}: {shown(self.now)}, changed in what is hidden here"
        elif self.was is None:
            what = f"{self.key}: new"
        elif self.now is None:
            what = f"{self.key}: removed"
        of = ", ".join(self.models)
        told = {
            "down": "needs `penstock down` and `up`", "later": "no restart",
            "slots": f"restarts the slots of {of}" if of else "concerns no model",
            "scale": f"slots of {of} come or go", "agent": "restarts the agent", "runs": "restarts the runs program",
        }  # fmt: skip
        return f"{what}  ({told[self.effect]})"


def differences(was: Settings, now: Settings) -> tuple[Difference, ...]:
    """In the file's order of tables."""
    return tuple(_found(was, now))


def shown(value: Any) -> str:
    """As pool.toml writes it."""
    return msgspec.json.encode(masked(value)).decode()


def masked(value: Any) -> Any:
    """Plain values without the passwords of URLs, at any depth."""
    if isinstance(value, Mapping):
        return {name: masked(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(inner) for inner in value]
    return safe_url(value) if isinstance(value, str) and "://" in value else value


def plain(settings: Settings) -> dict[str, Any]:
    """Table -> key -> value, passwords masked, without where the file lies."""
    found: dict[str, Any] = masked(msgspec.to_builtins(settings))
    del found["path"], found["root"]
    return found


def _found(was: Settings, now: Settings) -> Iterator[Difference]:
    old, new = msgspec.to_builtins(was), msgspec.to_builtins(now)
    for table in TABLES:
        if table == "schedules":
            continue
        for key in new[table]:
            if old[table][key] != new[table][key]:
                effect: Effect = "down" if key in FIXED.get(table, ()) else TABLES[table]
                models = _concerned(was, now, table) if effect == "slots" else ()
                yield _difference(f"{table}.{key}", old[table][key], new[table][key], effect, models)
    for name in [*old["models"], *(name for name in new["models"] if name not in old["models"])]:
        yield from _of_model(name, old["models"].get(name), new["models"].get(name))
    for name in [*old["schedules"], *(name for name in new["schedules"] if name not in old["schedules"])]:
        before, after = old["schedules"].get(name), new["schedules"].get(name)
        if before != after:
            yield _difference(f"schedules.{name}", before, after, "runs")


def _of_model(name: str, old: dict[str, Any] | None, new: dict[str, Any] | None) -> Iterator[Difference]:
    if old is None or new is None:
        yield _difference(f"models.{name}", old, new, "scale", (name,))
        return
    for key in new:
        if old[key] != new[key]:
            effect = OF_MODEL.get(key, "slots")
            yield _difference(f"models.{name}.{key}", old[key], new[key], effect, (name,))


def _concerned(was: Settings, now: Settings, table: str) -> tuple[str, ...]:
    """Models served before and after; of a change in [retire] those that have not overridden it."""
    kept = [name for name in was.models if name in now.models]
    return tuple(name for name in kept if table != "retire" or was.retire_of(name) != now.retire_of(name))


def _difference(key: str, was: Any, now: Any, effect: Effect, models: tuple[str, ...] = ()) -> Difference:
    return Difference(key, masked(was), masked(now), effect, models)
