"""What of pool.toml the running pool does not run with."""

from __future__ import annotations

from collections.abc import Iterator

from broker.errors import ConfigError
from broker.settings import Settings, load
from operators import applied
from operators.desk.differences import Difference, differences
from operators.finding import Finding
from operators.snapshot import Problem
from operators.supervisor import Supervisor

MEND = "penstock config diff"


def compare(settings: Settings) -> tuple[Difference, ...]:
    """pool.toml against what the running pool was given. Raises ConfigError where that is not known.

    After a reload that died halfway it may run with either: what differs from one of them is told.
    """
    whole = applied.carried_out(settings)
    if whole is None:
        raise ConfigError(
            "the running pool keeps no copy of its settings, an older version started it; `penstock down`, then `penstock up`"
        )
    found = {
        one.key: one for one in (*differences(applied.in_force(settings), settings), *differences(whole, settings))
    }
    return tuple(found.values())


def troubles(settings: Settings) -> Iterator[Problem]:
    """What is to be said of pool.toml beside a pool that is up: it is broken, an edit was forgotten, or a reload died halfway.

    The file is read anew: `settings` may be those in force. Raises ConfigError where the copy cannot be read.
    """
    if not settings.path or applied.is_as_the_file(settings) or applied.carried_out(settings) is None:
        return
    try:
        keys = [one.key for one in compare(load(settings.path))]
    except ConfigError as error:
        text = " ".join(str(error).split())
        yield Problem(
            "error", f"pool.toml is broken, the next `penstock up` would be refused: {text}",
            "mend it; `penstock config check` says when it is right",
        )  # fmt: skip
        return
    if keys:
        yield Problem("warning", f"the pool runs with other settings than pool.toml: {', '.join(keys)}", MEND)


def check(settings: Settings) -> Iterator[Finding]:
    """For the doctor."""
    if not Supervisor(settings).is_running() or applied.carried_out(settings) is None:
        return
    found = list(troubles(settings))
    for one in found:
        yield Finding("fail" if one.level == "error" else "warn", one.text, one.mend)
    if not found:
        yield Finding("ok", "the pool runs with pool.toml as it stands")
