"""A spare takes a retiring slot's place: each phase by itself, then the whole way with the agent dying at every step."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from broker.overlap import Request
from broker.roster import Assignment
from operators.places import Action, Place, Seen
from operators.swap import short_of, swaps
from operators.wishes import passing

TINY, OTHER = Assignment("tiny", "/tiny"), Assignment("other", "/other")
GPU = Assignment("tiny", "/tiny", "cuda:0")
GB = 1 << 30


def old(**changes: Any) -> Place:
    plain = Place(0, "RUNNING", 10, 99.0, TINY, 0.1, True, True, "ready", host_bytes=GB)
    return msgspec.structs.replace(plain, **changes)


def idle(number: int, **changes: Any) -> Place:
    return msgspec.structs.replace(Place(number, "STOPPED"), **changes)


def ask(**changes: Any) -> Request:
    return msgspec.structs.replace(Request("tiny", "max_jobs", 10, 1000), **changes)


def seen(*places: Place, free: int | None = 8 * GB, device: int | None = None, **requests: Request) -> Seen:
    return Seen(
        now_ms=2000, places={one.number: one for one in places}, free_host_bytes=free, free_device_bytes={"cuda:0": device},
        requests={int(name.removeprefix("of_")): one for name, one in requests.items()},
    )  # fmt: skip


def decide(found: Seen) -> list[Action]:
    return swaps(found, load_timeout_s=60)


def told(actions: list[Action]) -> list[tuple[str, int]]:
    return [(action.verb, action.number) for action in actions]


@pytest.mark.parametrize(("phase", "beside"), [("asked", set()), ("loading", {3}), ("swapping", {0}), ("refused", {3})])
def test_of_a_slot_and_its_spare_one_stands_beside_the_count(phase: Any, beside: set[int]) -> None:
    assert passing({0: ask(phase=phase, spare=-1 if phase == "asked" else 3)}) == beside


def test_a_request_is_granted_the_lowest_free_number_and_written_before_the_start() -> None:
    answer, assign, start = decide(seen(old(), idle(1, state="FATAL"), idle(2), idle(3), of_0=ask()))
    assert answer.request is not None
    assert (answer.verb, answer.request.phase, answer.request.spare) == ("answer", "loading", 2)
    assert (assign.verb, assign.number, assign.assignment) == ("assign", 2, TINY)
    assert (start.verb, start.number) == ("start", 2)


@pytest.mark.parametrize(
    ("place", "free", "device", "why"),
    [
        (old(), GB, None, "1280 MB of host memory needed, 1024 MB free"),
        (old(), None, None, "an unknown amount free"),
        (old(host_bytes=0), 8 * GB, None, "memory its engine takes is not known"),
        (old(assignment=GPU), 8 * GB, 8 * GB, "takes on cuda:0 is not known"),
        (old(assignment=GPU, device_bytes=4 * GB), 8 * GB, 4 * GB, "5120 MB of memory on cuda:0 needed, 4096 MB free"),
        (old(assignment=GPU, device_bytes=4 * GB), 8 * GB, None, "an unknown amount free"),
        (old(assignment=GPU, device_bytes=4 * GB), 8 * GB, 6 * GB, ""),
        (old(), 8 * GB, None, ""),
    ],
)
def test_only_memory_that_was_measured_free_counts(
    place: Place, free: int | None, device: int | None, why: str
) -> None:
    found = seen(place, idle(1), free=free, device=device, of_0=ask())
    assert why in short_of(place, found) if why else short_of(place, found) == ""
    (first, *more) = decide(found)
    assert first.request is not None
    assert (first.request.phase, bool(more)) == (("refused", False) if why else ("loading", True))


def test_without_a_free_number_the_request_is_refused() -> None:
    (answer,) = decide(seen(old(), old(number=1, pid=11), of_0=ask()))
    assert answer.request is not None
    assert (answer.request.phase, answer.request.why) == ("refused", "no slot number is free")


def test_one_swap_per_model_at_a_time_and_two_models_at_once() -> None:
    second, third = old(number=1, pid=11), old(number=2, pid=12, assignment=OTHER)
    requests = {"of_0": ask(), "of_1": ask(pid=11), "of_2": ask(pid=12, model="other")}
    found = decide(seen(old(), second, third, idle(3), idle(4), **requests))
    assert [action.number for action in found if action.verb == "start"] == [3, 4]
    assert [action.number for action in found if action.verb == "answer"] == [0, 2]


@pytest.mark.parametrize("place", [old(pid=11), old(assignment=None), idle(0)])
def test_a_request_of_a_life_that_is_over_is_dropped(place: Place) -> None:
    (drop,) = decide(seen(place, idle(1), of_0=ask()))
    assert (drop.verb, drop.request) == ("answer", None)


LOADING = ask(phase="loading", spare=1)
SPARE = Place(1, "RUNNING", 20, 5.0, TINY, 0.1, True, False, "loading")


@pytest.mark.parametrize(
    ("spare", "since_ms", "place", "why"),
    [
        (msgspec.structs.replace(SPARE, word="backing off"), 1000, old(), "is backing off"),
        (msgspec.structs.replace(SPARE, word="failing"), 1000, old(), "is failing"),
        (SPARE, 2000 - 61_000, old(), "not ready within 60 s"),
        (SPARE, 1000, old(assignment=None), "taken away meanwhile"),
        (SPARE, 1000, old(), ""),
        (SPARE, 1000, old(pid=77, is_current=False), ""),  # it died and starts again: whoever is ready first serves
    ],
)
def test_a_spare_that_does_not_come_is_a_refusal(spare: Place, since_ms: int, place: Place, why: str) -> None:
    found = decide(seen(place, spare, of_0=msgspec.structs.replace(LOADING, since_ms=since_ms)))
    assert [action.request.phase for action in found if action.request] == (["refused"] if why else [])
    assert not why or why in found[0].why


def test_the_old_slot_is_stopped_only_when_the_spare_is_ready() -> None:
    ready = msgspec.structs.replace(SPARE, is_ready=True, word="ready")
    found = decide(seen(old(), ready, of_0=LOADING))
    assert told(found) == [("answer", 0), ("assign", 0), ("stop", 0)]
    assert found[0].request is not None
    assert found[0].request.phase == "swapping"


def test_a_refused_spare_is_taken_back_before_its_request_goes() -> None:
    refused = ask(phase="refused", spare=1, why="slow")
    assert told(decide(seen(old(), SPARE, of_0=refused))) == [("assign", 1), ("stop", 1)]
    unassigned = msgspec.structs.replace(SPARE, assignment=None, state="STOPPING")
    assert decide(seen(old(), unassigned, of_0=refused)) == []
    assert told(decide(seen(old(), idle(1), of_0=refused))) == [("forget", 1), ("answer", 0)]
    alone = ask(phase="refused", why="slow")
    assert decide(seen(old(), idle(1), of_0=alone)) == [], "the slot must still read it"
    assert told(decide(seen(old(pid=11), idle(1), of_0=alone))) == [("answer", 0)]


class Host:
    """A host that does what it is told at once, except loading and draining, which take a `settle`."""

    def __init__(self) -> None:
        self.places = {0: old(), 1: idle(1)}
        self.requests = {0: ask()}
        self.pids = iter(range(100, 10_000))
        self.can_load = True

    def seen(self) -> Seen:
        return Seen(2000, dict(self.places), dict(self.requests), 8 * GB)

    def act(self, action: Action) -> None:
        one = self.places[action.number]
        change = msgspec.structs.replace
        if action.verb == "assign":
            self.places[action.number] = change(one, assignment=action.assignment)
        elif action.verb == "start" and one.is_at_rest:
            self.places[action.number] = change(
                one, state="RUNNING", pid=next(self.pids), is_current=True, word="loading"
            )
        elif action.verb == "stop" and one.is_up:
            self.places[action.number] = change(one, state="STOPPING", is_ready=False)
        elif action.verb == "answer" and action.request is None:
            self.requests.pop(action.number, None)
        elif action.verb == "answer" and action.request is not None:
            self.requests[action.number] = action.request

    def settle(self) -> None:
        for number, one in self.places.items():
            if one.state == "STOPPING":
                self.places[number] = idle(number, assignment=one.assignment)
            elif one.state == "RUNNING" and not one.is_ready:
                word = "ready" if self.can_load else "failing"
                self.places[number] = msgspec.structs.replace(one, is_ready=self.can_load, word=word)
            elif one.is_at_rest and one.assignment is not None:  # the rest of the agent: what is wanted is started
                self.act(Action("start", number))

    @property
    def ready(self) -> int:
        return sum(one.is_ready for one in self.places.values())

    @property
    def assigned(self) -> list[int]:
        return [number for number, one in self.places.items() if one.assignment is not None]


@pytest.mark.parametrize("can_load", [True, False])
@pytest.mark.parametrize("dies_after", range(12))
def test_an_agent_that_dies_after_any_step_leaves_one_slot_assigned_and_never_none_ready(
    can_load: bool, dies_after: int
) -> None:
    host = Host()
    host.can_load = can_load
    steps = 0
    for _ in range(12):
        for action in decide(host.seen()):
            if steps == dies_after:
                steps += 1
                break  # it died here; its successor looks again
            steps += 1
            host.act(action)
            assert host.ready >= 1
            assert 1 <= len(host.assigned) <= 2
        host.settle()
        assert host.ready >= 1
    assert host.assigned == ([1] if can_load else [0])
    assert host.requests.keys() == (set() if can_load else {0})
    assert [one.state for one in host.places.values()].count("RUNNING") == 1
