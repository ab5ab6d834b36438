"""What stands in Redis and is garbled: commands that look show the rest, and the agent goes on. On a real Redis, any field of any key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from broker import audit, autoscale, keys, overlap, paused, roster
from broker.autoscale import Override, State
from broker.connection import Command, Link
from broker.demand import demands
from broker.errors import DecodeError, PenstockError
from broker.overlap import Request
from broker.paused import Pause
from broker.roster import Assignment
from broker.settings import Settings
from broker.settings_tables import AutoscaleSettings, ModelSettings, PoolSettings
from operators import agent_view, hardware, status, table, wishes
from operators.autoscale import standing
from operators.autoscale.loop import Autoscale
from operators.hardware import Gpu, Hardware
from operators.jobs import listing, trail
from operators.supervisor import Program
from operators.top import lines
from operators.top.frame import make
from tests.broker.actors import MODEL, Client, Sent, Slot, publish

GARBAGE = [b"", b"\xff\xfe nonsense", b"nan", b"1e400", b"-9" * 15, b"{}"]
SLOT = {
    "model": MODEL, "state": "ready", "pid": 100, "engine_pid": 101, "jobs": 5, "rows": 9, "batches": 3, "held": 0, "host_bytes": 1 << 30,
    "host_baseline_bytes": 1 << 29, "device_bytes": 5, "device_baseline_bytes": 4, "load_s": "0.5", "p50_ms": "1.2", "p99_ms": "2",
    "mean_batch": "3", "since_ms": 1, "silent_ms": 0, "incarnation": "1",
}  # fmt: skip
SETTINGS = Settings(
    pool=PoolSettings(most_slots=4, host="box"),
    models={MODEL: ModelSettings("/nowhere", slots=1, autoscale=AutoscaleSettings(1, 3, 1.0))},
)


class Programs:
    """As supervisord tells of them."""

    settings = SETTINGS

    def slots(self) -> dict[int, Program]:
        return {number: Program(f"slot_{number:02d}", "RUNNING", 100 + number, 50, "") for number in range(2)}


@pytest.fixture
def link(redis_url: str) -> Iterator[Link]:
    """A pool of which everything is known."""
    link = Link(redis_url)
    link.connect()
    link.call("FLUSHALL")
    publish(link)
    for number in (0, 1):
        link.call(*roster.announce(f"box/{number}", SLOT | {"pid": 100 + number}))
        link.call("PERSIST", keys.slot(f"box/{number}"))
        link.call("ZADD", keys.ready(MODEL), roster.now_ms(link) + 60_000, f"box/{number}")
        roster.assign(link, "box", number, Assignment(MODEL, "/nowhere"))
    roster.want(link, "box", MODEL, 2)
    told = {autoscale.FIELD: autoscale.encode({MODEL: State(1, 3, 1.0, 2, 2, 2, "why")})}
    told |= {hardware.FIELD: hardware.encode(Hardware("580", (Gpu("GPU-a", "X", 5, 4),)))}
    roster.beat_agent(link, "box", {"pid": 1, "since_ms": 5, **told})
    link.call("PERSIST", keys.agent("box"))
    roster.record_exit(link, "box/0", "max_jobs", "why", 5)
    audit.record(link, "scale", "tiny 2")
    paused.pause(link, MODEL, ["low"], Pause("ann@box", "deploy", 5))
    overlap.write(link, "box", 1, Request(MODEL, "max_jobs", 101, 5, phase="loading", spare=2))
    autoscale.override(link, "box", MODEL, Override(most=2))
    yield link
    link.close()


@pytest.fixture
def sent(link: Link) -> list[Sent]:
    """Jobs of which one is claimed."""
    jobs = Client(link).submit(3)
    Slot(link).claim(1)
    return jobs


def everything_that_looks(link: Link, sent: list[Sent]) -> None:
    supervisor: Any = Programs()
    found = status.read(link, SETTINGS, supervisor.slots())
    table.slots(found)
    lines.draw(make(found, found), width=80, height=24)
    seen = agent_view.look(link, supervisor, roster.now_ms(link))
    loop = Autoscale(SETTINGS, hardware=lambda: None, free_host_bytes=lambda: 1 << 40)
    for now in (10.0, 13.0):
        loop.look(link, seen, now)
        loop.actions(seen)
    loop.told()
    demands(link, [MODEL], seen.now_ms)
    standing.standings(SETTINGS, link)
    listing.listed(link, MODEL, limit=50)
    listing.listed(link, MODEL, "dead", limit=50)
    for job in sent:
        trail.show(link, f"{MODEL}:{job.id}", search_s=1)
    audit.acts(link)


def garbled(link: Link) -> Iterator[tuple[str, Command]]:
    """What was garbled, and the command that takes it back."""
    for key in sorted(link.call("KEYS", "*")):
        kind = link.call("TYPE", key)
        for garbage in GARBAGE:
            if kind == b"hash":
                flat = link.call("HGETALL", key)
                for field, value in zip(flat[::2], flat[1::2], strict=True):
                    link.call("HSET", key, field, garbage)
                    yield f"{key} {field} {garbage!r}", ("HSET", key, field, value)
                link.call("HSET", key, garbage, flat[1])
                yield f"{key} field {garbage!r}", ("HDEL", key, garbage)
            elif kind == b"zset":
                link.call("ZADD", key, "inf", garbage)
                yield f"{key} member {garbage!r}", ("ZREM", key, garbage)
            elif kind == b"set":
                link.call("SADD", key, garbage)
                yield f"{key} member {garbage!r}", ("SREM", key, garbage)
            elif kind == b"stream":
                entry = link.call("XADD", key, "*", "jobs", garbage)
                yield f"{key} entry {garbage!r}", ("XDEL", key, entry)


def test_no_garbled_value_ends_a_command_that_looks_or_a_round(link: Link, sent: list[Sent]) -> None:
    everything_that_looks(link, sent)
    seen = 0
    for what, take_back in garbled(link):
        seen += 1
        try:
            everything_that_looks(link, sent)
        except PenstockError:  # one line that says the mend
            pass
        except Exception as error:
            raise AssertionError(what) from error
        link.call(*take_back)
    assert seen > 200


@pytest.mark.parametrize("value", [b"many words", b"7 1-0", b"-5", b"\xff"])
def test_a_place_that_a_job_was_moved_to_and_is_none_is_searched_for(
    link: Link, sent: list[Sent], value: bytes
) -> None:
    link.call("HSET", keys.moved(MODEL), sent[2].id, value)
    assert trail.show(link, f"{MODEL}:{sent[2].id}").state == "waiting"


@pytest.mark.parametrize("field", ["attempts", "deliveries", "lane", "submitted_ms"])
@pytest.mark.parametrize("value", GARBAGE)
def test_a_dead_letter_with_a_garbled_figure_is_listed(link: Link, field: str, value: bytes) -> None:
    link.call("XADD", keys.dead(MODEL), "*", "id", "c-1", "reason", "hang", field, value)
    assert [(one.id, one.reason) for one in listing.listed(link, MODEL, "dead", limit=5)[1]] == [
        (f"{MODEL}:c-1", "hang")
    ]


def test_a_garbled_assignment_is_a_problem_with_its_mend_and_stops_no_slot(link: Link) -> None:
    link.call("HSET", keys.assignment("box"), 0, b"{}")
    supervisor: Any = Programs()
    # then status says it, before what follows of it
    worst = status.read(link, SETTINGS, supervisor.slots()).problems[0]
    assert worst.text.startswith("what slot 0 is assigned is garbled in Redis (")
    assert worst.mend == "`penstock down`, then `penstock up` writes it anew"
    # and the agent judges nobody: to it a slot that is assigned to nothing would be surplus
    with pytest.raises(DecodeError):
        agent_view.look(link, supervisor, roster.now_ms(link))
    # when the pool starts anew
    wishes.publish(SETTINGS, link)
    # then
    assert {number: one.model for number, one in roster.assignments(link, "box").items()} == {0: MODEL}
