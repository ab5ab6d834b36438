"""Jobs whose bodies stand apart, through a whole slot: from Redis, a folder and a URL, and what is wrong with each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker import keys
from broker.bodies_store import BodyStore, open_store
from broker.connection import Link
from broker.messages import Outcome, Status
from tests.broker.apart import lying
from tests.wait import wait_until
from tests.workers.apart import submit
from tests.workers.fakes import MODEL, SPEC, Client, Doubler, LateEngine, RunningSlot, first

Open = Callable[[], BodyStore]


@pytest.fixture(params=["redis", "folder", "url"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BodyStore | None:
    """None stands for Redis."""
    return open_store({"redis": "redis", "folder": str(tmp_path / "b"), "url": f"file://{tmp_path}/b"}[request.param])


@pytest.fixture
def folder(tmp_path: Path) -> BodyStore:
    opened = open_store(str(tmp_path / "bodies"))
    assert opened is not None
    return opened


def reasons(outcomes: list[Outcome]) -> list[tuple[Status, str]]:
    return [(one.status, one.note.get("reason", "")) for one in outcomes]


def kept(link: Link) -> int:
    return len(link.call("KEYS", keys.body(MODEL, "*")))


def test_each_job_runs_with_its_own_body_among_those_that_carry_theirs(
    redis_url: str, client: Client, link: Link, store: BodyStore | None
) -> None:
    with RunningSlot(redis_url, store=store) as slot:
        ids = submit(client, *range(40), store=store)
        ids += client.submit(*range(40, 80))
        ids += submit(client, *range(80, 120), store=store)
        outcomes = client.wait(ids)
    assert [first(one) for one in outcomes] == [2.0 * value for value in range(120)]
    assert (client.left(), client.counters()["bytes"], kept(link)) == ((0, 0), 0, 0)
    assert slot.verdict is not None


def test_bodies_are_fetched_while_the_engine_runs(redis_url: str, client: Client, store: BodyStore | None) -> None:
    # given
    backend = Doubler()
    go = threading.Event()
    backend.before = lambda: bool(go.wait(10)) and None
    slot = RunningSlot(redis_url, store=store, backend=backend, engine=LateEngine(SPEC, backend))
    with slot:
        ids = submit(client, 1.0, store=store)
        wait_until(lambda: bool(backend.batches), "the first batch runs")
        # when
        ids += submit(client, 2.0, 3.0, store=store)
        go.set()
        # then
        assert [first(one) for one in client.wait(ids)] == [2.0, 4.0, 6.0]


def test_a_missing_body_fails_its_job_alone(
    redis_url: str, client: Client, link: Link, store: BodyStore | None
) -> None:
    # given
    ids = []
    slot = RunningSlot(redis_url, store=store)
    ids = submit(client, 1.0, 2.0, 3.0, store=store)
    if store is None:
        link.call("DEL", keys.body(MODEL, ids[1]))
    else:
        store.remove([ids[1]])
    # when
    with slot:
        outcomes = client.wait(ids)
    # then
    assert reasons(outcomes)[1] == (Status.FAILED, "body_missing")
    assert [first(outcomes[0]), first(outcomes[2])] == [2.0, 6.0]
    assert client.counters()["bytes"] == 0


@pytest.mark.parametrize("damaged", [b"short", bytes(16)])
def test_a_damaged_body_fails_its_job_alone(
    redis_url: str, client: Client, link: Link, store: BodyStore | None, damaged: bytes
) -> None:
    slot = RunningSlot(redis_url, store=store)
    ids = submit(client, 1.0, 2.0, store=store)
    if store is None:
        link.call("SET", keys.body(MODEL, ids[0]), damaged)
    else:
        store.write({ids[0]: damaged})
    with slot:
        outcomes = client.wait(ids)
    assert reasons(outcomes)[0] == (Status.FAILED, "body_damaged")
    assert first(outcomes[1]) == 4.0


def test_a_body_of_another_type_is_damaged_and_ends_no_slot(redis_url: str, client: Client, link: Link) -> None:
    slot = RunningSlot(redis_url)
    ids = submit(client, 1.0, 2.0)
    link.call("DEL", keys.body(MODEL, ids[0]))
    link.call("LPUSH", keys.body(MODEL, ids[0]), "x")
    with slot:
        outcomes = client.wait(ids)
    assert reasons(outcomes)[0] == (Status.FAILED, "body_damaged")
    assert first(outcomes[1]) == 4.0


def test_a_body_in_another_machines_folder_is_tried_again_and_then_kept_as_a_dead_letter(
    redis_url: str, client: Client, link: Link, folder: BodyStore, tmp_path: Path
) -> None:
    # given
    other = open_store(str(tmp_path / "other"))
    assert other is not None
    assert other.token != folder.token
    # when
    with RunningSlot(redis_url, store=folder):
        ids = submit(client, 1.0, store=other)
        postponed = submit(client, 2.0, store=other, retries=3)
        (outcome,) = client.wait(ids)
        wait_until(lambda: link.call("ZCARD", keys.delayed(MODEL)) == 1, "the other one waits for its next try")
    # then
    assert reasons([outcome]) == [(Status.DEAD, "store_away")]
    assert "in another store than this slot's" in outcome.note["error"]
    assert sorted(lying(other)) == sorted([*ids, *postponed])
    assert link.call("ZCOUNT", keys.bodies(MODEL, other.token), "(0", "+inf") == 2


def test_bodies_under_way_when_redis_hangs_up_are_asked_for_again(redis_url: str, client: Client, link: Link) -> None:
    # given
    asked = []

    class Forgetful:
        """Loses the connection when the first bodies have been asked for."""

        def __call__(self, command: Any, handler: Any) -> bool:
            if not asked:
                asked.append(command)
                slot.slot._leases.wire.send((("PING",), lambda _: None))
                slot.slot._leases._contact.lose(ConnectionError("cut"))
                return True
            is_sent = ask(command, handler)
            asked.extend([command] * is_sent)
            return is_sent

    slot = RunningSlot(redis_url)
    ask, slot.slot._bodies._ask = slot.slot._bodies._ask, Forgetful()
    ids = submit(client, 1.0)
    # when
    with slot:
        (outcome,) = client.wait(ids)
    # then
    assert (first(outcome), len(asked)) == (2.0, 2)
    assert client.left() == (0, 0)


def test_a_cancelled_job_whose_body_is_gone_changes_nothing(redis_url: str, client: Client, link: Link) -> None:
    with RunningSlot(redis_url) as slot:
        slot.board.progress_at = 0.0
        ids = submit(client, 1.0, delay_ms=60_000)
        assert link.call(*client.intake.cancel(ids[0], 0, "")) == 1
        (outcome,) = client.wait(ids)
    assert (outcome.status, kept(link)) == (Status.CANCELLED, 0)
