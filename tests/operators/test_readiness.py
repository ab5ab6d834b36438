"""Waiting for slots while the agent swaps numbers."""

from __future__ import annotations

from pathlib import Path

from operators.readiness import _follow_swaps, _Trouble, last_line


def test_a_slots_last_log_line_is_told_in_words(tmp_path: Path) -> None:
    log = tmp_path / "slot.log"
    log.write_text('{"event": "slot cannot start", "error": "no Redis", "level": "error"}\n')
    assert last_line(log) == "slot cannot start: no Redis"
    log.write_text("a line\nTypeError: of another program\n")
    assert last_line(log) == "TypeError: of another program"


LOADING = _Trouble("loading", is_final=False)


def follow(numbers: list[int], before: dict[int, str], now: dict[int, str]) -> set[int]:
    return set(_follow_swaps(dict.fromkeys(numbers, LOADING), before, now))


def test_a_slot_whose_place_a_spare_took_is_not_waited_for_any_more_but_the_spare_is() -> None:
    assert follow([0, 1], {0: "a", 1: "a"}, {1: "a", 2: "a"}) == {1, 2}


def test_slots_of_other_models_stand_for_nobody() -> None:
    assert follow([0], {0: "a"}, {2: "b"}) == {0}


def test_without_a_swap_nothing_changes_not_even_when_redis_forgot_all() -> None:
    assert follow([0, 1], {0: "a", 1: "a"}, {0: "a", 1: "a"}) == {0, 1}
    assert follow([0, 1], {0: "a", 1: "a"}, {0: "a", 1: "a", 2: "a"}) == {0, 1}, "the old one is still there"
    assert follow([0, 1], {0: "a", 1: "a"}, {}) == {0, 1}


def test_two_slots_are_followed_by_two_spares() -> None:
    assert follow([0, 1], {0: "a", 1: "a"}, {2: "a", 3: "a"}) == {2, 3}
