"""The producer's side of the contract: builds the commands that submit, find, cancel and watch jobs, and reads their replies.

No I/O here: the sync and the asyncio client send the commands over their own links. The worker's side is `queue`.
"""

from __future__ import annotations

import secrets
from base64 import b32encode
from collections.abc import Sequence
from typing import Any

from broker import keys, paused
from broker.connection import Arg, Command, evalsha
from broker.errors import InvalidInput
from broker.messages import LANES, Status
from broker.outcome_codec import STATUS_MASK
from broker.queue import INLINE_LIMIT_BYTES

CHUNK_JOBS = 256
CHUNK_BYTES = 1 << 20
FOLDER_BYTES = 8 << 20  # of bodies in a folder, for jobs of one chunk
FIND_ENTRIES, FIND_BYTES = 2_000, 4 << 20  # what one page of a search may read while Redis serves nobody else
# Redis 6.2 cuts a BLPOP timeout to whole milliseconds, and 0 blocks for ever: 1 ms stalled now and then [M], 5 ms cannot.
MIN_BLOCK_S = 0.005


class Numbers:
    """Request numbers of one client on one model: n is in flight only while n - 128 is answered."""

    def __init__(self) -> None:
        self._last = 0
        self._open: set[int] = set()

    def has_room(self) -> bool:
        return self._last + 1 - keys.REQUEST_WINDOW not in self._open

    def take(self) -> int:
        """The next number. The caller has asked `has_room`."""
        self._last += 1
        self._open.add(self._last)
        return self._last

    def answered(self, number: int) -> None:
        """Answered, or given up for good."""
        self._open.discard(number)


def new_client() -> str:
    """A client id: 16 random base32 characters. New for each process, also after a fork."""
    return b32encode(secrets.token_bytes(10)).decode().lower()


def client_of(job_id: str) -> str:
    """Whose reply list a job's outcome goes to."""
    return job_id.partition("-")[0]


def split_public_id(public_id: str) -> tuple[str, str]:
    """`model:client-number` -> (model, client-number). Raises InvalidInput when it is not of that form."""
    model, _, job_id = str(public_id).rpartition(":")
    client, _, number = job_id.partition("-")
    if not model.isprintable() or not model or not client or not (job_id.isascii() and number.isdigit()):
        raise InvalidInput(f"{public_id!r} is not a job id; write it as handle.id gives it, model:client-number")
    return model, job_id


