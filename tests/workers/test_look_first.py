"""Between two batches of the low lane Redis is asked for higher ones; the engine gets what comes of it before results are encoded."""

from __future__ import annotations

from broker.connection import Link
from tests.wait import wait_until
from tests.workers.fakes import SPEC, Client, LateEngine, RunningSlot, first
from tests.workers.test_fair_slots import Sleeper, known

HIGH, NORMAL, LOW = 1, 2, 3  # as a client counts them
FORWARD_MS = 20.0
JOBS = 300  # five batches, the first one short


class Slow:
    """A slot of a model whose forwards take long, and the order of what its runner does: h hands over, e encodes."""

    def __init__(self, redis_url: str) -> None:
        engine = LateEngine(SPEC, Sleeper(FORWARD_MS / 2))
        self.slot = RunningSlot(redis_url, engine=engine, timetable=known(FORWARD_MS), low_batch_ms=0.0)
        self.runner = self.slot.slot._runner
        self.order: list[str] = []
        self._note("_hand_over", "h")
        self._note("_encode", "e")

    def is_waiting(self) -> bool:
        """Whether a batch has ended whose results are not encoded yet."""
        return self.runner._finished is not None

    def _note(self, method: str, letter: str) -> None:
        real = getattr(self.runner, method)

        def noted(*given: object) -> None:
            self.order.append(letter)
            real(*given)

        setattr(self.runner, method, noted)


def order_of(redis_url: str, client: Client, lane: int) -> str:
    """What the runner does while it works off a flood of that lane, in which a high job was heard of: none is sent ahead."""
    slow = Slow(redis_url)
    with slow.slot:
        client.wait(client.submit(0.0, lane=HIGH))
        slow.order.clear()
        outcomes = client.wait(client.submit(*(float(number) for number in range(JOBS)), lane=lane))
    assert [first(outcome) for outcome in outcomes] == [2.0 * number for number in range(JOBS)]
    assert client.left() == (0, 0)
    return "".join(slow.order)


def test_results_of_the_low_lane_are_encoded_behind_the_batch_that_follows(redis_url: str, client: Client) -> None:
    order = order_of(redis_url, client, LOW)
    assert order.startswith("hhehehe"), "each behind the next batch"
    assert order.count("h") == order.count("e")


def test_results_of_higher_lanes_do_not_wait_for_redis(redis_url: str, client: Client) -> None:
    order = order_of(redis_url, client, NORMAL)
    assert order == "he" * order.count("h")


def test_results_that_wait_when_the_slot_is_asked_to_leave_are_settled(
    redis_url: str, client: Client, link: Link
) -> None:
    slow = Slow(redis_url)
    with slow.slot as running:
        client.wait(client.submit(0.0, lane=HIGH))
        ids = client.submit(*(float(number) for number in range(JOBS)), lane=LOW)
        wait_until(lambda: "e" in slow.order[4:], "it works")
        # when: Redis is silent as the next batches end
        link.call("CLIENT", "PAUSE", 400)
        wait_until(slow.is_waiting, "results wait")
        running.slot.leave()
    # then: what ran was answered, the rest waits for others
    done = client.counters()["done"] - 1
    assert 0 < done < JOBS
    assert client.left()[0] == JOBS - done
    with Slow(redis_url).slot:
        assert len(client.wait(ids)) == JOBS
    assert client.counters()["done"] == JOBS + 1


def test_results_that_wait_for_a_redis_that_was_lost_are_settled_when_it_is_back(
    redis_url: str, client: Client, link: Link
) -> None:
    slow = Slow(redis_url)
    connection = int(slow.slot.link.call("CLIENT", "ID"))
    with slow.slot:
        client.wait(client.submit(0.0, lane=HIGH))
        ids = client.submit(*(float(number) for number in range(JOBS)), lane=LOW)
        wait_until(lambda: "e" in slow.order[4:], "it works")
        link.call("CLIENT", "PAUSE", 400)
        wait_until(slow.is_waiting, "results wait")
        link.call("CLIENT", "KILL", "ID", connection)
        assert len(client.wait(ids)) == JOBS
    assert client.counters()["done"] == JOBS + 1
    assert client.left() == (0, 0)
