"""An engine that is silent for too long, and one that is only slow."""

from __future__ import annotations

import threading
import time
from typing import Any

from broker import keys
from tests.wait import wait_until
from tests.workers.fakes import MODEL, SPEC, Client, Doubler, LateEngine, RunningSlot, SilentEngine, first
from workers.batch import Batch
from workers.exchange import Measure, Run
from workers.exits import Exit
from workers.runner import Runner
from workers.timetable import Timetable
from workers.watchdog import SLEPT_S


class Babble:
    """Keeps a slot's wire busy, so that its loop turns all the time: each answer asks the next question."""

    def __init__(self, slot: RunningSlot) -> None:
        self.asked = 0
        self.is_over = False
        self._wire = slot.slot._leases.wire
        self._again(None)

    def _again(self, _: Any) -> None:
        if not self.is_over:
            self.asked += 1
            self._wire.send((("PING",), self._again))


class HangsInMeasure(SilentEngine):
    """Runs batches, and never answers how much memory it holds."""

    def fileno(self) -> int:
        return -1 if self._answers else super().fileno()

    def send(self, message: Run | Measure) -> None:
        if isinstance(message, Run):
            self._answers.append(self._forward.run(message))


def test_an_engine_that_hangs_while_it_measures_is_killed_and_no_job_is_marked(redis_url: str, client: Client) -> None:
    slot = RunningSlot(
        redis_url, engine=HangsInMeasure(SPEC, Doubler()), hang_floor_s=0.1, retire={"sample_every_s": 0.02}
    )
    slot.thread.start()
    verdict = slot.join()
    assert verdict.exit is Exit.HANG
    assert verdict.detail.startswith("the engine was silent for ")
    ids = client.submit(1.0)
    assert client.link.call("XPENDING", slot.queue.lanes[1], keys.GROUP)[0] == 0
    with RunningSlot(redis_url):
        assert first(client.wait(ids)[0]) == 2.0


def test_a_hang_is_found_while_redis_keeps_answering(redis_url: str, client: Client) -> None:
    slot = RunningSlot(redis_url, engine=SilentEngine(SPEC, Doubler()), hang_floor_s=0.2)
    babble = Babble(slot)
    client.submit(1.0)
    slot.thread.start()
    wait_until(lambda: slot.slot._runner.death is not None, "the hang is found")
    babble.is_over = True
    assert babble.asked > 50
    assert slot.join().exit is Exit.HANG


def test_a_forward_that_is_always_slow_is_no_hang(redis_url: str, client: Client) -> None:
    backend = Doubler()
    slot = RunningSlot(redis_url, engine=LateEngine(SPEC, backend), hang_floor_s=0.05, hang_factor=20.0)
    backend.before = lambda: time.sleep(0.02)
    babble = Babble(slot)
    with slot:
        client.wait(client.submit(1.0))  # under the floor, and known from now on
        backend.before = lambda: time.sleep(0.2)
        assert first(client.wait(client.submit(2.0))[0]) == 4.0
        babble.is_over = True
    assert slot.join().exit is Exit.DRAINED


def test_an_engine_that_stamps_its_progress_is_not_silent(redis_url: str, client: Client) -> None:
    backend = Doubler()
    engine = LateEngine(SPEC, backend)

    def before() -> None:
        for _ in range(8):
            time.sleep(0.05)
            engine.progress.stamp()

    backend.before = before
    slot = RunningSlot(redis_url, engine=engine, hang_floor_s=0.2)
    babble = Babble(slot)
    with slot:
        assert first(client.wait(client.submit(2.0))[0]) == 4.0
        babble.is_over = True
    assert slot.join().exit is Exit.DRAINED


def test_a_slow_but_legal_forward_does_not_stop_the_loop(redis_url: str, client: Client) -> None:
    backend, gate, begun = Doubler(), threading.Event(), threading.Event()

    def before() -> None:
        begun.set()
        gate.wait(10)

    backend.before = before
    with RunningSlot(redis_url, engine=LateEngine(SPEC, backend)) as slot:
        client.submit(1.0)
        assert begun.wait(10)
        seen = slot.board.progress_at
        for _ in range(2):
            wait_until(lambda: slot.board.progress_at > seen, "the loop goes on")  # noqa: B023 - called in this turn
            seen = slot.board.progress_at
        gate.set()


class Watched(Runner):
    """A runner with a batch in its engine and a clock of the test's own."""

    def __init__(self, engine: SilentEngine) -> None:
        self.now = 100.0
        unused: Any = None
        super().__init__(
            engine=engine, stower=unused, outcomes=unused, bucket=unused, drop=unused, redis_ms=unused,
            claimed_ms={}, caps=unused, timetable=Timetable(floor_s=60.0, factor=20.0), clock=lambda: self.now,
        )  # fmt: skip
        self._sent.append(Batch([], 1, 1, ()))
        self._watchdog.begin()
        self.check_hang()

    def sees(self, now: float) -> bool:
        self.now = now
        self.check_hang()
        return self.has_hung


def test_a_process_that_was_stopped_gives_its_engine_time_again() -> None:
    runner = Watched(SilentEngine(SPEC, Doubler()))
    assert not runner.sees(110.0)
    assert not runner.sees(110.0 + 600), f"more than {SLEPT_S} s between two looks: the engine may have slept as well"
    assert not any(runner.sees(710.0 + 10 * step) for step in range(6))
    assert runner.sees(711.0 + 60)


def test_an_engine_that_survives_sigkill_is_told(redis_url: str, client: Client) -> None:
    class Immortal(SilentEngine):
        def kill(self) -> bool:
            super().kill()
            return False

    slot = RunningSlot(redis_url, engine=Immortal(SPEC, Doubler()), hang_floor_s=0.1)
    client.submit(1.0)
    slot.thread.start()
    assert slot.join().detail.endswith(" s and survives SIGKILL: the driver holds it")
    assert client.link.call("XLEN", keys.lane(MODEL, "normal")) == 1
