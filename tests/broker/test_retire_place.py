"""The place among those retiring: enough slots of the model stay ready, and nobody retires while one fails to load."""

from __future__ import annotations

import pytest

from broker import keys, roster
from broker.connection import Link
from tests.broker.actors import MODEL, Client, Slot, now_ms


def slots(link: Link, count: int, *, wanted: int | None = None) -> list[Slot]:
    """Ready slots of a model that wants as many."""
    roster.want(link, "box", MODEL, count if wanted is None else wanted)
    found = [Slot(link, f"box/{number}") for number in range(count)]
    for one in found:
        one.pulse(ready_ms=60_000)
    return found


def ask(slot: Slot, *, place_ttl_ms: int = 60_000) -> bool:
    return bool(slot.link.call(*slot.queue.ask_to_retire(slot.name, place_ttl_ms=place_ttl_ms)) == 1)


@pytest.mark.parametrize(
    ("wanted", "granted"),
    [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3)],
)
def test_three_quarters_of_the_slots_wanted_stay_ready(link: Link, client: Client, wanted: int, granted: int) -> None:
    assert sum(ask(slot) for slot in slots(link, wanted)) == granted


def test_a_model_with_one_slot_retires_without_asking(link: Link, client: Client) -> None:
    (only,) = slots(link, 1)
    only.pulse(failing_ms=60_000)
    assert ask(only)


def test_slots_that_are_not_ready_do_not_count(link: Link, client: Client) -> None:
    # given
    first, second, *_ = slots(link, 4)
    # when
    second.pulse(ready_ms=0)
    # then
    assert not ask(first)


def test_readiness_that_was_not_renewed_does_not_count(link: Link, client: Client) -> None:
    # given
    first, second, *_ = slots(link, 4)
    # when
    link.call("ZADD", keys.ready(MODEL), now_ms(link) - 1, second.name)
    # then
    assert not ask(first)


def test_a_failing_slot_keeps_all_others_from_retiring_until_it_loads(link: Link, client: Client) -> None:
    # given
    first, *_, last = slots(link, 8)
    last.pulse(ready_ms=0, failing_ms=60_000)
    assert not ask(first)
    # when
    last.pulse(ready_ms=60_000, failing_ms=0)
    # then
    assert ask(first)


def test_a_failure_that_was_not_renewed_blocks_nobody(link: Link, client: Client) -> None:
    first, *_ = slots(link, 4)
    link.call("ZADD", keys.failing(MODEL), now_ms(link) - 1, "gone/0")
    assert ask(first)


def test_asking_again_keeps_the_place(link: Link, client: Client) -> None:
    first, second = slots(link, 2)
    assert [ask(first), ask(first), ask(second)] == [True, True, False]
    assert link.call("ZCARD", keys.retiring(MODEL)) == 1


def test_an_expired_place_is_free_again(link: Link, client: Client) -> None:
    # given
    first, second = slots(link, 2)
    assert ask(first)
    assert not ask(second)
    # when
    link.call("ZADD", keys.retiring(MODEL), now_ms(link) - 1, first.name)
    # then
    assert ask(second)


def test_the_next_incarnation_frees_the_place_when_it_is_ready(link: Link, client: Client) -> None:
    # given
    first, second = slots(link, 2)
    assert ask(first)
    # when
    first.pulse(ready_ms=60_000, frees=True)
    # then
    assert ask(second)
    assert not ask(first)


def test_slots_wanted_on_several_hosts_add_up(link: Link, client: Client) -> None:
    # given: 2 + 6 wanted, 8 ready
    everyone = slots(link, 8, wanted=2)
    roster.want(link, "other", MODEL, 6)
    # then
    assert sum(ask(slot) for slot in everyone) == 2


def test_a_slot_that_asks_no_more_holds_nobody_up_though_it_waited_longest(link: Link, client: Client) -> None:
    # given: refused while another fails to load, then it need not retire any more, or lives its next life
    first, second, third, *_ = slots(link, 4)
    third.pulse(ready_ms=0, failing_ms=60_000)
    assert not ask(first)
    third.pulse(ready_ms=60_000)
    assert not ask(second), "the first waits longer"
    # when
    link.call("ZADD", keys.asked(MODEL), now_ms(link) - 3_000, first.name)
    # then
    assert ask(second)
    assert link.call("ZRANGE", keys.due(MODEL), 0, -1) == link.call("ZRANGE", keys.asked(MODEL), 0, -1) == []
