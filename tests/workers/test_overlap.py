"""A slot that is due to retire and asks for a spare first, on a real Redis; the agent's part is played by the test."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from broker import keys, overlap, roster
from broker.connection import Link
from broker.overlap import Request
from tests.wait import wait_until
from tests.workers.fakes import MODEL, Client, RunningSlot
from workers.exits import Exit
from workers.overlap import Overlap
from workers.retire import Verdict

LIMITS: dict[str, Any] = {"max_jobs": 10, "overlap": True}
DUE = Verdict(Exit.MAX_JOBS, "10 jobs, limit 10")


@pytest.fixture
def due(redis_url: str, link: Link) -> RunningSlot:
    """A slot of host h that is past its limit, on a host with an agent, once it is entered."""
    roster.beat_agent(link, "h", {"pid": 1})
    return RunningSlot(redis_url, retire=LIMITS)


def work(url: str, name: str = "cli") -> None:
    client = Client(url, client=name)
    client.wait(client.submit(*range(20)))
    client.link.close()


def request(link: Link) -> Request | None:
    return overlap.requests(link, "h").get(0)


def answer(link: Link, **changes: Any) -> None:
    asked = wait_until(lambda: request(link), "the slot asks")
    overlap.write(link, "h", 0, msgspec.structs.replace(asked, **changes))


def test_a_slot_asks_and_goes_on_until_it_is_stopped_and_then_gives_its_own_reason(
    due: RunningSlot, redis_url: str, link: Link
) -> None:
    with due:
        work(redis_url)
        asked = wait_until(lambda: request(link), "the slot asks")
        assert (asked.model, asked.reason, asked.phase, asked.spare) == (MODEL, "max_jobs", "asked", -1)
        answer(link, phase="swapping", spare=1)
        work(redis_url, "another")
        assert due.verdict is None, "it claims until it is told to go"
        due.slot.leave()  # the TERM
    assert due.verdict is not None
    assert due.verdict.exit is Exit.MAX_JOBS
    assert request(link) is not None, "only the agent removes it"


def test_without_an_agent_it_retires_as_if_overlap_were_off(redis_url: str, link: Link) -> None:
    with RunningSlot(redis_url, retire=LIMITS) as slot:
        work(redis_url)
        wait_until(lambda: slot.verdict is not None, "the slot retires")
    assert request(link) is None


def test_a_refused_slot_retires_without_overlap(due: RunningSlot, redis_url: str, link: Link) -> None:
    with due:
        work(redis_url)
        answer(link, phase="refused", why="no memory")
        wait_until(lambda: due.verdict is not None, "the slot retires")
    assert due.verdict is not None
    assert due.verdict.exit is Exit.MAX_JOBS


def test_a_stop_without_a_request_is_a_drain(due: RunningSlot, redis_url: str) -> None:
    with due:
        pass
    assert due.verdict is not None
    assert due.verdict.exit is Exit.DRAINED


def test_a_hard_limit_asks_nobody(
    due: RunningSlot, redis_url: str, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.retire.Retirement.due", lambda *_: msgspec.structs.replace(DUE, is_hard=True))
    with due:
        wait_until(lambda: due.verdict is not None, "the slot retires")
    assert request(link) is None


def test_a_request_that_redis_forgot_is_made_again_and_one_of_a_former_life_is_left_alone(link: Link) -> None:
    roster.beat_agent(link, "h", {"pid": 1})
    overlap.write(link, "h", 0, Request(MODEL, "max_age", pid=1, since_ms=0, phase="loading", spare=3))
    one = Overlap(name="h/0", pid=2, model=MODEL, load_timeout_s=60, redis_ms=lambda: 5.0)

    def ask(command: Any, hear: Any) -> None:
        hear(link.call(*command))

    one.pursue(DUE, 0.0, ask)
    assert (one.reason, one.has_given_up) == (None, False), "the agent has not removed the old one yet"
    link.call("DEL", keys.overlap("h"))
    one.pursue(DUE, 1.0, ask)
    found = request(link)
    assert found is not None
    assert (found.pid, one.reason) == (2, DUE)


def test_patience_ends_where_no_answer_comes(link: Link) -> None:
    one = Overlap(name="h/0", pid=2, model=MODEL, load_timeout_s=60, redis_ms=lambda: 5.0)
    for now, has_given_up in ((0.0, False), (89.0, False), (91.0, True)):
        one.pursue(DUE, now, lambda command, hear: None)
        assert one.has_given_up is has_given_up
