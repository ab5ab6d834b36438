"""Bulk runs that nobody works or that stand still, as `status`, `top` and `doctor` tell of them. On a real Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker import keys, run_lease, run_look, runs
from broker.connection import Link
from broker.runs import Request
from broker.settings import Settings
from broker.settings_tables import PoolSettings, RedisSettings, RunsSettings
from operators import status
from operators.run_troubles import MOST_NAMED
from operators.snapshot import Problem
from operators.supervised import Program
from operators.top import lines
from operators.top.frame import make
from tests.operators.test_garbled import GARBAGE
from tests.operators.test_status import CountingLink

UP = {"runs_00": Program("runs_00", "RUNNING", 77, 60, "")}


@pytest.fixture
def link(redis_url: str) -> Iterator[Link]:
    link = Link(redis_url)
    link.connect()
    link.call("FLUSHALL")
    yield link
    link.close()


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings(redis=RedisSettings(url=redis_url), pool=PoolSettings(host="box"), root="/tmp/nowhere")


def submit(link: Link, name: str, *, host: str = "", rate: float = 0.0) -> str:
    request = Request(input=f"/{name}.csv", output=f"/{name}.out", model="m", mapping={}, host=host, rate=rate)
    id = runs.run_id(request, "print", "1")
    runs.submit(link, request, id)
    return id


def taken(link: Link, name: str, *, quiet_s: float, doing: str = "", **options: object) -> str:
    """A run that is worked and has done nothing for so long."""
    id = submit(link, name, **options)  # type: ignore[arg-type]
    assert run_lease.take(link, id, "box/runs_00.x")
    before_ms = runs.view(link, id).at_ms - round(quiet_s * 1000)
    times = dict.fromkeys(("created_ms", "started_ms", "progressed_ms"), before_ms)
    link.call("HSET", keys.run(id), "doing", doing, *(str(part) for pair in times.items() for part in pair))
    return id


def beat(link: Link, host: str = "box", name: str = "runs_00", run: str = "") -> None:
    run_lease.beat(link, host, name, pid=77, run=run)


def told(link: Link, settings: Settings, of_runs: dict[str, Program] | None = UP) -> list[str]:
    found = status.read(link, settings, {}, of_runs).problems
    return [f"{one.level} {one.text} -> {one.mend}" for one in found]


def test_runs_that_a_living_program_may_work_are_no_trouble(link: Link, settings: Settings) -> None:
    beat(link)
    submit(link, "any")
    submit(link, "here", host="box")
    taken(link, "worked", quiet_s=5)
    assert told(link, settings) == []


def test_runs_wait_and_no_program_lives(link: Link, settings: Settings) -> None:
    submit(link, "any")
    submit(link, "here", host="box")
    # a program that hangs, one that is given up, one that is about to start, one whose end supervisord waits out
    waits = "2 bulk runs wait"
    kill = "kill -9 77; supervisord starts the next, runs go on from their last part"
    assert told(link, settings) == [
        f"error the runs program runs_00 (pid 77) runs and does not beat: {waits} -> {kill}"
    ]
    stopped = {"runs_00": Program("runs_00", "STOPPED", 0, 0, "")}
    says = f"error the runs program runs_00 does not run (supervisord: STOPPED): {waits} -> penstock up"
    assert told(link, settings, stopped) == [says]
    assert told(link, settings, {"runs_00": Program("runs_00", "RUNNING", 77, 2, "")}) == []
    spinning = told(link, settings, {"runs_00": Program("runs_00", "BACKOFF", 0, 0, "")})
    assert [one.rpartition(" -> ")[2] for one in spinning] == ["penstock logs runs"]


def test_a_program_that_is_wanted_and_absent_is_told_though_nothing_waits(link: Link, settings: Settings) -> None:
    two = Settings(redis=settings.redis, pool=settings.pool, runs=RunsSettings(workers=2))
    beat(link)
    both = UP | {"runs_01": Program("runs_01", "FATAL", 0, 0, "")}
    submit(link, "any")
    assert told(link, two, both) == [
        "warning the runs program runs_01 does not run (supervisord: FATAL) -> penstock up"
    ]
    none = Settings(redis=settings.redis, pool=settings.pool, runs=RunsSettings(workers=0))
    assert told(link, none, {}) == []


@pytest.mark.parametrize(
    ("workers", "host", "says"),
    [
        (0, "", "on any host -> set runs.workers above 0, then `penstock down` and `penstock up`"),
        (1, "", "on any host -> penstock up"),
        (1, "box", "on this host, which alone sees their files -> penstock up"),
        (1, "far", "on far, which alone sees their files -> `penstock up` on far; `penstock run show "),
    ],
)
def test_runs_wait_for_a_host_that_works_none(
    link: Link, settings: Settings, workers: int, host: str, says: str
) -> None:
    settings = Settings(redis=settings.redis, pool=settings.pool, runs=RunsSettings(workers=workers))
    submit(link, "one", host=host)
    if host == "far":
        beat(link)
    (found,) = told(link, settings, None)
    assert found.startswith(f"error 1 bulk run waits, and no program works runs {says}")


def test_a_run_that_does_no_row_says_what_it_does_instead(link: Link, settings: Settings) -> None:
    beat(link)
    id = taken(link, "stuck", quiet_s=300, doing="waits for room in the queue\x1b[2J")
    taken(link, "busy", quiet_s=100)
    taken(link, "slow", quiet_s=300, rate=0.05)  # as it was asked to be
    assert told(link, settings) == [
        f"warning run {id} has done no row for 5 min: waits for room in the queue [2J -> penstock run show {id}"
    ]


def test_a_run_whose_lease_is_gone_stands_still(link: Link, settings: Settings) -> None:
    beat(link)
    id = taken(link, "left", quiet_s=90)
    assert told(link, settings) == []
    link.call("DEL", keys.run(id, "_lease"))
    says = (
        f"warning run {id} stands still: who worked it is gone for 90.0 s, and nobody took it up -> penstock logs runs"
    )
    assert told(link, settings) == [says]
    # and without a program it is one that waits, but not while somebody holds it
    link.call("DEL", keys.runs_beat("box"), keys.runs_beat(""))
    taken(link, "held", quiet_s=5)
    assert told(link, settings, None) == [
        "error 1 bulk run waits, and no program works runs on any host -> penstock up"
    ]


def test_many_runs_that_stand_still_are_counted_and_top_shows_them_too(link: Link, settings: Settings) -> None:
    beat(link)
    for at in range(MOST_NAMED + 2):
        taken(link, f"run{at}", quiet_s=1000)
    found = status.read(link, settings, {}, UP)
    assert len(found.problems) == MOST_NAMED + 1
    assert found.problems[-1] == Problem("warning", "2 more runs stand still", "penstock run ls")
    assert any("has done no row" in line.text for line in lines.draw(make(found), width=120))


def test_a_look_reads_a_bounded_number_of_runs_in_as_many_trips_and_forgets_none_that_is_old(
    link: Link, settings: Settings, redis_url: str
) -> None:
    # given one that never ends, and many that did since
    beat(link)
    old = taken(link, "old", quiet_s=9999)
    ended = [(f"e{at:04d}", 2**52 + at) for at in range(3 * run_look.NEWEST)]
    link.call_all([("HSET", keys.run(id), "state", "done") for id, _ in ended])
    link.call("ZADD", keys.runs(), *(part for id, score in ended for part in (score, id)))
    counted = CountingLink(redis_url)
    counted.connect()
    counted.trips = 0
    before = link.call("INFO", "commandstats")
    # when
    found = status.read(counted, settings, {}, UP)
    # then
    assert [one.text.split()[1] for one in found.problems] == [old]
    assert counted.trips == 3
    assert _calls(link.call("INFO", "commandstats"), b"hget") - _calls(before, b"hget") <= (
        run_look.OLDEST + run_look.NEWEST
    )
    counted.close()


def _calls(info: bytes, command: bytes) -> int:
    lines = [line for line in info.splitlines() if line.startswith(b"cmdstat_" + command + b":")]
    return int(lines[0].partition(b"calls=")[2].partition(b",")[0]) if lines else 0


@pytest.mark.parametrize(
    "garbage",
    [
        ("SET", "no list"), ("ZADD", 1, "\x1b[2J"), ("ZADD", 1, "x" * 1000),
    ],
)  # fmt: skip
def test_what_others_wrote_where_runs_are_listed_ends_no_look(
    link: Link, settings: Settings, garbage: tuple[str, ...]
) -> None:
    beat(link)
    verb, *rest = garbage
    link.call(verb, keys.runs(), *rest)
    assert told(link, settings) == []


def test_no_garbled_field_of_a_run_or_a_beat_ends_a_look(link: Link, settings: Settings) -> None:
    id = taken(link, "one", quiet_s=300, doing="x")
    for key in (keys.run(id), keys.runs_beat("box")):
        beat(link)
        flat = link.call("HGETALL", key)
        for field, value in zip(flat[::2], flat[1::2], strict=True):
            for garbage in GARBAGE:
                link.call("HSET", key, field, garbage)
                status.read(link, settings, {}, UP)
            link.call("HSET", key, field, value)


def test_a_garbled_run_or_beat_hides_none_that_is_right(link: Link, settings: Settings) -> None:
    beat(link)
    id = taken(link, "stuck", quiet_s=300)
    bad = taken(link, "bad", quiet_s=300)
    link.call("HSET", keys.run(bad), "request", "no json")
    link.call("DEL", keys.run(other := submit(link, "other")))
    link.call("SET", keys.run(other), "no hash")
    link.call("HSET", keys.runs_beat("box"), "runs_01", "x {}")
    (found,) = told(link, settings)
    assert id in found
    link.call("DEL", keys.run(other))
