"""Two producers with one key, and waiters that race with the result."""

from __future__ import annotations

import threading
from collections import Counter

from broker.errors import PenstockError
from producer import Producer
from tests.chaos.case import Case, Seen, judged
from tests.chaos.fake import MODEL, OK, answer, executions
from tests.chaos.stage import staged
from tests.chaos.traffic import Tally, new_serials, row

CHUNK = 50
RESULT_WITHIN_S = 60.0


def same_key(jobs: int) -> Seen:
    """Two producers submit the same jobs under the same keys at once: each runs once, and both get its answer."""
    seen = Seen()
    with staged() as stage, judged(stage, seen) as hand_in:
        tally, lock = Tally(submitted=jobs), threading.Lock()
        with Producer(stage.url) as one, Producer(stage.url) as two:
            for _ in range(0, jobs, CHUNK):
                serials = new_serials(CHUNK)
                rows = [row(serial, OK) for serial in serials]
                keys = [f"order-{serial}" for serial in serials]
                taken: dict[int, list[str]] = {}
                start = threading.Barrier(2)

                def submit(number: int, producer: Producer) -> None:
                    start.wait()  # noqa: B023 - joined within the turn
                    handles = producer.submit_many(MODEL, rows, idempotency_keys=keys)  # noqa: B023
                    answers = [int(handle.result(RESULT_WITHIN_S)["y"][0]) for handle in handles]
                    with lock:
                        taken[number] = [handle.id for handle in handles]  # noqa: B023
                        tally.wrong += sum(got != answer(want) for got, want in zip(answers, serials, strict=True))  # noqa: B023

                _in_threads(*((submit, number, producer) for number, producer in enumerate((one, two))))
                same = sum(a == b for a, b in zip(taken.get(0, []), taken.get(1, []), strict=False))
                tally.done += same
                tally.lost += CHUNK - same
                seen.faults += CHUNK
        ran = Counter(executions(stage.executions).tolist())
        seen.expect(max(ran.values()) == 1, "a job under one key ran twice")
        hand_in(tally)
    return seen


def racing_waiters(jobs: int) -> Seen:
    """While the jobs run another process's client asks for the same results by id: both get each of them."""
    seen = Seen()
    with staged() as stage, judged(stage, seen) as hand_in:
        tally, lock = Tally(submitted=jobs), threading.Lock()
        with Producer(stage.url) as owner, Producer(stage.url) as other:
            for _ in range(0, jobs, CHUNK):
                serials = new_serials(CHUNK)
                handles = owner.submit_many(MODEL, [row(serial, OK) for serial in serials])
                answered = {"owner": 0, "other": 0}

                def wait(name: str) -> None:
                    for serial, handle in zip(serials, handles, strict=True):  # noqa: B023
                        mine = handle if name == "owner" else other.handle(handle.id)
                        try:
                            is_right = int(mine.result(RESULT_WITHIN_S)["y"][0]) == answer(serial)
                        except PenstockError:
                            continue
                        with lock:
                            answered[name] += 1  # noqa: B023
                            tally.wrong += not is_right

                _in_threads((wait, "owner"), (wait, "other"))
                tally.done += answered["owner"]
                tally.lost += 2 * CHUNK - sum(answered.values())
                seen.faults += CHUNK
        hand_in(tally)
    return seen


def _in_threads(*calls: tuple) -> None:  # type: ignore[type-arg]
    threads = [threading.Thread(target=call[0], args=call[1:]) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


CASES = (
    Case("one idempotency key from two producers", same_key, "jobs", 100, 500, 10_000),
    Case("waiters race with results", racing_waiters, "jobs", 100, 500, 10_000),
)
