"""Which logs there are in var/log, and whose. Names only; what stands in them is read in `tail` and understood in `lines`."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from broker.errors import ConfigError
from broker.settings import unknown

MANY = ("slot", "runs")  # programs of which there are several, each with a number
_NUMBERED = re.compile(r"(slot|runs)?[_ -]?(\d{1,4})")


class Log(msgspec.Struct, frozen=True, order=True):
    """One program's log. supervisord moves a full one to PATH.1, that one to PATH.2, and so on."""

    program: str  # as supervisord names it: slot_03, agent, redis, runs_00, supervisord
    path: Path

    def rotated(self) -> list[Path]:
        """Those before, newest first."""
        found = {
            int(path.suffix[1:]): path
            for path in self.path.parent.glob(self.path.name + ".*")
            if path.suffix[1:].isdigit()
        }
        return [found[number] for number in sorted(found)]


def logs(folder: Path) -> list[Log]:
    """All there are, by name; one that has just been moved away is there too."""
    names = {path.name for path in folder.glob("*.log")}
    names |= {path.name.removesuffix(".1") for path in folder.glob("*.log.1")}
    return sorted(Log(name.removesuffix(".log"), folder / name) for name in names)


def chosen(folder: Path, wanted: str) -> list[Log]:
    """Those of a program: `slot` (all of them), `3` or `slot_03` (one), `runs`, `agent`, `redis`, `supervisord`; '' is all.

    Raises ConfigError when there is none.
    """
    there = logs(folder)
    if not there:
        raise ConfigError(f"there are no logs in {folder}; `penstock up` starts the programs that write them")
    if not wanted:
        return there
    if wanted in MANY:
        return [log for log in there if log.program.startswith(f"{wanted}_")] or _none(wanted, there)
    name = wanted
    if numbered := _NUMBERED.fullmatch(wanted):
        name = f"{numbered[1] or 'slot'}_{int(numbered[2]):02d}"
    return [log for log in there if log.program == name] or _none(name, there)


def _none(name: str, there: list[Log]) -> list[Log]:
    raise ConfigError(unknown("log", name, [log.program for log in there]))
