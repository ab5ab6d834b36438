"""What one job has left in Redis: its outcome, a place among the delayed, an entry in a lane with its lease, a dead letter.

Read with plain commands, by users that may run no script. What they add up to is `operators.jobs.life`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from broker import codec, keys, outcome_codec
from broker.bunches import find
from broker.claimed import read_meta
from broker.connection import Link, NoPermissionError, ResponseError, is_missing_group
from broker.dead import Letter, read_letter
from broker.errors import DecodeError
from broker.messages import LANES, Job, Outcome
from broker.roster import read_time

HEAD_BYTES = 4096  # of an outcome: all before its data, but for the longest notes
PAGE_BYTES, PAGE_ENTRIES = 1 << 20, 1000  # what one page of a stream should come to

_MOVED = re.compile(rb"([123]) (\d{1,20}-\d{1,20})")  # lane, entry; move.lua
_DELAYED = re.compile(rb"([123]) (\d{1,20}) (\d{1,20}) (\d{1,20}) ")  # lane, deadline, attempt, first submit; move.lua


class Marks(msgspec.Struct, frozen=True):
    """What is found by the id alone, at Redis' time `now_ms`."""

    now_ms: int
    outcome: Outcome | None  # without its data
    has_outcome: bool  # also where this user may not read it
    may_be_kept: bool  # among results that lie together, where this user may not look
    expires_ms: int | None  # when the outcome goes
    delayed: Job | None
    due_ms: int | None
    moved: tuple[str, str] | None  # lane and entry of a job that was delayed once


class Held(msgspec.Struct, frozen=True):
    """A lease: `consumer` is slot and incarnation, or `returned`; `deliveries` counts from 1, `idle_ms` since its renewal."""

    consumer: str
    idle_ms: int
    deliveries: int


Entry = tuple[bytes, list[bytes]]


