"""Commands that write, read and remove bodies, and find those that nobody needs. No I/O here, as in `intake` and `queue`.

Outside Redis a body goes in two steps: the script that ends its job notes its name as due, a slot removes it and then the
note; who dies in between leaves work that is done again. Its name is noted before it is written, too: if no job is queued under
it within ORPHAN_MS it is due as well. Stores are never listed, so several pools may share one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from broker import keys
from broker.bodies import REDIS, TTL_MS, Body
from broker.connection import Command, evalsha
from broker.messages import LANES

ORPHAN_MS = 3_600_000  # no submit takes so long between its body and its job
RETRY_MS = 600_000  # until a body that could not be removed is due again
AT_ONCE = 500
_STORE = "store:"


def write(model: str, bodies: Mapping[str, Body]) -> list[Command]:
    """Writes bodies to Redis, to be sent in front of their jobs. NX: a submit that is sent again must not give a TTL to the body
    of a job that is queued already."""
    return [("SET", keys.body(model, name), body, "PX", TTL_MS, "NX") for name, body in bodies.items()]


def read(model: str, name: str) -> Command:
    """Reads a body from Redis."""
    return ("GET", keys.body(model, name))


def due(model: str, token: str, now_ms: int) -> Command:
    """Names of bodies outside Redis that may go, at Redis' time."""
    return ("ZRANGEBYSCORE", keys.bodies(model, token), -now_ms, "(0", "LIMIT", 0, AT_ONCE)


def removed(model: str, token: str, names: Sequence[str | bytes]) -> Command:
    """Takes the notes of bodies that are gone."""
    return ("ZREM", keys.bodies(model, token), *names)


def postponed(model: str, token: str, names: Sequence[bytes], now_ms: int) -> Command:
    """Makes bodies that could not be removed due again later, behind the others."""
    return ("ZADD", keys.bodies(model, token), "XX", *[part for name in names for part in (-now_ms - RETRY_MS, name)])


def note(model: str, token: str, names: Iterable[str]) -> Command:
    """Notes bodies about to be written outside Redis, so that they are found if their jobs are never queued. GT: one that waits
    for room longer than ORPHAN_MS is noted again and dated anew; that of a queued job stays."""
    return ("ZADD", keys.bodies(model, token), "GT", *[part for name in names for part in (0, name)])


def seen(model: str, token: str, location: str) -> Command:
    """Tells beside the spec that slots keep bodies in a store outside Redis, for whoever looks for what it still holds."""
    return ("HSET", keys.spec(model), _STORE + token, location)


def read_stores(spec: Sequence[bytes]) -> list[tuple[str, str]]:
    """(token, location) of all stores that were ever told so, of all fields of a spec."""
    fields = zip(spec[::2], spec[1::2], strict=True)
    return [
        (field.decode(errors="replace").removeprefix(_STORE), location.decode(errors="replace"))
        for field, location in fields
        if field.startswith(_STORE.encode())
    ]


def orphans(model: str, token: str = REDIS, *, orphan_ms: int = ORPHAN_MS) -> Command:
    """Frees bodies that no job names any more, and dates those noted and not queued; the reply is how many, -1 while the queue is too long to be read."""
    return evalsha(
        "orphans",
        [
            *(keys.lane(model, name) for name in LANES), keys.delayed_bodies(model), keys.dead_bodies(model),
            keys.bodies(model, REDIS), keys.bodies(model, token),
        ],
        [keys.of_model(model), orphan_ms],
    )  # fmt: skip
