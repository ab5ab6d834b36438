"""Invariant 1 under random play: every accepted id ends in exactly one final state, and the counters say so.

A client and three slots do random things; a model in Python predicts what each script call may change. Slots keep what
they once claimed and try to end it later, as zombies do.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from broker import keys
from broker.claimed import MOST_MARKS, Claimed
from broker.connection import Link
from broker.messages import LANES, Job
from tests.broker.actors import MODEL, Client, Sent, Slot, counted, delayed, depths, leases
from tests.wait import wait_until
from workers.faults import broken

STEPS = 400
FINAL = ("done", "failed", "dead", "expired", "cancelled")


class Live(msgspec.Struct):
    """One accepted job that has not ended."""

    sent: Sent
    entry: str  # '' while delayed
    owner: str = ""  # '' while it waits
    deliveries: int = 0
    attempt: int = 1

    @property
    def place(self) -> tuple[int, str]:
        return self.sent.lane, self.entry


class Ledger:
    """What must be true of Redis after each step."""

    def __init__(self, link: Link, rng: random.Random) -> None:
        self.link = link
        self.rng = rng
        self.client = Client(link)
        self.slots = [Slot(link, f"box/{number}.1") for number in range(3)]
        self.held: dict[str, list[Job]] = {slot.name: [] for slot in self.slots}
        self.live: dict[str, Live] = {}
        self.final: dict[str, str] = {}
        self.accepted = 0
        self.retried = 0
        self.told: set[str] = set()  # ids whose outcome was replied

    # --- steps ------------------------------------------------------------------------------

    def submit(self) -> None:
        rng = self.rng
        options: dict[str, Any] = {"lane": rng.choice(LANES), "is_stored": rng.random() < 0.7}
        if rng.random() < 0.2:
            options["deadline_ms"] = rng.choice((1, 60_000))
        if rng.random() < 0.2:
            options["delay_ms"] = rng.choice((1, 5))
        for sent in self.client.submit(rng.randint(1, 8), rng.randbytes(rng.randint(0, 300)), **options):
            self.live[sent.id] = Live(sent, sent.entry)
            self.accepted += 1

    def claim(self) -> None:
        slot = self.rng.choice(self.slots)
        room = self.rng.randint(1, 12)
        claimed = slot.claimed(room)
        jobs = claimed.jobs
        assert len(jobs) + len(claimed.broken) <= room
        assert all(lease.deliveries == self.live[lease.id].deliveries for lease in claimed.broken)
        self.bury(slot, claimed)
        for job in jobs:
            one = self.live[job.id]  # never one that has ended
            assert one.owner in ("", keys.RETURNED), f"{job.id} was claimed while {one.owner} held it"
            assert job.deliveries == max(1, one.deliveries)
            assert (job.attempt, job.entry.decode()) == (one.attempt, one.entry)
            assert job.data == one.sent.blob
            one.owner, one.deliveries = slot.name, job.deliveries
        self.held[slot.name] += jobs

    def bury(self, slot: Slot, claimed: Claimed) -> None:
        """Ends what came with too many marks to be run."""
        if claimed.broken:
            assert all(lease.deliveries > MOST_MARKS for lease in claimed.broken)
            assert self.link.call(*slot.queue.fail(map(broken, claimed.broken))) == len(claimed.broken)
            for lease in claimed.broken:
                del self.live[lease.id]
                self.final[lease.id] = "dead"

    def settle(self) -> None:
        slot, jobs = self.some()
        mine = [job for job in jobs if self.is_leased(job)]
        assert slot.settle(jobs) == len(mine)
        self.end(mine, "done")

    def fail(self) -> None:
        slot, jobs = self.some()
        fate = self.rng.choice(("retry", "retry", "failed", "dead"))
        mine = [
            job for job in jobs if self.is_leased(job, slot.name) and self.live[job.id].deliveries == job.deliveries
        ]
        assert slot.fail(jobs, fate, delay_ms=self.rng.choice((0, 3))) == len(mine)  # type: ignore[arg-type]
        if fate != "retry":
            self.end(mine, fate)
            return
        self.retried += len(mine)
        for job in mine:
            one = self.live[job.id]
            self.live[job.id] = Live(one.sent, "", attempt=one.attempt + 1)

    def give_back(self) -> None:
        slot, jobs = self.some()
        marks = self.rng.randint(0, 1)
        mine = [job for job in jobs if self.is_leased(job, slot.name)]
        assert slot.give_back(jobs, marks=marks) == len(mine)
        self.give_up([self.live[job.id] for job in mine], marks)

    def take_over(self) -> None:
        dead, heir = self.rng.sample(self.slots, 2)
        mine = [one for one in self.live.values() if one.owner == dead.name]
        assert heir.take_over(dead.name) == len(mine)
        self.give_up(mine, 1)

    def cancel(self) -> None:
        if not self.accepted:
            return
        job = self.rng.choice([*self.live, *self.final])
        if job in self.final:
            assert self.client.cancel(Sent(job, 0, "", b"")) == 0
            return
        one = self.live.pop(job)
        assert self.client.cancel(one.sent) == 1
        self.final[job] = "cancelled"

    def move(self) -> None:
        self.rng.choice(self.slots).move()

    # --- the books --------------------------------------------------------------------------

    def some(self) -> tuple[Slot, list[Job]]:
        """A slot and some of the jobs it holds, or once held; each at most once."""
        slot = self.rng.choice(self.slots)
        held = self.held[slot.name]
        if self.rng.random() < 0.7:  # the rest of the time mostly jobs that are no longer its own
            held = held[-10:]
        jobs = self.rng.sample(held, min(len(held), self.rng.randint(1, 6)))
        return slot, list({job.id: job for job in jobs}.values())

    def is_leased(self, job: Job, owner: str = "") -> bool:
        one = self.live.get(job.id)
        return one is not None and one.owner != "" and one.entry == job.entry.decode() and owner in ("", one.owner)

    def end(self, jobs: list[Job], state: str) -> None:
        for job in jobs:
            del self.live[job.id]
            self.final[job.id] = state

    def give_up(self, jobs: list[Live], marks: int) -> None:
        for one in jobs:
            one.owner = keys.RETURNED
            one.deliveries += marks

    def follow(self) -> None:
        """What time alone does: delayed jobs that moved, deadlines that passed. Then compares."""
        for reply in self.client.replies():
            state = reply.status.name.lower()
            if state == "expired":
                del self.live[reply.id]  # a KeyError: it had ended before
                self.final[reply.id] = state
            assert self.final[reply.id] == state
            assert reply.id not in self.told, f"{reply.id} was replied twice"
            self.told.add(reply.id)
        assert self.told == set(self.final)
        for one in self.live.values():
            if one.entry == "" and self.link.call("ZSCORE", keys.delayed(MODEL), one.sent.id) is None:
                one.entry = self.link.call("HGET", keys.moved(MODEL), one.sent.id).decode().partition(" ")[2]
        self.compare()

    def compare(self) -> None:
        link = self.link
        states = list(self.final.values())
        assert counted(link, *FINAL) == tuple(states.count(state) for state in FINAL)
        assert counted(link, "submitted", "retried") == (self.accepted, self.retried)
        assert counted(link, "bytes") == (sum(len(one.sent.blob) for one in self.live.values()),)
        assert sum(depths(link)) + delayed(link) == len(self.live)
        assert leases(link) == {one.place: (one.owner, one.deliveries) for one in self.live.values() if one.owner}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_play_keeps_the_books(link: Link, client: Client, seed: int) -> None:
    # given
    rng = random.Random(seed)
    ledger = Ledger(link, rng)
    steps = (
        [ledger.submit] * 3 + [ledger.claim] * 5 + [ledger.settle] * 3 + [ledger.fail, ledger.fail, ledger.give_back]
    )
    steps += [ledger.take_over, ledger.cancel, ledger.move, ledger.move]
    # when
    for _ in range(STEPS):
        rng.choice(steps)()
        ledger.follow()
    # then: everything had happened
    assert ledger.retried > 10
    assert {*ledger.final.values()} == set(FINAL)

    # when: all is run down
    ledger.slots[0].take_over(*(slot.name for slot in ledger.slots))
    last = Slot(link, "box/9.1")

    def run_down() -> bool:
        last.move()
        while (claimed := last.claimed(500)).jobs or claimed.broken:
            assert last.settle(claimed.jobs) == len(claimed.jobs)
            ledger.end(claimed.jobs, "done")
            ledger.bury(last, claimed)
        return delayed(link) == 0

    wait_until(run_down, "all delayed jobs have moved")
    # then
    ledger.follow()
    assert ledger.live == {}
    assert len(ledger.final) == ledger.accepted
    assert (depths(link), leases(link), delayed(link), counted(link, "bytes")) == ((0, 0, 0), {}, 0, (0,))