class Intake:
    """Commands of one client on one model's queue."""

    def __init__(self, model: str, client: str) -> None:
        self.model = model
        self.client = client
        self.numbers = Numbers()
        self.reply_key = keys.reply(model, client)
        self._lanes = [keys.lane(model, name) for name in LANES]
        self._submit_keys: list[Arg] = [
            keys.spec(model), keys.requests(model, client), keys.counters(model), keys.stored(model),
            keys.delayed(model), keys.delayed_bodies(model), *self._lanes,
        ]  # fmt: skip
        self._dedupe_prefix = keys.dedupe_prefix(model)

    # --- submitting -------------------------------------------------------------------------

    def submit(
        self,
        number: int,
        generation: str,
        blobs: Sequence[bytes],
        *,
        lane: int,
        delay_ms: int = 0,
        deadline_ms: int = 0,
        dedupe: Sequence[tuple[str, str]] = (),
        token: str = "",
    ) -> Command:
        """Queues a chunk: at most CHUNK_JOBS jobs or CHUNK_BYTES. `lane` is 1-3; `dedupe` is a (key, digest) per job.

        `token` names the store, where the body of any of the jobs stands apart.
        """
        args: list[Arg] = [
            number, generation, lane, delay_ms, deadline_ms, keys.REQUEST_WINDOW, keys.REQUESTS_TTL_MS,
            self._dedupe_prefix, keys.DEDUPE_TTL_MS, len(dedupe), *blobs,
        ]  # fmt: skip
        for key, digest in dedupe:
            args += (key, digest)
        return evalsha(
            "submit", [*self._submit_keys, keys.bodies(self.model, token)] if token else self._submit_keys, args
        )

    def newest_ready(self) -> list[Command]:
        """Two commands: Redis' time, and the slot of the model that stays ready longest."""
        return [("TIME",), ("ZRANGE", keys.ready(self.model), -1, -1, "WITHSCORES")]

    def has_ready(self, replies: Sequence[Any]) -> bool:
        """Reads the replies of `newest_ready`: whether any slot is ready now."""
        time, newest = replies
        return bool(newest) and float(newest[1]) > _ms(time)

    # --- one job ----------------------------------------------------------------------------

    def locate(self, job_id: str, lane: int, entry: str) -> Command:
        """Where the job is; lane 0 and entry '' where they are not known."""
        model = self.model
        return evalsha(
            "locate",
            [keys.result(model, job_id), keys.moved(model), keys.delayed(model), *self._lanes],
            [job_id, lane or "", entry, keys.results(model, job_id)],
        )

    def read_locate(self, reply: Sequence[bytes]) -> tuple[str, bytes | None]:
        """(state, outcome): a final state has its outcome, the others are delayed, waiting, claimed, unknown."""
        state = reply[0].decode()
        return (state_of(reply[1]), reply[1]) if state == "ended" else (state, None)

    def cancel(self, job_id: str, lane: int, entry: str) -> Command:
        """Ends the job as cancelled; the reply is 1 when that worked."""
        model = self.model
        return evalsha(
            "cancel",
            [
                keys.counters(model), keys.stored(model), keys.watchers(model), keys.moved(model), *self._lanes,
                keys.delayed(model), keys.delayed_bodies(model),
            ],
            [
                keys.of_model(model), keys.REPLY_TTL_MS, keys.REPLY_CAP, INLINE_LIMIT_BYTES, job_id, lane or "", entry,
            ],
        )  # fmt: skip

    def watch(self, job_id: str) -> Command:
        """Asks for another client's outcome: the reply is it, or None when it will come to our reply list."""
        model = self.model
        return evalsha(
            "watch",
            [keys.result(model, job_id), keys.watchers(model)],
            [job_id, self.client, keys.WATCH_TTL_MS, keys.results(model, job_id)],
        )

    def large_result(self, job_id: str) -> Command:
        """The stored outcome of a job whose reply said that it is elsewhere; None when it is gone."""
        return ["GET", keys.result(self.model, job_id)]

    def results(self, job_ids: Sequence[str]) -> Command:
        """Stored outcomes, None where there is none, or once they came to 4 MB."""
        model = self.model
        bunches = [keys.results(model, job_id) for job_id in job_ids]
        return evalsha("results", [keys.result(model, job_id) for job_id in job_ids], [*job_ids, *bunches])

    def find(self, job_id: str, lane: int, cursor: str) -> Command:
        """Searches one page of a lane (1-3) for a job, from `-` or the cursor before on; see `search`."""
        return evalsha("find", [self._lanes[lane - 1]], [job_id, cursor, FIND_ENTRIES, FIND_BYTES])

    def read_find(self, reply: Sequence[bytes]) -> tuple[str, str]:
        """(entry, cursor): the entry '' when it was not in this page, the cursor '' when there is no page behind it."""
        return reply[0].decode(), reply[1].decode()

    # --- waiting ----------------------------------------------------------------------------

    def wait(self, slice_s: float) -> Command:
        """Blocks for the next element of the reply list, MIN_BLOCK_S at least."""
        return ["BLPOP", self.reply_key, round(max(slice_s, MIN_BLOCK_S), 3)]

    def drain(self, count: int) -> Command:
        """Takes up to `count` elements of the reply list without blocking."""
        return ["LPOP", self.reply_key, count]

    def load(self) -> list[Command]:
        """What a timeout's text is made of: time, ready slots, depths, the oldest entry of each lane, what is paused."""
        model = self.model
        return [
            ("TIME",), ("ZRANGE", keys.ready(model), 0, -1, "WITHSCORES"), ("ZCARD", keys.delayed(model)),
            *(("XLEN", lane) for lane in self._lanes),
            *(("XRANGE", lane, "-", "+", "COUNT", 1) for lane in self._lanes),
            paused.look(model),
        ]  # fmt: skip

    def read_load(self, replies: Sequence[Any]) -> str:
        """`depth 12, the oldest is 3.1 s old, 2 slots ready, lane low paused by ann@box (deploy)`."""
        *replies, pauses = replies
        for reply in replies:
            if isinstance(reply, Exception):
                return f"state unknown ({reply})"
        time, ready, delayed = replies[:3]
        now_ms = _ms(time)
        depth = delayed + sum(replies[3:6])
        slots = sum(float(score) > now_ms for score in ready[1::2])
        ages = [now_ms - int(lane[0][0].partition(b"-")[0]) for lane in replies[6:9] if lane]
        oldest = f"the oldest is {max(ages) / 1000:.1f} s old" if ages else "none waits"
        # A server whose roles are of an older version refuses to tell.
        told = "" if isinstance(pauses, Exception) else paused.told(paused.read(pauses))
        return f"depth {depth}, {oldest}, {slots} {'slot' if slots == 1 else 'slots'} ready" + (told and f", {told}")


def state_of(outcome: bytes) -> str:
    """The final state's name of an encoded outcome: done, failed, dead, expired, cancelled."""
    return Status(outcome[1] & STATUS_MASK).name.lower()


def _ms(time: Sequence[bytes]) -> int:
    return int(time[0]) * 1000 + int(time[1]) // 1000
