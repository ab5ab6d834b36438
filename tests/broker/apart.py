"""Jobs whose bodies stand apart, as tests submit them: bodies first, then the jobs, as a producer does."""

from __future__ import annotations

import os
from typing import Any

from broker import bodies, bodies_sweep, codec, keys
from broker.answer import Answer
from broker.bodies_recycled import NAME
from broker.bodies_store import BodyStore
from broker.connection import Link
from broker.messages import Kind
from tests.broker.actors import MODEL, Client, Sent, id_of

DATA = bytes(range(256)) * 400


def job(client: Client, data: bytes = DATA, *, token: str = "redis", name: str = "") -> tuple[bytes, dict[str, bytes]]:
    """A new job's bytes, and its body by name."""
    client._serial += 1
    id = f"{client.name}-{client._serial}"
    head, tail = codec.encode_job_head(
        kind=Kind.BYTES, rows=1, is_one_row=True, is_stored=True, retries=3, result_ttl_s=60, descriptor=b"", context={"a": 1},
        is_apart=True,
    )  # fmt: skip
    reference = bodies.encode(bodies.refer(token, name or id, data))
    return codec.encode_job(head, id.encode(), tail, reference), {name or id: data}


def send(client: Client, *jobs: tuple[bytes, dict[str, bytes]], token: str = "redis", **options: Any) -> Answer:
    """Writes the bodies and submits the jobs, as a producer does."""
    written = {name: body for _, one in jobs for name, body in one.items()} if token == "redis" else {}
    command = client.command([blob for blob, _ in jobs], token=token, lane=options.pop("lane", "normal"), **options)
    replies = client.link.call_all([*bodies_sweep.write(MODEL, written), command])
    if isinstance(replies[-1], Exception):
        raise replies[-1]
    return Answer.read(replies[-1])


def submit(client: Client, **options: Any) -> Sent:
    blob, body = job(client)
    answer = send(client, (blob, body), **options)
    assert (answer.code, answer.accepted) == ("ok", 1)
    return Sent(id_of(blob), 2, answer.entry(0), blob)


def left(link: Link, token: str = "redis") -> tuple[int, int]:
    """(bodies in Redis, names noted)."""
    return len(link.call("KEYS", keys.body(MODEL, "*"))), int(link.call("ZCARD", keys.bodies(MODEL, token)))


def lying(store: BodyStore) -> list[str]:
    """Names of the bodies in a folder, or under a file:// URL; not of files kept to be written over."""
    place: str = vars(store).get("_folder") or vars(store)["_root"]
    names = os.listdir(place) if os.path.isdir(place) else []
    return sorted(name for name in names if name != ".penstock" and not name.startswith(NAME))
