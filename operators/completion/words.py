"""Words a shell offers: models, slots, runs, programs with a log. Cheap, and never an error: what cannot be had is not offered."""

from __future__ import annotations

from broker.errors import PenstockError
from broker.settings import Settings, load

RUNS_WITHIN_S = 0.5  # a Tab that takes longer is worse than none


def models(config: str | None) -> list[str]:
    """Of pool.toml: Redis is not asked, which would take as long as the command."""
    settings = _settings(config)
    return sorted(settings.models) if settings else []


def slots(config: str | None) -> list[str]:
    """Numbers of the slots this host may run; those that ever wrote a log, where there are any."""
    settings = _settings(config)
    if settings is None:
        return []
    logs = sorted(path.name[5:-4] for path in (settings.var / "log").glob("slot_*.log"))
    return [str(int(number)) for number in logs if number.isdigit()] or [
        str(number) for number in range(settings.pool.most_slots)
    ]


def programs(config: str | None) -> list[str]:
    """What `penstock logs` takes."""
    from operators.logs.files import MANY, logs

    settings = _settings(config)
    there = [log.program for log in logs(settings.var / "log")] if settings else []
    many = [kind for kind in MANY if any(name.startswith(f"{kind}_") for name in there)]
    return [*many, *there]


def runs(config: str | None) -> list[str]:
    """Ids of the newest runs: of these only Redis knows."""
    from broker import keys
    from broker.connection import LOST, Link, ResponseError

    settings = _settings(config)
    if settings is None:
        return []
    try:
        link = Link(settings.redis_url_as("monitor"), read_timeout_s=RUNS_WITHIN_S, has_scripts=False)
        link.connect()
        try:
            found = link.call("ZRANGE", keys.runs(), -50, -1)
        finally:
            link.close()
    except (*LOST, PenstockError, ResponseError):
        return []
    return [name.decode() for name in reversed(found)]


def _settings(config: str | None) -> Settings | None:
    try:
        return load(config)
    except PenstockError:
        return None
