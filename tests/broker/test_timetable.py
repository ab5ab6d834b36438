"""What forwards took, in Redis: per manifest and device, written at maxmemory too, with a TTL."""

from __future__ import annotations

from broker import keys, timetable
from broker.connection import Link
from broker.timetable import Learned
from tests.broker.actors import MODEL

DIGEST, HERE, THERE = "ab" * 32, "box/cuda:0", "box/GPU-1a2b"
ONE, LONG = Learned(64, (), 1.5, 2.25), Learned(8, (128, 64), 80.0, 95.5)


def test_times_are_kept_per_manifest_and_device_and_the_newest_counts(link: Link) -> None:
    link.call(*timetable.save(MODEL, DIGEST, HERE, [ONE, LONG]))
    link.call(*timetable.save(MODEL, DIGEST, THERE, [Learned(64, (), 9.0, 9.0)]))
    assert sorted(timetable.load(link, MODEL, DIGEST, HERE), key=lambda one: one.rows) == [LONG, ONE]
    link.call(*timetable.save(MODEL, DIGEST, HERE, [Learned(64, (), 1.0, 3.0)]))
    assert Learned(64, (), 1.0, 3.0) in timetable.load(link, MODEL, DIGEST, HERE)
    assert timetable.load(link, MODEL, "cd" * 32, HERE) == [], "another manifest is another model"


def test_times_are_written_at_maxmemory_and_vanish_when_nobody_writes_them(link: Link) -> None:
    link.call("CONFIG", "SET", "maxmemory", 1)
    link.call(*timetable.save(MODEL, DIGEST, HERE, [ONE]))
    assert timetable.load(link, MODEL, DIGEST, HERE) == [ONE]
    assert 0 < link.call("PTTL", keys.times(MODEL, DIGEST, HERE)) <= keys.TIMES_TTL_MS


def test_what_nobody_can_read_is_left_out(link: Link) -> None:
    garbage = ("x|", "1 1", "8|", "fast", "8|9", "2 1", "0|", "1 1", "4|a", "1 2", "2|", "nan nan", "1|", "1 inf")
    link.call("HSET", keys.times(MODEL, DIGEST, HERE), "64|", "1.5 2.25", *garbage)
    link.call("PEXPIRE", keys.times(MODEL, DIGEST, HERE), 60_000)
    assert timetable.load(link, MODEL, DIGEST, HERE) == [ONE]
