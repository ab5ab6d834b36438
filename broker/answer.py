"""What Redis said of a chunk of jobs that was submitted. The error it stands for is `refusals`."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import msgspec

from broker.errors import DecodeError

_decoder = msgspec.msgpack.Decoder(tuple[str, str, int, int, str, list[Any]])


class Answer(msgspec.Struct, frozen=True):
    """What submit.lua said of a chunk: `accepted` jobs from its start are queued, or were before (`duplicates`)."""

    code: str
    first: str  # entry id of the first job added, '' when none was or all are delayed
    accepted: int
    retry_after_ms: int
    detail: str
    duplicates: dict[int, str]  # index in the chunk -> id of the job queued earlier under the same key
    doubt: str = ""  # why it is not proven to be on disk, where that was asked for

    @classmethod
    def read(cls, reply: bytes) -> Answer:
        """Reads the reply of `Intake.submit`."""
        try:
            code, first, accepted, retry_ms, detail, flat = _decoder.decode(reply)
            return cls(code, first, accepted, retry_ms, detail, dict(zip(flat[::2], flat[1::2], strict=True)))
        except (msgspec.DecodeError, ValueError, TypeError, RecursionError) as error:
            raise DecodeError(
                f"the answer to a submit is garbled: {error}; find out who else writes to Redis"
            ) from None

    def entry(self, index: int) -> str:
        """Entry id of the chunk's job: ids run first, first+1, ... over the jobs added. '' for one not in a lane."""
        if not self.first or index >= self.accepted or index in self.duplicates:
            return ""
        ms, _, seq = self.first.partition("-")
        before = bisect_left(list(self.duplicates), index) if self.duplicates else 0
        return f"{ms}-{int(seq) + index - before}"

    @property
    def is_of_one_job(self) -> bool:
        """Whether one job alone stopped the chunk, and those behind it may be sent again."""
        return self.code in ("conflict", "too_large", "no_body", "garbled")

    def of(self, offset: int, count: int) -> Answer:
        """The answer as it concerns a part of the chunk: `ok` when that was accepted whole."""
        if self.code == "ok" or self.accepted < offset + count:
            return self
        return msgspec.structs.replace(self, code="ok")
