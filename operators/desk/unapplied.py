"""What of pool.toml the running pool does not run with."""

from __future__ import annotations

from collections.abc import Iterator

from broker.errors import ConfigError
from broker.settings import Settings
from operators import applied
from operators.desk.differences import Difference, differences
from operators.finding import Finding
from operators.supervisor import Supervisor


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


def check(settings: Settings) -> Iterator[Finding]:
    """For the doctor: an edit that was forgotten, or a reload that died halfway."""
    if not Supervisor(settings).is_running() or applied.carried_out(settings) is None:
        return
    keys = [one.key for one in compare(settings)]
    if keys:
        yield Finding(
            "warn", f"the pool runs with other settings than pool.toml: {', '.join(keys)}", "penstock config diff"
        )
    else:
        yield Finding("ok", "the pool runs with pool.toml as it stands")
