"""Names of bodies outside Redis: when they become due, and what a submit and a listing change about that."""

from __future__ import annotations

from broker import bodies_sweep
from broker.connection import Link
from tests.broker.actors import MODEL, Client, Slot, id_of
from tests.broker.apart import job, left, send


def test_a_body_outside_redis_is_noted_as_due_when_its_job_ended(client: Client, slot: Slot, link: Link) -> None:
    # given
    blob, _ = job(client, token="abc")
    assert send(client, (blob, {}), token="abc").code == "ok"
    seconds, micros = link.call("TIME")
    now_ms = int(seconds) * 1000 + int(micros) // 1000 + 10_000
    assert link.call(*bodies_sweep.due(MODEL, "abc", now_ms)) == []
    # when
    slot.settle(slot.claim())
    # then
    assert link.call(*bodies_sweep.due(MODEL, "abc", now_ms)) == [id_of(blob).encode()]
    assert link.call(*bodies_sweep.due(MODEL, "abc", now_ms - 60_000)) == []
    link.call(*bodies_sweep.removed(MODEL, "abc", [id_of(blob)]))
    assert left(link, "abc") == (0, 0)


def test_a_noted_body_is_due_after_its_time_unless_its_job_is_queued(client: Client, link: Link) -> None:
    # given
    queued, lost = job(client, token="abc")[0], "dead-1"
    link.call(*bodies_sweep.note(MODEL, "abc", [id_of(queued), lost]))
    far_ms = 10**14
    assert link.call(*bodies_sweep.due(MODEL, "abc", far_ms)) == []
    link.call(*bodies_sweep.orphans(MODEL, "abc"))
    assert len(link.call(*bodies_sweep.due(MODEL, "abc", far_ms))) == 2
    # when
    send(client, (queued, {}), token="abc")
    link.call(*bodies_sweep.note(MODEL, "abc", [id_of(queued)]))
    link.call(*bodies_sweep.orphans(MODEL, "abc"))
    # then
    assert link.call(*bodies_sweep.due(MODEL, "abc", far_ms)) == [lost.encode()]
    seconds, _ = link.call("TIME")
    assert link.call(*bodies_sweep.due(MODEL, "abc", int(seconds) * 1000 + bodies_sweep.ORPHAN_MS - 60_000)) == []
