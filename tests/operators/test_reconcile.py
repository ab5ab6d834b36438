"""What the agent does about slots that should run and do not, and about stuck ones: a table of situations."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from broker.overlap import Request
from broker.roster import Assignment
from operators.places import Action, Place, Seen
from operators.reconcile import QUICK_DEATHS, Reconciler

TINY = Assignment("tiny", "/tiny")


def place(number: int = 0, state: str = "RUNNING", **changes: Any) -> Place:
    """A slot that runs, is assigned and beat just now, unless told otherwise."""
    is_running = state in ("RUNNING", "STARTING")
    plain = {"pid": 100 + number, "up_s": 1000.0, "beat_age_s": 0.5, "is_current": True} if is_running else {}
    return Place(number=number, state=state, **({"assignment": TINY} | plain | changes))  # type: ignore[arg-type]


def seen(*places: Place, requests: dict[int, Request] | None = None) -> Seen:
    return Seen(now_ms=1_000_000, places={one.number: one for one in places}, requests=requests or {})


@pytest.fixture
def reconciler() -> Reconciler:
    return Reconciler(silent_limit_s=30, hang_limit_s=75)


def look(reconciler: Reconciler, now: float, *places: Place) -> list[Action]:
    """One round: all that is decided is carried out."""
    found = reconciler.stuck(seen(*places), now) + reconciler.wanted(seen(*places), now)
    for action in found:
        reconciler.did(action, now)
    return found


def told(actions: list[Action]) -> list[tuple[str, int, str]]:
    return [(action.verb, action.number, action.kind) for action in actions]


def test_slots_that_belong_to_nothing_are_stopped_where_all_were_taken_away_and_not_where_redis_was_emptied(
    reconciler: Reconciler,
) -> None:
    left = seen(place(0, assignment=None), place(1, assignment=None))
    assert reconciler.wanted(left, 0.0) == []
    meant = msgspec.structs.replace(left, is_meant=True)
    assert told(reconciler.wanted(meant, 1.0)) == [("stop", 0, "surplus"), ("stop", 1, "surplus")]


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (place(), []),
        (place(state="STOPPED"), [("start", 0, "start again")]),
        (place(state="FATAL"), [("start", 0, "revive")]),
        (place(state="BACKOFF"), []),  # supervisord tries again by itself
        (place(state="EXITED"), []),  # so it does here, within a second
        (place(state="STOPPING"), []),
        (place(state="STOPPED", assignment=None), []),
        (place(state="FATAL", assignment=None), []),
    ],
)
def test_what_is_wanted_and_at_rest_is_started(
    reconciler: Reconciler, one: Place, expected: list[tuple[str, int, str]]
) -> None:
    assert told(look(reconciler, 100.0, one)) == expected


def test_an_exited_slot_that_supervisord_forgot_is_started_after_all(reconciler: Reconciler) -> None:
    assert look(reconciler, 100.0, place(state="EXITED")) == []
    assert told(look(reconciler, 103.5, place(state="EXITED"))) == [("start", 0, "start again")]


def test_a_slot_that_stays_fatal_is_revived_ever_more_rarely_and_for_ever(reconciler: Reconciler) -> None:
    tried = [now for now in range(1000) if look(reconciler, float(now), place(state="FATAL"))]
    assert tried[:7] == [0, 1, 3, 7, 15, 31, 63]
    assert {later - at for at, later in itertools.pairwise(tried[6:])} == {60}


def test_a_start_that_was_heard_of_ends_the_patience(reconciler: Reconciler) -> None:
    for now in (0.0, 1.0, 3.0):
        assert look(reconciler, now, place(state="FATAL"))
    assert look(reconciler, 4.0, place(state="FATAL")) == []
    look(reconciler, 4.5, place())
    assert told(look(reconciler, 5.0, place(state="FATAL"))) == [("start", 0, "revive")]


def test_a_program_that_ends_at_once_time_and_again_is_given_a_pause(reconciler: Reconciler) -> None:
    found: list[Action] = []
    for turn in range(QUICK_DEATHS):
        reconciler.started(0, turn * 0.2)
        found += look(reconciler, turn * 0.2, place(pid=200 + turn, is_current=False, up_s=0.1, beat_age_s=None))
    assert told(found) == [("stop", 0, "pause")]
    assert look(reconciler, 2.5, place(state="STOPPED")) == []
    assert told(look(reconciler, 3.5, place(state="STOPPED"))) == [("start", 0, "start again")]


def test_slots_that_are_killed_often_but_speak_are_given_none(reconciler: Reconciler) -> None:
    for turn in range(40):
        reconciler.started(0, turn * 0.2)
        assert look(reconciler, turn * 0.2, place(pid=200 + turn)) == []


def test_slots_that_retire_so_fast_that_each_look_falls_between_two_lives_are_given_none(
    reconciler: Reconciler,
) -> None:
    for turn in range(40):
        reconciler.started(0, turn * 0.2)
        between = place(pid=200 + turn, is_current=False, up_s=0.1, beat_age_s=0.3)
        assert look(reconciler, turn * 0.2, between) == []


def test_a_slot_that_belongs_to_nothing_is_stopped_but_not_after_redis_was_emptied(reconciler: Reconciler) -> None:
    loose = place(3, assignment=None)
    assert told(look(reconciler, 0.0, place(), loose)) == [("stop", 3, "surplus")]
    assert look(reconciler, 0.0, loose, place(0, assignment=None)) == []
    swap = {3: Request("tiny", "max_jobs", 103, 0, "swapping", 0)}
    assert reconciler.wanted(seen(place(), loose, requests=swap), 0.0) == []


# --- stuck ------------------------------------------------------------------------------------


def watch(reconciler: Reconciler, until: int, *, silent_from: int = 0, **changes: Any) -> list[tuple[int, Action]]:
    """A look each second at a slot whose last announcement was at `silent_from`."""
    found = []
    for now in range(until):
        age_s = max(0.5, float(now - silent_from))
        one = place(**({"beat_age_s": age_s, "is_current": age_s < 10} | changes))
        found += [(now, action) for action in reconciler.stuck(seen(one), float(now))]
    return found


def test_a_slot_that_spoke_and_fell_silent_is_killed_after_the_limit(reconciler: Reconciler) -> None:
    ((at, action), *again) = watch(reconciler, 60, silent_from=10)
    assert (at, action.verb, action.pid) == (41, "kill", 100)
    assert "limit 30 s" in action.why
    assert [later for later, _ in again] == [51], "once more where the kill did nothing"


def test_a_slot_that_never_spoke_is_never_judged(reconciler: Reconciler) -> None:
    # the announcement is of the life before: this process is younger than it
    assert watch(reconciler, 200, silent_from=10, is_current=False, up_s=1.0) == []
    assert watch(reconciler, 200, is_current=False, beat_age_s=None) == []


def test_a_fresh_agent_judges_what_it_finds_silent_only_after_watching_as_long_itself(reconciler: Reconciler) -> None:
    found = watch(reconciler, 100, silent_from=-500, is_current=False)
    assert found[0][0] == 31


def test_silence_while_redis_was_away_is_held_against_nobody(reconciler: Reconciler) -> None:
    killed = []
    for now in range(75):
        if 20 <= now < 40:
            reconciler.lost()
        elif reconciler.stuck(seen(place(beat_age_s=max(0.5, float(now - 15)), is_current=now < 25)), float(now)):
            killed.append(now)
    assert killed == [71], "counted anew from the reconnect at 40"


def test_an_agent_that_was_away_itself_does_not_judge_by_the_gap(reconciler: Reconciler) -> None:
    reconciler.stuck(seen(place()), 0.0)
    reconciler.stuck(seen(place()), 1.0)
    assert reconciler.stuck(seen(place(beat_age_s=400.0, is_current=False)), 401.0) == []


def test_a_flushed_redis_does_not_make_slots_silent_at_once(reconciler: Reconciler) -> None:
    watch(reconciler, 50, silent_from=49)
    assert reconciler.stuck(seen(place(beat_age_s=None, is_current=False)), 50.0) == []


@pytest.mark.parametrize(("silent_s", "kills"), [(74.0, 0), (76.0, 1)])
def test_a_slot_that_beats_while_its_loop_stands_still_is_killed(
    reconciler: Reconciler, silent_s: float, kills: int
) -> None:
    assert len(look(reconciler, 0.0, place(silent_s=silent_s))) == kills


def test_a_slot_that_drains_is_left_to_supervisord(reconciler: Reconciler) -> None:
    assert watch(reconciler, 100, silent_from=10, state="STOPPING", pid=100, up_s=1000.0) == []