class Traces:
    """Of jobs of one model."""

    def __init__(self, link: Link, model: str) -> None:
        self._link = link
        self.model = model

    def marks(self, job_id: str) -> Marks:
        """One round trip, two for an outcome with a long note. Raises DecodeError for garbage."""
        model, link = self.model, self._link
        key = keys.result(model, job_id)
        time, head, ttl, due, body, moved, bunches = link.call_all(
            [
                ("TIME",), ("GETRANGE", key, 0, HEAD_BYTES - 1), ("PTTL", key), ("ZSCORE", keys.delayed(model), job_id),
                ("HGET", keys.delayed_bodies(model), job_id), ("HGET", keys.moved(model), job_id),
                ("LRANGE", keys.results(model, job_id), 0, -1),
            ]
        )  # fmt: skip
        for reply in (time, ttl, due, body, moved):
            if isinstance(reply, ResponseError):
                raise reply
        for reply in (head, bunches):
            if isinstance(reply, ResponseError) and not isinstance(reply, NoPermissionError):
                raise reply
        now_ms, place = read_time(time), _MOVED.fullmatch(moved or b"")
        outcome = self._outcome(key, head) if isinstance(head, bytes) and head else None
        expires_ms = now_ms + ttl if ttl >= 0 else None
        if (
            ttl == -2
            and not isinstance(bunches, ResponseError)
            and (found := find(bunches, job_id, now_ms)) is not None
        ):
            blob, expires_ms = found
            outcome = outcome_codec.decode(blob[: outcome_codec.head_bytes(blob)], is_head=True)
        return Marks(
            now_ms=now_ms,
            outcome=outcome,
            has_outcome=ttl != -2 or outcome is not None,
            may_be_kept=isinstance(bunches, ResponseError),
            expires_ms=expires_ms,
            delayed=_delayed(body) if body else None,
            due_ms=int(float(due)) if due is not None else None,
            moved=(LANES[int(place[1]) - 1], place[2].decode()) if place else None,
        )

    def entries(self, lane: str, entries: Sequence[bytes | str]) -> list[Entry | None]:
        """These entries of a lane, in their order; None for one that has gone."""
        key = keys.lane(self.model, lane)
        replies = self._link.call_all([("XRANGE", key, entry, entry) for entry in entries])
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
        return [(reply[0][0], reply[0][1]) if reply else None for reply in replies]

    def held(self, lane: str, entries: Sequence[bytes]) -> list[Held | None]:
        """Who holds these entries, in their order; None for nobody."""
        key = keys.lane(self.model, lane)
        replies = self._link.call_all([("XPENDING", key, keys.GROUP, entry, entry, 1) for entry in entries])
        return [_held(reply) for reply in replies]

    def lane(self, lane: str, *, after: str = "") -> Iterator[list[Entry]]:
        """All entries of a lane behind `after`, the oldest first, in pages."""
        return self._pages("XRANGE", keys.lane(self.model, lane), f"({after}" if after else "-", "+")

    def letters(self) -> Iterator[list[tuple[Letter, bytes]]]:
        """All dead letters with their jobs, the newest first, in pages."""
        for page in self._pages("XREVRANGE", keys.dead(self.model), "+", "-"):
            yield [_letter(self.model, entry, fields) for entry, fields in page]

    def delayed(self, most: int) -> list[tuple[int, Job | None]]:
        """When they are due and what they are, the next first; None for one that is garbled."""
        flat = self._link.call("ZRANGE", keys.delayed(self.model), 0, most - 1, "WITHSCORES")
        if not flat:
            return []
        bodies = self._link.call("HMGET", keys.delayed_bodies(self.model), *flat[::2])
        found: list[tuple[int, Job | None]] = []
        for due, body in zip(flat[1::2], bodies, strict=True):
            try:
                if body is not None:  # else it moved between the two
                    found.append((int(float(due)), _delayed(body)))
            except DecodeError:
                found.append((int(float(due)), None))
        return found

    def delivered(self, lane: str) -> str:
        """The last entry of a lane that was given to a slot; '' where none ever was."""
        reply = self._link.call_all([("XINFO", "GROUPS", keys.lane(self.model, lane))])[0]
        groups = (
            [] if isinstance(reply, ResponseError) else [dict(zip(one[::2], one[1::2], strict=True)) for one in reply]
        )
        return next((one[b"last-delivered-id"].decode() for one in groups if one[b"name"] == keys.GROUP.encode()), "")

    def leases(self, lane: str, most: int, *, consumer: str = "") -> list[tuple[bytes, Held]]:
        """The oldest leases of a lane, of one consumer if named."""
        command: list[Any] = ["XPENDING", keys.lane(self.model, lane), keys.GROUP, "-", "+", most]
        reply = self._link.call_all([[*command, consumer] if consumer else command])[0]
        if isinstance(reply, ResponseError):
            if is_missing_group(reply):
                return []
            raise reply
        return [(one[0], Held(one[1].decode(), one[2], one[3])) for one in reply]

    def _pages(self, command: str, key: str, start: str, end: str) -> Iterator[list[Entry]]:
        count = 16  # the first page tells how large the entries are
        while True:
            page = self._link.call(command, key, start, end, "COUNT", count)
            if page:
                yield [(entry, fields) for entry, fields in page]
            if len(page) < count:
                return
            size = sum(len(field) for _, fields in page for field in fields)
            start = f"({page[-1][0].decode()}"
            count = max(1, min(PAGE_ENTRIES, PAGE_BYTES * count // max(1, size)))

    def _outcome(self, key: str, head: bytes) -> Outcome | None:
        size = outcome_codec.head_bytes(head)
        if size > len(head):
            head = self._link.call("GETRANGE", key, 0, size - 1)
        return outcome_codec.decode(head[:size], is_head=True) if head else None


def read_job(entry: bytes, fields: Sequence[bytes], lane: str, held: Held | None) -> Job:
    """A lane's entry. Raises DecodeError when its bytes are garbled."""
    deadline_ms, attempt, submitted_ms = read_meta(entry, fields)
    return codec.decode_job(
        fields[1], entry=entry, lane=LANES.index(lane), deliveries=held.deliveries if held else 0, submitted_ms=submitted_ms,
        attempt=attempt, deadline_ms=deadline_ms,
    )  # fmt: skip


def _delayed(body: bytes) -> Job:
    meta = _DELAYED.match(body)
    if meta is None:
        raise DecodeError("a delayed job's head is garbled")
    lane, deadline_ms, attempt, submitted_ms = map(int, meta.groups())
    return codec.decode_job(
        body[meta.end() :], entry=b"", lane=lane - 1, deliveries=0, submitted_ms=submitted_ms,
        attempt=min(attempt, 255), deadline_ms=deadline_ms,
    )  # fmt: skip


def _letter(model: str, entry: bytes, fields: list[bytes]) -> tuple[Letter, bytes]:
    job = dict(zip(fields[::2], fields[1::2], strict=True)).get(b"job", b"")
    letter = read_letter(model, entry, len(job), fields)
    try:
        apart = codec.decode_job(
            job,
            entry=entry,
            lane=LANES.index(letter.lane),
            deliveries=letter.deliveries,
            submitted_ms=letter.submitted_ms,
        ).size
    except DecodeError:
        apart = len(job)
    return msgspec.structs.replace(letter, size=apart), job


def _held(reply: Any) -> Held | None:
    if isinstance(reply, ResponseError):
        if is_missing_group(reply):
            return None
        raise reply
    return Held(reply[0][1].decode(), reply[0][2], reply[0][3]) if reply else None
