"""The worker's side of the contract: builds the commands that claim, settle, fail and return, and reads their answers.

No I/O here: the slot sends the commands over its Link and may have several under way. What a claim brings is `claimed`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from broker import keys
from broker.claimed import Claimed, read_block, read_claim
from broker.connection import Command, Link, evalsha
from broker.ends import Ended, Fault, settle_arguments
from broker.messages import LANES

INLINE_LIMIT_BYTES = 4096
DEAD_CAP = 10_000
LOWEST_FIRST_EVERY = 8  # every 8th claim starts at a lower lane, in turns, so that none starves
TAKE_OVER_AT_ONCE = 500
RECOUNT_BELOW = 2_000
SETTLE_BYTES = 2 << 20  # of outcomes in one script call; none should handle more than 4 MB


class Queue:
    """Commands of one consumer (a slot's incarnation) on one model's queue."""

    def __init__(self, model: str, consumer: str) -> None:
        self.model = model
        self.consumer = consumer
        self.lanes = [keys.lane(model, name) for name in LANES]
        self._finish_keys = [keys.counters(model), keys.stored(model), keys.watchers(model), keys.moved(model)]
        self._finish_args = [keys.of_model(model), keys.REPLY_TTL_MS, keys.REPLY_CAP, INLINE_LIMIT_BYTES]
        self._claims = 0
        self.pause(())

    # --- claiming ---------------------------------------------------------------------------

    def ensure_groups(self, link: Link) -> None:
        """Creates the streams and their group where they are missing; where none is, this passes at maxmemory."""
        found = link.call_all([("XINFO", "GROUPS", lane) for lane in self.lanes])
        for lane, groups in zip(self.lanes, found, strict=True):
            if isinstance(groups, Exception) or all(group[1] != keys.GROUP.encode() for group in groups):
                (reply,) = link.call_all([("XGROUP", "CREATE", lane, keys.GROUP, "0", "MKSTREAM")])
                if isinstance(reply, Exception) and "BUSYGROUP" not in str(reply):
                    raise reply

    def pause(self, lanes: Collection[int]) -> None:
        """Leaves these lanes, and no others, out of `claim`, `reclaim` and `block` from now on."""
        self._paused = ["".join(str(lane + 1) for lane in lanes)] if lanes else []
        streams = [key for lane, key in enumerate(self.lanes) if lane not in lanes]
        self._open = [*streams, *">" * len(streams)]

    def claim(self, room: int, *, above_low: bool = False) -> Command:
        """Claims up to `room` jobs without blocking: returned leases first, then lanes by priority, or those above the low one."""
        if above_low:
            return self._claim(room, "12")
        self._claims += 1
        turns = self._claims % (2 * LOWEST_FIRST_EVERY)
        return self._claim(room, {LOWEST_FIRST_EVERY: "321", 0: "213"}.get(turns, "123"))

    def reclaim(self, room: int) -> Command:
        """Claims up to `room` returned leases only; for `read_claim`."""
        return self._claim(room, "")

    def _claim(self, room: int, order: str) -> Command:
        args: list[Any] = [*self._finish_args, self.consumer, room, order, *self._paused]
        return evalsha("claim", self._finish_keys + self.lanes, args)

    def read(self, lane: int, count: int) -> Command:
        """Reads up to `count` fresh jobs of one lane, without blocking and unfiltered; for `read_block`."""
        return [
            "XREADGROUP", "GROUP", keys.GROUP, self.consumer, "COUNT", count, "STREAMS", self.lanes[lane], ">",
        ]  # fmt: skip

    def read_claim(self, reply: Any) -> Claimed:
        """Reads the reply of `claim`."""
        return read_claim(reply)

    def block(self, count: int, block_ms: int) -> Command:
        """Waits for jobs: XREADGROUP over all open lanes. COUNT is per stream, so up to three times `count` may come."""
        return [
            "XREADGROUP", "GROUP", keys.GROUP, self.consumer, "COUNT", count, "BLOCK", block_ms, "STREAMS", *self._open,
        ]  # fmt: skip

    def read_block(self, reply: Any) -> Claimed:
        """Reads the reply of `block` or `read`; Redis' time in it is 0."""
        return read_block(reply, self.lanes)

    # --- ending -----------------------------------------------------------------------------

    def settle(self, ended: Iterable[Ended]) -> Command:
        """Ends done jobs. The reply is how many were ours to end."""
        args = [*self._finish_args, *settle_arguments(ended, INLINE_LIMIT_BYTES)]
        return evalsha("settle", self._finish_keys + self.lanes, args)

    def settles(self, ended: Iterable[Ended]) -> Iterator[Command]:
        """As `settle`, in calls of bounded size."""
        chunk: list[Ended] = []
        size = 0
        for one in ended:
            chunk.append(one)
            size += len(one.outcome)
            if size >= SETTLE_BYTES:
                yield self.settle(chunk)
                chunk, size = [], 0
        if chunk:
            yield self.settle(chunk)

    def fail(self, faults: Iterable[Fault]) -> Command:
        """Fails, buries or postpones jobs, fenced by owner and delivery count."""
        args: list[Any] = [*self._finish_args, self.consumer, DEAD_CAP]
        for one in faults:
            args += (
                one.lane + 1, one.entry, one.deliveries, one.id, one.ttl_s, one.fate, one.delay_ms, one.reason,
                one.outcome,
            )  # fmt: skip
        model = self.model
        delayed = keys.delayed(model), keys.delayed_bodies(model)
        return evalsha(
            "fail", [*self._finish_keys, *self.lanes, *delayed, keys.dead(model), keys.dead_bodies(model)], args
        )

    def give_back(self, leases: Iterable[tuple[int, bytes]], *, marks: int) -> Command:
        """Returns leases as (lane, entry): unharmed with marks=0, with a crash mark with marks=1."""
        args: list[Any] = [self.consumer, marks]
        for lane, entry in leases:
            args += (lane + 1, entry)
        return evalsha("give_back", self.lanes, args)

    # --- keeping ----------------------------------------------------------------------------

    def pulse(
        self, slot: str, leases: Iterable[tuple[int, bytes]], *, ready_ms: int, failing_ms: int, frees_place: bool
    ) -> Command:
        """One beat: readiness and leases. The reply is [Redis time in ms, leases lost, names of paused lanes]."""
        model = self.model
        args: list[Any] = [slot, self.consumer, ready_ms, failing_ms, int(frees_place), keys.paused(model)]
        for lane, entry in leases:
            args += (lane + 1, entry)
        return evalsha("pulse", [keys.ready(model), keys.failing(model), keys.retiring(model), *self.lanes], args)

    def pending(self, count: int = 2000) -> list[Command]:
        """Asks for the ids Redis believes this consumer holds, a command per lane."""
        return [("XPENDING", lane, keys.GROUP, "-", "+", count, self.consumer) for lane in self.lanes]

    def own_leases(self, held: int) -> list[Command]:
        """As `pending`, for `held` leases and more, behind a write that changes nothing and passes at maxmemory: its answer is
        an error where nothing can be written."""
        return [("PERSIST", keys.counters(self.model)), *self.pending(2000 + held)]

    def take_over(self, link: Link, dead_consumers: Sequence[str], *, marks: int) -> int:
        """Returns all leases of consumers proven dead, then deletes them. The number of leases returned."""
        total, left = 0, len(dead_consumers)
        while left:
            moved, left = link.script("take_over", self.lanes, [marks, TAKE_OVER_AT_ONCE, *dead_consumers])
            total += moved
        return total

    def consumers(self, link: Link) -> set[str]:
        """Names of all consumers of the group."""
        names: set[str] = set()
        for reply in link.call_all([("XINFO", "CONSUMERS", lane, keys.GROUP) for lane in self.lanes]):
            if not isinstance(reply, Exception):
                names.update(consumer[1].decode() for consumer in reply)
        return names - {keys.RETURNED}

    def sweep(self, *, lease_ms: int, now_ms: float = 0, most: int = 500, is_recounting: bool = True) -> Command:
        """Returns leases nobody renews; the reply is [returned, consumers deleted, bytes the counter was off by].

        `now_ms` is Redis' time as the caller knows it; a sweep that Redis runs much later does nothing (0: it is not known).
        `is_recounting` also reads a short queue whole, to put the byte counter right.
        """
        model = self.model
        return evalsha(
            "sweep",
            [*self.lanes, keys.counters(model), keys.delayed(model), keys.delayed_bodies(model)],
            [lease_ms, most, RECOUNT_BELOW if is_recounting else -1, round(now_ms)],
        )

    def move(self, most: int = 200) -> Command:
        """Moves delayed jobs that are due into their lanes; the reply is how many."""
        return evalsha(
            "move",
            [keys.delayed(self.model), keys.delayed_bodies(self.model), keys.moved(self.model), *self.lanes],
            [most, keys.MOVED_TTL_MS],
        )

    def ask_to_retire(self, slot: str, *, place_ttl_ms: int, overdue_ms: int = 0) -> Command:
        """Asks for a place among those retiring; the reply is 1 when granted. The longest overdue goes first."""
        model = self.model
        return evalsha(
            "retire",
            [keys.ready(model), keys.retiring(model), keys.failing(model), keys.due(model), keys.asked(model)],
            [slot, place_ttl_ms, overdue_ms, keys.wanted(model)],
        )
