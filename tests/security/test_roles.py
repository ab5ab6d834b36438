"""Each role can do its work through the rights configs/redis.acl gives it: the real programs, and no denial in the server's log."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from broker import acl, paused, roster
from broker.errors import JobCancelled
from broker.messages import LANES
from broker.paused import Pause
from broker.roster import Assignment
from broker.settings import Settings
from broker.settings_tables import RedisSettings
from broker.spec import Limits
from operators import doctor, status
from producer import AsyncProducer, Producer
from tests import models
from tests.broker.actors import MODEL, Client, Slot, publish
from tests.security.conftest import Guarded, Role
from tests.wait import wait_until
from workers.exits import Exit
from workers.life import Life


@pytest.fixture
def life(guarded: Guarded, role: Role, tmp_path: Path) -> Life:
    """A slot that connects as the worker, assigned the mlp model by the operator."""
    artifact = models.mlp(tmp_path / "mlp")
    operator = role("operator")
    roster.want(operator, "h", "mlp", 1)
    roster.assign(operator, "h", 0, Assignment("mlp", str(artifact.folder)))
    raw: dict[str, Any] = {
        "redis": {"url": guarded.url_of("worker")}, "slot": {"block_ms": 50, "beat_s": 0.1, "lease_s": 0.3},
        "pool": {"var_dir": str(tmp_path / "var"), "host": "h"}, "models": {"mlp": {"artifact": str(artifact.folder)}},
        "retire": {"max_jobs": 60, "jitter": 0, "min_life_s": 0, "min_life_loads": 0},
    }  # fmt: skip
    return Life(msgspec.convert(raw, Settings), 0, is_inline=True)


def test_a_slot_and_producers_work_through_their_roles_from_the_first_job_to_the_last(
    life: Life, guarded: Guarded, role: Role
) -> None:
    # given
    ends: list[Exit] = []
    thread = threading.Thread(target=lambda: ends.append(life.live()))
    thread.start()
    monitor = role("monitor")
    try:
        wait_until(lambda: roster.ready(monitor, "mlp"), "the slot is ready", timeout=20)
        x = np.zeros((20, 64), np.float32)
        # when producers of both kinds do all they can
        with Producer(guarded.url) as plain, Producer(guarded.url_of("producer")) as named:
            later = plain.submit("mlp", x[0], delay_s=60)
            assert later.cancel()
            with pytest.raises(JobCancelled):
                later.result(5)
            assert named.submit("mlp", x[0], delay_s=0.05, idempotency_key="a").result(20).id
            for handle in plain.submit_many("mlp", list(x)):
                handle.result(20)
            first = plain.submit("mlp", x[:5], lane="high", deadline_s=30)
            assert named.result(first.id, timeout=20).outputs["logits"].shape == (5, 2)  # watches another client's job
            big = named.submit("mlp", np.zeros((200, 64), np.float32))
            assert big.result(20).outputs["logits"].shape == (200, 2)
            for handle in named.submit_many("mlp", list(x) + list(x)):  # past max_jobs: the slot retires
                if thread.is_alive():
                    handle.status()
        # then the slot has done its work and left as it should
        thread.join(20)
        assert ends == [Exit.MAX_JOBS]
    finally:
        life.stop()
        thread.join(20)
    assert guarded.denials() == []


def test_the_asyncio_producer_works_as_the_default_user(life: Life, guarded: Guarded, role: Role) -> None:
    import asyncio

    thread = threading.Thread(target=life.live)
    thread.start()
    monitor = role("monitor")
    try:
        wait_until(lambda: roster.ready(monitor, "mlp"), "the slot is ready", timeout=20)

        async def ask() -> None:
            async with AsyncProducer(guarded.url) as producer:
                assert (await producer.infer("mlp", np.zeros((3, 64), np.float32), 20)).outputs["logits"].shape == (
                    3,
                    2,
                )
                handle = await producer.submit("mlp", np.zeros(64, np.float32), delay_s=60)
                assert await handle.cancel()

        asyncio.run(ask())
    finally:
        life.stop()
        thread.join(20)
    assert guarded.denials() == []


def test_the_ends_a_job_can_have_all_pass_with_the_workers_rights(guarded: Guarded, role: Role) -> None:
    # given
    producer, worker = role("producer"), role("worker")
    publish(worker)
    client, slot = Client(producer), Slot(worker)
    sent = client.submit(8) + client.submit(1, deadline_ms=1) + client.submit(1, delay_ms=1)
    # when
    queue = slot.queue
    wait_until(lambda: worker.call(*queue.move()) == 1, "the delayed job is due")
    jobs = slot.claim()
    assert len(jobs) == 9, "one has expired"
    assert (
        slot.fail(jobs[:1], "retry", delay_ms=1) == slot.fail(jobs[1:2], "failed") == slot.fail(jobs[2:3], "dead") == 1
    )
    slot.give_back(jobs[3:5])
    assert len(slot.claim()) >= 2
    assert client.cancel(sent[5]) == 1
    assert slot.settle(jobs[6:8]) == 2
    for command in (
        *queue.pending(), queue.pulse("box/0", [(1, jobs[8].entry)], ready_ms=1000, failing_ms=1, frees_place=True),
        queue.sweep(lease_ms=0), queue.ask_to_retire("box/0", place_ttl_ms=100), queue.reclaim(5), queue.block(5, 10),
        queue.read(1, 5), roster.announce("box/0", {"state": "ready"}),
    ):  # fmt: skip
        worker.call(*command)
    assert queue.consumers(worker) == {"box/0.1"}
    queue.take_over(worker, ["box/0.1"], marks=1)
    roster.record_exit(worker, "box/0", "drained", "", 3)
    assert client.replies()
    # then
    assert guarded.denials() == []


def test_the_operators_and_the_monitors_paths_pass(guarded: Guarded, role: Role, tmp_path: Path) -> None:
    operator = role("operator")
    publish(role("worker"))
    client, slot = Client(role("producer")), Slot(role("worker"))
    client.submit(3)
    slot.fail(slot.claim(1), "dead")
    roster.assign(operator, "box", 0, Assignment(MODEL, "/nowhere"))
    roster.want(operator, "box", MODEL, 1)
    operator.call_all(roster.depth_commands(MODEL))
    for command in (slot.queue.move(), slot.queue.sweep(lease_ms=0)):
        operator.call(*command)
    slot.queue.take_over(operator, sorted(slot.queue.consumers(operator)), marks=0)
    roster.assign(operator, "box", 0, None)
    # what `penstock status`, `models` and `doctor` read
    monitor = role("monitor")
    seen = status.read(monitor, Settings(redis=RedisSettings(url=guarded.url)))
    assert seen.models[0].jobs == 2
    assert seen.models[0].dead == 1
    doctored = Settings(redis=RedisSettings(url=guarded.url_of("operator")), root=str(tmp_path))
    assert "ok" in {one.level for one in doctor.redis_server(doctored)}
    # doctor was asked as the operator here, who may not read settings: it does without the answer
    assert [one for one in guarded.denials() if "config" not in one] == []


def test_a_pause_is_the_operators_to_make_and_everybody_elses_to_see(guarded: Guarded, role: Role) -> None:
    # given
    operator, worker, producer, monitor = role("operator"), role("worker"), role("producer"), role("monitor")
    publish(worker, Limits(max_jobs=1, max_bytes=1 << 20, payload_limit_bytes=1 << 10))
    client, slot = Client(producer), Slot(worker)
    # when
    paused.pause(operator, MODEL, LANES, Pause("ann@box", "", 1))
    # then
    assert paused.lanes(worker, MODEL) == {0, 1, 2}
    assert len(paused.pauses(monitor, MODEL)) == 3
    reply = worker.call(*slot.queue.pulse("box/0", (), ready_ms=0, failing_ms=0, frees_place=False))
    assert paused.lanes_of(reply[2]) == {0, 1, 2}
    client.submit(1, deadline_ms=1)
    assert client.send(client.blobs(1)).detail == "jobs paused"
    assert "paused by ann@box" in client.intake.read_load(producer.call_all(client.intake.load()))
    expire = paused.expire(MODEL, 1, "box/0", "-")
    wait_until(lambda: worker.call(*expire)[0] == 1, "the deadline has passed")
    assert paused.resume(operator, MODEL, LANES) == list(LANES)
    assert guarded.denials() == []


def test_producers_do_without_the_right_to_see_a_pause(guarded: Guarded, role: Role) -> None:
    publish(role("worker"), Limits(max_jobs=1, max_bytes=1 << 20, payload_limit_bytes=1 << 10))
    client = Client(role("producer"))
    client.submit(1)
    paused.pause(role("operator"), MODEL, LANES, Pause("ann@box", "", 1))
    producer = acl.rules(acl.read()["producer"], (6, 2))
    guarded.admin.call(
        "ACL",
        "SETUSER",
        "producer",
        "resetkeys",
        *(rule for rule in producer if rule[0] == "~" and "paused" not in rule),
    )
    try:
        assert client.send(client.blobs(1)).detail == "jobs"
        assert "depth 1" in client.intake.read_load(client.link.call_all(client.intake.load()))
    finally:
        version = (6, 2) if guarded.kind == "embedded" else (7, 0)
        keys_of_it = [rule for rule in acl.rules(acl.read()["producer"], version) if rule[0] in "~%"]
        guarded.admin.call("ACL", "SETUSER", "producer", "resetkeys", *keys_of_it)
