"""Each role has the rights that jobs with a body apart need, and the body remover of a slot; nothing of it is denied."""

from __future__ import annotations

from pathlib import Path

from broker import bodies_sweep
from broker.bodies_store import open_store
from broker.connection import Link
from broker.dead import DeadLetters, renew
from tests.broker.actors import MODEL, Client, Slot, publish
from tests.broker.apart import job, lying, send, submit
from tests.security.conftest import Guarded, Role
from workers.body_remover import BodyRemover


def test_a_body_in_redis_goes_its_whole_way_under_the_roles(guarded: Guarded, role: Role) -> None:
    # given
    worker, operator, producer = role("worker"), role("operator"), role("producer")
    publish(worker)
    client, slot = Client(producer), Slot(worker)
    # when
    submit(client)
    (claimed,) = slot.claim()
    assert claimed.body is not None
    assert claimed.body.fault(worker.call(*bodies_sweep.read(MODEL, claimed.body.name))) == ""
    slot.fail([claimed], "retry")
    slot.move()
    slot.settle(slot.claim())
    assert client.cancel(submit(client)) == 1
    send(client, job(client), dedupe=[("k", "same")])
    send(client, job(client), dedupe=[("k", "same")])
    assert client.send([job(client)[0]], token="redis").code == "no_body"
    slot.fail(slot.claim(), "dead")
    submit(client)
    slot.fail(slot.claim(), "dead")
    letters = DeadLetters(operator, MODEL)
    first, second = letters.page().letters
    found = letters.read(first.entry)
    assert found is not None
    letters.replay(first, "normal", renew(*found, "other-1"))
    assert letters.drop([second.entry]) == 1
    slot.settle(slot.claim())
    assert worker.call(*bodies_sweep.orphans(MODEL)) == 0
    for who in (worker, operator):
        assert Slot(who).sweep() == (0, 0, 0)
    # then
    assert guarded.denials() == []
    assert guarded.admin.call("KEYS", "penstock:*bod*") == []


def test_a_slots_body_remover_works_with_a_slots_rights(guarded: Guarded, role: Role, tmp_path: Path) -> None:
    # given
    worker = role("worker")
    publish(worker)
    store = open_store(str(tmp_path / "b"))
    assert store is not None
    client, slot = Client(role("producer")), Slot(worker)
    blob, written = job(client, token=store.token)
    client.link.call(*bodies_sweep.note(MODEL, store.token, ["never-1"]))
    store.write(written | {"never-1": b"queued"})
    send(client, (blob, {}), token=store.token)
    slot.settle(slot.claim())
    link = Link(guarded.url_of("worker"))
    link.connect()
    # when
    BodyRemover(model=MODEL, store=store, link=link).tick(0.0)
    link.close()
    # then
    assert lying(store) == ["never-1"]
    assert guarded.denials() == []
