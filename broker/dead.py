"""One model's dead letters: the jobs that were given up, kept as they were submitted. Listed, read, replayed, dropped.

What died is written by fail.lua; what an operator sees of it is made in `operators.dead`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from broker import bodies_sweep, codec, keys, outcome_codec, spec
from broker.bodies import REDIS
from broker.bodies_store import open_store
from broker.claimed import with_body
from broker.connection import Link, ResponseError, is_out_of_memory
from broker.errors import DecodeError, InvalidInput, QueueFull, StoreError, UnknownLetter, UnknownModel
from broker.figures import whole
from broker.messages import LANES, Job
from broker.queue import DEAD_CAP

PAGE_ENTRIES, PAGE_BYTES = 2_000, 4 << 20  # what one search of a page may read in Redis
REPLAY_OF = "replay_of"  # in a replayed job's context: the id under which it died
_MOST_CONTEXT_BYTES = 0xFFFF
_RESULT_TTL_S = 600

_pack = msgspec.msgpack.Encoder().encode


class Letter(msgspec.Struct, frozen=True):
    """One dead job without its body. `id` is `model:client-number`; `deliveries` counts the engines or slots that held it."""

    id: str
    reason: str
    error: str
    attempts: int
    deliveries: int
    lane: str
    submitted_ms: int  # Redis time
    died_ms: int  # Redis time
    size: int
    entry: str  # its place among the dead letters

    @property
    def job(self) -> str:
        """The id as Redis knows it, without the model."""
        return self.id.rpartition(":")[2]


class Page(msgspec.Struct, frozen=True):
    """Letters, newest first, at Redis' time `now_ms`; `cursor` asks for the page behind, '' when there is none."""

    now_ms: int
    cursor: str
    letters: list[Letter]


class DeadLetters:
    """The dead letters of one model, over a connected link."""

    def __init__(self, link: Link, model: str) -> None:
        self._link = link
        self._model = model
        self._key = keys.dead(model)

    def page(self, cursor: str = "+", *, count: int = DEAD_CAP, reason: str = "") -> Page:
        """Up to `count` letters that are older than `cursor`. A page may be short, or empty, with more behind it."""
        now_ms, after, *flat = self._link.script("letters", [self._key], [cursor, count, reason])
        letters = [
            read_letter(self._model, entry, size, fields)
            for entry, size, fields in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        ]
        return Page(int(now_ms), after.decode(), letters)

    def entries(self, job_id: str) -> Iterator[str]:
        """Places of the letters of one job; more than one only for jobs whose ids could not be read."""
        cursor = "-"
        while cursor:
            entry, after = self._link.script("find", [self._key], [job_id, cursor, PAGE_ENTRIES, PAGE_BYTES])
            if entry:
                yield entry.decode()
            cursor = after.decode()

    def read(self, entry: str) -> tuple[Letter, bytes] | None:
        """A letter and its job's body; None when it has gone."""
        found = self._link.call("XRANGE", self._key, entry, entry)
        if not found:
            return None
        fields = found[0][1]
        body = dict(zip(fields[::2], fields[1::2], strict=True)).get(b"job", b"")
        return read_letter(self._model, found[0][0], len(body), fields), body

    def with_body(self, job: Job) -> Job:
        """A dead job with its data at hand, wherever its body stands. Raises StoreError, DecodeError when it cannot be had."""
        if job.body is None:
            return job
        if job.body.token == REDIS:
            found = self._link.call(*bodies_sweep.read(self._model, job.body.name))
        else:
            store = open_store(spec.fetch(self._link, self._model).limits.bodies)
            if store is None or store.token != job.body.token:
                raise StoreError(
                    "its body stands in another store than the model's now; ask on the machine that has it"
                )
            found = store.read(job.body.name)
        fault = job.body.fault(found) if found is not None else "is gone"
        if fault:
            raise DecodeError(f"its body {fault}")
        return with_body(job, found)

    def replay(self, letter: Letter, lane: str, body: bytes) -> None:
        """Queues `body` in `lane` and takes the letter away, both or neither.

        Raises UnknownLetter when it has gone, QueueFull, UnknownModel; the letter stays then.
        """
        model = self._model
        names = [self._key, keys.spec(model), keys.counters(model), keys.stored(model), keys.delayed(model)]
        names += [*(keys.lane(model, name) for name in LANES), keys.dead_bodies(model)]
        try:
            code, detail = self._link.script("replay", names, [letter.entry, LANES.index(lane) + 1, body])
        except ResponseError as error:
            if not is_out_of_memory(error):
                raise
            raise QueueFull(
                f"Redis is at maxmemory and took no job; {letter.id} is still among the dead letters: replay it when jobs "
                "have ended, or raise redis.max_memory_mb",
                retry_after_s=1.0,
            ) from None
        match code.decode():
            case "gone":
                raise gone(letter.id)
            case "unknown_model":
                raise UnknownModel(
                    f"no model named {model!r} is published, so nobody would run {letter.id}; start the pool that serves it"
                )
            case "full":
                what = detail.decode()
                raise QueueFull(
                    f"the queue of model {model!r} is at its limit of {what}; {letter.id} is still among the dead letters: "
                    f"replay it when there is room, or raise queue.max_{what} in pool.toml",
                    retry_after_s=1.0,
                )

    def drop(self, entries: Sequence[str]) -> int:
        """Drops letters for good, 1 000 at once at most; how many were there."""
        names = [self._key, keys.counters(self._model), keys.dead_bodies(self._model)]
        return int(self._link.script("drop", names, entries)) if entries else 0


