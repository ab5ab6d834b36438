"""The open loop's schedule: Poisson, seeded, and never behind itself."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from benchmarks import arrivals


def test_the_same_seed_gives_the_same_arrivals_and_another_seed_others() -> None:
    assert np.array_equal(arrivals.schedule(500, 2, seed=1), arrivals.schedule(500, 2, seed=1))
    assert not np.array_equal(arrivals.schedule(500, 2, seed=1)[:10], arrivals.schedule(500, 2, seed=2)[:10])


def test_arrivals_are_as_many_as_the_rate_says_and_all_within_the_time() -> None:
    due = arrivals.schedule(1_000, 20, seed=3)
    assert abs(len(due) - 20_000) < 5 * 20_000**0.5
    assert due[0] >= 0
    assert due[-1] < 20
    assert (np.diff(due) >= 0).all()


def test_gaps_are_exponential() -> None:
    gaps = np.diff(arrivals.schedule(1_000, 20, seed=3))
    assert gaps.mean() == pytest.approx(0.001, rel=0.05)
    assert gaps.std() == pytest.approx(0.001, rel=0.05)  # an exponential's deviation is its mean
    assert (gaps > 0.001).mean() == pytest.approx(np.exp(-1), rel=0.05)


def test_a_job_that_is_sent_late_is_charged_from_when_it_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that stalls for 60 ms while three jobs come due: each carries its own share of the stall."""

    class Stalling:
        def __init__(self, url: str) -> None:
            self.calls = 0

        async def __aenter__(self) -> Stalling:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

        async def infer(self, *_: object, **__: object) -> None:
            self.calls += 1
            if self.calls == 2:  # the first of the schedule; the call before it warms up
                import time

                time.sleep(0.06)

    monkeypatch.setattr(arrivals, "AsyncProducer", Stalling)
    took_s, late_s = asyncio.run(arrivals._run("", "m", np.zeros((1, 1), np.float32), [0.0, 0.02, 0.04], "high"))
    assert late_s[1] >= 0.03
    assert late_s[2] >= 0.01
    assert all(took >= late for took, late in zip(took_s, late_s, strict=True))
