"""What is made of recorded traces: how moments become a trace, that a replay is the same each time, and that it can tell a gain."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks.traces import recorded, replay
from benchmarks.traces.arrivals import HIGH, NORMAL
from benchmarks.traces.mechanisms import NOW
from benchmarks.traces.recorded import Seen, Sender, Trace
from benchmarks.traces.replay import Figures
from broker.timetable import Learned

FLAT = [Learned(rows, (), 5.0, 6.0) for rows in (1, 2, 4, 8)]


def traced(*senders: Sender) -> Trace:
    return Trace("some", "by hand", "abacus", 2, "2026-11-22", "redis 6.2", FLAT, list(senders))


def waiting(jobs: int, think_ms: float) -> Sender:
    return Sender(NORMAL, 1, 0.0, True, [think_ms] * jobs, [6.0] * jobs)


def test_a_job_is_stamped_by_its_clients_clock_within_the_millisecond_redis_told() -> None:
    assert recorded.stamped_ms("1000-3", 1000.2, 1000.6) == pytest.approx(1000.4)
    assert recorded.stamped_ms("1000-3", 998.0, 999.0) == 1000.0
    assert recorded.stamped_ms("1000-0", 1000.0, 1009.0) == 1000.99


def test_an_open_sender_keeps_the_gaps_between_its_jobs_and_a_closed_one_those_after_its_answers() -> None:
    seen = [Seen(1013.0, 1020.0, False), Seen(1001.0, 1010.0, True)]

    opened = recorded.sender(seen, 1000.0, lane=NORMAL, is_closed=False)
    closed = recorded.sender(seen, 1000.0, lane=NORMAL, is_closed=True)

    assert opened.gaps_ms == [1.0, 12.0]
    assert closed.gaps_ms == [1.0, 3.0]
    assert opened.took_ms == closed.took_ms == [9.0, None]


def test_a_trace_comes_back_as_it_was_saved_and_one_too_large_is_refused(tmp_path: Path) -> None:
    trace = traced(waiting(3, 0.5), Sender(HIGH, 1, 15.0, False, [1.0, 2.0], [7.5, None]))

    recorded.save(trace, tmp_path)

    assert recorded.load(tmp_path) == [trace]
    with pytest.raises(ValueError, match="record fewer jobs"):
        recorded.save(traced(waiting(recorded.MOST_BYTES // 8, 0.25)), tmp_path)


def test_the_shape_bucket_with_most_sizes_is_the_table() -> None:
    others = [Learned(4, (128,), 9.0, 9.0), Learned(1, (128,), 3.0, 3.0)]

    assert recorded.only_dims([*others, *FLAT]) == FLAT
    assert [one.rows for one in recorded.only_dims(others)] == [1, 4]


def test_open_senders_arrive_as_they_did_and_closed_ones_are_asked_after_each_answer() -> None:
    trace = traced(Sender(HIGH, 1, 15.0, False, [1.0, 2.0], [6.0, 6.0]), waiting(40, 1.0))

    arrivals, waits = replay.arrivals(trace)
    result = replay.Slot(trace.table, NOW).run(arrivals, waits=waits)

    assert [(one.at_ms, one.lane, one.deadline_ms) for one in arrivals] == [(1.0, HIGH, 15.0), (3.0, HIGH, 15.0)]
    assert [len(times) for times in result.sojourns] == [2, 40, 0]
    assert result.ended_ms > 40 * (5.0 + 1.0)  # each of the closed sender's jobs waited for the one before


def test_a_closed_sender_goes_on_after_a_job_that_was_given_up() -> None:
    trace = traced(Sender(NORMAL, 1, 1.0, True, [1.0] * 5, [None] * 5))

    (figures,) = replay.replay(trace, NOW, seeds=(1,))

    assert figures.in_time == 0.0
    result = replay.Slot(trace.table, NOW).run(waits=replay.arrivals(trace)[1])
    assert result.late == 5


def test_a_replay_is_the_same_each_time() -> None:
    trace = traced(*[waiting(50, 0.4)] * 3)

    assert replay.replay(trace, NOW) == replay.replay(trace, NOW)


def test_two_senders_that_would_take_turns_show_what_waiting_for_them_gains() -> None:
    later = Sender(NORMAL, 1, 0.0, True, [3.4, *[0.4] * 99], [6.0] * 100)
    trace = traced(waiting(100, 0.4), later)
    how, without = replay.MECHANISMS["waiting for senders"]

    moved = replay.verdicts(replay.replay(trace, how), replay.replay(trace, without))

    assert moved["per_s"] > 0.2


def test_a_figure_counts_as_moved_only_where_every_seed_agrees_and_by_more_than_noise() -> None:
    base = Figures(mean_ms=10.0, p99_ms=20.0, per_s=100.0, high_p99_ms=1.0, in_time=0.5)
    quicker = Figures(mean_ms=8.0, p99_ms=20.2, per_s=110.0, high_p99_ms=0.95, in_time=0.4)
    slower = Figures(mean_ms=12.0, p99_ms=20.2, per_s=120.0, high_p99_ms=0.95, in_time=0.4)

    moved = replay.verdicts([quicker, slower], [base, base])

    assert moved.keys() == {"per_s", "in_time"}
    assert moved["per_s"] > 0 > moved["in_time"]


def test_what_was_seen_is_told_with_jobs_that_came_late_or_not_at_all() -> None:
    trace = traced(Sender(NORMAL, 1, 10.0, False, [0.0, 100.0, 100.0, 300.0], [8.0, 12.0, None, 4.0]))

    seen = replay.seen(trace)

    assert seen.mean_ms == pytest.approx(8.0)
    assert seen.in_time == 0.5
    assert seen.per_s == pytest.approx(3 / 0.504)


@pytest.mark.parametrize("path", sorted(recorded.FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_kept_trace_is_small_and_carries_its_machine_its_date_and_its_table(path: Path) -> None:
    trace = msgspec.json.decode(path.read_bytes(), type=Trace)

    assert path.stat().st_size <= recorded.MOST_BYTES
    assert path.stem == trace.name
    assert trace.machine
    assert trace.date
    assert trace.table
    assert all(len(one.gaps_ms) == len(one.took_ms) for one in trace.senders)
