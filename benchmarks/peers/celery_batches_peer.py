"""celery-batches on Celery, at its fastest: Redis as broker and result back end over a unix socket, a solo pool, no gossip.

Prefetch is unlimited, as celery-batches' documentation asks for, so that up to 256 jobs share a forward; a batch that does not
fill is flushed after a millisecond. Bodies are pickled bytes. Results arrive by the back end's own publish and subscribe, and
are asked for one after another: `ResultSet.join_native` sleeps for half a second and was five times slower for 64 jobs.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from celery import Celery
from celery.result import AsyncResult
from celery.signals import celeryd_init
from celery_batches import Batches

from benchmarks.peers.model import Model
from benchmarks.peers.orders import serve

AT_ONCE = 256
FLUSH_S = 0.001
WITHIN_S = 60
_models: list[Model] = []  # the worker's

_path = os.environ["PEER_URL"].removeprefix("unix://")
app = Celery("peer", broker=f"redis+socket://{_path}", backend=f"redis+socket://{_path}")
app.conf.update(
    task_serializer="pickle", result_serializer="pickle", accept_content=["pickle"], worker_prefetch_multiplier=0,
    task_track_started=False, task_send_sent_event=False, worker_send_task_events=False, result_expires=60,
    worker_hijack_root_logger=False, broker_connection_retry_on_startup=True, task_compression=None,
)  # fmt: skip


@celeryd_init.connect
def _load(**_: Any) -> None:
    _models.append(Model(os.environ["PEER_MODEL"]))


@app.task(base=Batches, flush_every=AT_ONCE, flush_interval=FLUSH_S, name="infer", ignore_result=False)
def infer(requests: list[Any]) -> None:
    """One forward over what has come; the results are written one by one, which is how celery-batches does it."""
    answers = _models[0]([request.args[0] for request in requests])
    for request, answer in zip(requests, answers, strict=True):
        app.backend.mark_as_done(request.id, answer, request=request)


class CeleryClient:
    """Publishes and waits."""

    def flood(self, rows: list[bytes]) -> None:
        for result in self._publish(rows):
            result.get(timeout=WITHIN_S)

    def one(self, row: bytes) -> None:
        infer.apply_async((row,)).get(timeout=WITHIN_S)

    def in_flight(self, rows: list[bytes], width: int) -> list[float]:
        took_s: list[float] = []
        for at in range(0, len(rows), width):
            began = time.perf_counter()
            for result in self._publish(rows[at : at + width]):
                result.get(timeout=WITHIN_S)
                took_s.append(time.perf_counter() - began)
        return took_s

    def _publish(self, rows: list[bytes]) -> list[AsyncResult]:
        with app.producer_or_acquire() as producer:
            return [infer.apply_async((row,), producer=producer) for row in rows]


def work() -> None:
    """The worker, until SIGTERM."""
    app.worker_main([
        "worker", "--pool=solo", "--concurrency=1", "--loglevel=ERROR", "--without-gossip", "--without-mingle",
        "--without-heartbeat",
    ])  # fmt: skip


if __name__ == "__main__":
    from benchmarks.peers import celery_batches_peer  # under its own name, as in the worker

    if sys.argv[1] == "worker":
        celery_batches_peer.work()
    else:
        serve(celery_batches=celery_batches_peer.CeleryClient())
