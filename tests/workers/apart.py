"""Jobs for the doubler whose bodies stand apart, as a producer submits them: bodies first, then the jobs."""

from __future__ import annotations

from typing import Any

import numpy as np

from broker import bodies, bodies_sweep, codec
from broker.answer import Answer
from broker.bodies_store import BodyStore
from broker.messages import Kind
from tests.workers.fakes import MODEL, Client


def submit(
    client: Client,
    *values: float,
    store: BodyStore | None = None,
    is_written: bool = True,
    retries: int = 0,
    **options: Any,
) -> list[str]:
    """One job of four floats per value, its body apart; the ids."""
    token = "redis" if store is None else store.token
    blobs, written = [], {}
    columns = codec.pack_columns([("x", "float32", (4,))])
    for value in values:
        client._number += 1
        id = f"{client.intake.client}-{client._number}"
        written[id] = np.full(4, value, "float32").tobytes()
        head, tail = codec.encode_job_head(
            kind=Kind.TENSORS, rows=1, is_one_row=True, is_stored=True, retries=retries, result_ttl_s=60, descriptor=columns,
            context=None, is_apart=True,
        )  # fmt: skip
        blobs.append(codec.encode_job(head, id.encode(), tail, bodies.encode(bodies.refer(token, id, written[id]))))
    if store is not None and is_written:
        store.write(written)
    commands = bodies_sweep.write(MODEL, written) if store is None else []
    number = client.intake.numbers.take()
    command = client.intake.submit(number, "-1", blobs, lane=2, token=token, **options)
    answer = Answer.read(client.link.call_all([*commands, command])[-1])
    client.intake.numbers.answered(number)
    assert answer.code == "ok"
    return list(written)
