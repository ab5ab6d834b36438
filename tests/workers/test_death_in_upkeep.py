"""An engine found dead by the question for its memory while results wait for Redis: they are settled all the same."""

from __future__ import annotations

from typing import Any

import pytest

from tests.wait import wait_until
from tests.workers.fakes import SPEC, Client, LateEngine, RunningSlot
from tests.workers.test_fair_slots import Sleeper, known
from workers.batch import Batch
from workers.engine_client import EngineDied
from workers.exchange import Measure, Run
from workers.exits import Exit


class DiesIdle(LateEngine):
    """Found dead as it is asked for its memory."""

    def send(self, message: Run | Measure) -> None:
        if isinstance(message, Measure):
            raise EngineDied("broken pipe")
        super().send(message)


def test_results_that_wait_are_settled_when_the_measurement_finds_the_engine_dead(
    redis_url: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Sleeper(10.0)
    handed: list[int] = []
    running = RunningSlot(redis_url, engine=DiesIdle(SPEC, backend), timetable=known(20.0), low_batch_ms=0.0)
    slot, runner = running.slot, running.slot._runner
    ran: list[int] = []
    advance, hand_over = runner.advance, runner._hand_over

    def advanced(*given: Any) -> None:
        advance(*given)
        if len(backend.batches) >= 4 and runner.is_idle and not ran:  # the turn in which a batch has ended
            ran.append(sum(handed))
            slot._upkeep._sample_at = 0.0  # a measurement is due in this very turn

    def handing(batch: Batch) -> None:
        handed.append(batch.rows)
        hand_over(batch)

    monkeypatch.setattr(runner, "advance", advanced)
    monkeypatch.setattr(runner, "_hand_over", handing)
    with running:
        client.wait(client.submit(0.0, lane=1))
        client.submit(*(float(number) for number in range(300)), lane=3)
        wait_until(lambda: running.verdict is not None, "it ends")
    assert running.verdict is not None
    assert running.verdict.exit is Exit.ENGINE_DIED
    # then: what ran was answered, and what did not was returned; nothing is still a lease of the slot that is gone
    assert [client.link.call(*command) for command in running.queue.pending()] == [[], [], []]
    assert client.counters()["done"] == ran[0], "results that were there are told"
