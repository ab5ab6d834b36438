"""Every start and end of a program is kept once, whether an event told of it or only its pid."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker import roster
from broker.connection import LOST, Link
from operators.journal import Journal
from operators.listener import Event
from operators.places import Place, Seen
from operators.record import Record


class Told:
    """Feeds a record with events and looks, and reads what it kept."""

    def __init__(self, link: Link, log: Path) -> None:
        self.link = link
        self.log = log
        self.record = Record("box", Journal(log))

    def event(self, name: str, pid: int) -> None:
        self.record.note(Event(f"PROCESS_STATE_{name}", {"processname": "slot_00", "pid": str(pid)}))

    def look(self, pid: int) -> None:
        self.record.take_events(self.link)
        self.record.compare(self.link, Seen(0, {0: Place(0, "RUNNING" if pid else "STOPPED", pid)}))
        self.record.write(self.link)

    @property
    def kept(self) -> list[tuple[str, int, str]]:
        return [(one.kind, one.pid, one.detail) for one in reversed(roster.events(self.link)) if one.slot == "box/0"]


@pytest.fixture
def told(redis_url: str, tmp_path: Path) -> Told:
    link = Link(redis_url)
    link.connect()
    link.call("DEL", "penstock:{pool}:events")
    return Told(link, tmp_path / "supervisord.log")


def test_events_and_looks_tell_of_each_start_and_end_once(told: Told) -> None:
    told.event("RUNNING", 7)
    told.look(7)
    told.log.write_text("x INFO spawned: 'slot_00' with pid 7\nx INFO exited: slot_00 (exit status 71; not expected)\n")
    told.event("EXITED", 7)
    told.event("RUNNING", 8)
    told.look(8)
    told.look(8)
    assert told.kept == [("start", 7, ""), ("exit", 7, "exit 71 hang"), ("start", 8, "")]
    assert told.record.take_starts() == [0, 0]


def test_an_event_that_comes_after_the_look_that_showed_it_is_not_told_twice(told: Told) -> None:
    told.look(7)
    told.look(8)
    for name, pid in (("RUNNING", 7), ("EXITED", 7), ("RUNNING", 8)):
        told.event(name, pid)
    told.look(8)
    assert [(kind, pid) for kind, pid, _ in told.kept] == [("start", 7), ("exit", 7), ("start", 8)]


def test_what_happened_while_no_agent_lived_is_noticed_by_the_next(told: Told) -> None:
    told.event("RUNNING", 7)
    told.look(7)
    after = Told(told.link, told.log)
    after.look(9)
    after.look(9)
    assert after.kept == [
        ("start", 7, ""),
        ("exit", 7, "its code is not known, noticed late"),
        ("start", 9, "noticed late"),
    ]
    after.link.close()


def test_what_happens_while_redis_is_away_is_kept_for_later(told: Told) -> None:
    told.event("RUNNING", 7)
    told.look(7)
    told.link.close()
    told.event("EXITED", 7)
    with pytest.raises(LOST):
        told.look(0)
    told.link.connect()
    told.look(0)
    assert [kind for kind, _, _ in told.kept] == ["start", "exit"]