def read_letter(model: str, entry: bytes, size: int, flat: Sequence[bytes]) -> Letter:
    """One entry of the dead letters; `size` is told apart, since the job need not be among its fields."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    lane = whole(fields.get(b"lane")) or 0
    return Letter(
        id=f"{model}:{_text(fields.get(b'id'))}",
        reason=_text(fields.get(b"reason")),
        error=_error(fields.get(b"outcome", b"")),
        attempts=whole(fields.get(b"attempts")) or 0,
        deliveries=whole(fields.get(b"deliveries")) or 0,
        lane=LANES[lane - 1] if 1 <= lane <= len(LANES) else "normal",
        submitted_ms=whole(fields.get(b"submitted_ms")) or 0,
        died_ms=int(entry.partition(b"-")[0]),
        size=size,
        entry=entry.decode(),
    )


def gone(public_id: str) -> UnknownLetter:
    """The error of an id that no dead letter has."""
    return UnknownLetter(
        f"no dead letter {public_id}: it was replayed, dropped or pushed out by newer ones, or that job never died; "
        "see `penstock dead ls`"
    )


def read_job(letter: Letter, body: bytes) -> Job:
    """The job as it was submitted. Raises DecodeError when its bytes are garbled."""
    return codec.decode_job(
        body, entry=letter.entry.encode(), lane=LANES.index(letter.lane), deliveries=letter.deliveries,
        submitted_ms=letter.submitted_ms, attempt=letter.attempts,
    )  # fmt: skip


def renew(letter: Letter, body: bytes, job_id: str) -> bytes:
    """The same job under a new id, with the old one in its context; its result is stored, since nobody holds a handle.

    Raises InvalidInput when it cannot be run again.
    """
    try:
        job = read_job(letter, body)
    except DecodeError as error:
        raise InvalidInput(
            f"{letter.id} cannot be replayed, its bytes are garbled ({error}); `penstock dead drop {letter.id}` removes it"
        ) from None
    context: dict[str, Any] = {**(job.context or {}), REPLAY_OF: letter.id}
    packed, raw_id = _pack(context), job_id.encode()
    if len(packed) > _MOST_CONTEXT_BYTES:
        raise InvalidInput(
            f"{letter.id} cannot be replayed, its context has no room for the old id; submit it again with a smaller context"
        )
    version, bits, id_len, retries, rows, ttl_s, desc_len, _ = codec.JOB_HEAD.unpack_from(body)
    head = codec.JOB_HEAD.pack(
        version, bits | codec.STORED, len(raw_id), retries, rows, ttl_s or _RESULT_TTL_S, desc_len, len(packed)
    )
    descriptor = body[16 + id_len : 16 + id_len + desc_len]
    return b"".join((head, raw_id, descriptor, packed, body[job.offset :]))


def _error(outcome: bytes) -> str:
    """The error's text; '' where a version before kept none."""
    try:
        return str(outcome_codec.decode(outcome).note.get("error", "")) if outcome else ""
    except DecodeError:
        return ""


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode(errors="replace")
