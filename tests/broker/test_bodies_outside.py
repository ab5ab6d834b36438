"""Names of bodies: when those outside Redis become due, what a submit and a sweep change about that, and how long lists are swept."""

from __future__ import annotations

from broker import bodies_sweep, keys
from broker.connection import Link
from tests.broker.actors import MODEL, Client, Slot, id_of
from tests.broker.apart import job, left, send
from tests.wait import wait_until


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


def test_a_body_whose_submit_waits_for_room_longer_than_that_is_dated_anew(client: Client, link: Link) -> None:
    # given
    queued, waits = job(client, token="abc")[0], "slow-1"
    send(client, (queued, {}), token="abc")
    link.call(*bodies_sweep.note(MODEL, "abc", [waits]))
    link.call(*bodies_sweep.orphans(MODEL, "abc"))
    assert link.call("ZSCORE", keys.bodies(MODEL, "abc"), waits).startswith(b"-")
    taken_in = link.call("ZSCORE", keys.bodies(MODEL, "abc"), id_of(queued))
    # when
    link.call(*bodies_sweep.note(MODEL, "abc", [waits, id_of(queued)]))
    # then
    assert link.call(*bodies_sweep.due(MODEL, "abc", 10**14)) == []
    assert link.call("ZSCORE", keys.bodies(MODEL, "abc"), waits) == b"0"
    assert link.call("ZSCORE", keys.bodies(MODEL, "abc"), id_of(queued)) == taken_in


def test_a_body_that_no_job_names_is_swept_behind_many_of_jobs_that_live(link: Link, client: Client) -> None:
    # given: old dead letters' bodies, more than one sweep looks at, and one that was lost later
    living = [part for at in range(1000) for part in (at + 1, f"live-{at}")]
    link.call("ZADD", keys.bodies(MODEL, "redis"), *living, 5000, "lost-1")
    link.call(
        "ZADD", keys.dead_bodies(MODEL), *[part for at in range(1000) for part in (at, f"{at}-0 redis live-{at}")]
    )
    # when
    wait_until(lambda: link.call(*bodies_sweep.orphans(MODEL)) == 1, "it is freed")
    # then
    assert link.call("ZSCORE", keys.bodies(MODEL, "redis"), "lost-1") is None
    assert link.call("ZCARD", keys.bodies(MODEL, "redis")) == 1000
