"""Whether a free engine waits for company. Pure; times are Redis' ms as numbers."""

from __future__ import annotations

from tests.workers.test_batcher import job
from workers.waiting import WINDOW_SHARE, Waiting

SAVED_MS = 10.0
WINDOW_MS = WINDOW_SHARE * SAVED_MS


def submitted(*times_ms: int) -> list[object]:
    import msgspec

    return [msgspec.structs.replace(job(), submitted_ms=at) for at in times_ms]


def rounds(waiting: Waiting, count: int, *, back: int, every_ms: int = 100, saved_ms: float = SAVED_MS) -> int:
    """`count` forwards, each followed by `back` jobs within its window; when the last one ended."""
    now = 1000
    for _ in range(count):
        now += every_ms
        waiting.freed(now, saved_ms)
        waiting.came(submitted(*[now + 1] * back))  # type: ignore[arg-type]
    return now


def test_nothing_waits_before_anything_is_known_and_a_lone_job_never() -> None:
    waiting = Waiting(5.0)
    waiting.freed(1000, SAVED_MS)
    assert waiting.left_ms(1001, 1, SAVED_MS) == 0
    now = rounds(waiting, 20, back=1)  # one in flight: after its own job nobody else comes
    assert waiting.left_ms(now + 1, 1, SAVED_MS) == 0


def test_senders_that_wait_for_results_are_waited_for_as_long_as_their_window_is_open() -> None:
    waiting = Waiting(5.0)
    now = rounds(waiting, 20, back=8) + 100
    waiting.freed(now, SAVED_MS)
    waiting.came(submitted(now + 1))  # type: ignore[arg-type]
    assert waiting.left_ms(now + 1, 1, SAVED_MS) == WINDOW_MS - 1
    assert waiting.left_ms(now + WINDOW_MS, 1, SAVED_MS) == 0, "they did not come"
    waiting.came(submitted(*[now + 2] * 7))  # type: ignore[arg-type]
    assert waiting.left_ms(now + 2, 8, SAVED_MS) == 0, "all are here"


def test_many_in_hand_do_not_wait_for_few() -> None:
    waiting = Waiting(5.0)
    now = rounds(waiting, 20, back=2) + 100
    waiting.freed(now, SAVED_MS)
    assert waiting.left_ms(now, 4, SAVED_MS) > 0
    assert waiting.left_ms(now, 40, SAVED_MS) == 0


def test_a_job_that_came_long_after_the_last_answer_is_run_at_once() -> None:
    waiting = Waiting(5.0)
    now = rounds(waiting, 20, back=8)
    assert waiting.left_ms(now + 50, 1, SAVED_MS) == 0, "low load: no timer"


def test_jobs_of_a_window_count_though_they_are_claimed_after_the_next_forward() -> None:
    waiting = Waiting(5.0)
    for now in range(0, 2000, 100):
        waiting.freed(now, SAVED_MS)
        waiting.came(submitted(*[now - 99] * 8))  # type: ignore[arg-type]
    assert waiting.expected > 7


def test_quick_models_and_a_bound_of_zero_never_wait_and_the_bound_holds() -> None:
    for waiting, saved_ms in ((Waiting(5.0), 0.5), (Waiting(0.0), SAVED_MS)):
        now = rounds(waiting, 20, back=8, saved_ms=saved_ms)
        assert not waiting.is_open
        assert waiting.left_ms(now, 1, saved_ms) == 0
    bounded = Waiting(2.0)
    now = rounds(bounded, 20, back=8, saved_ms=1000.0) + 100
    bounded.freed(now, 1000.0)
    assert bounded.left_ms(now, 1, 1000.0) == 2.0
