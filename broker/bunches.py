"""Results that lie together, as plain commands give them: elements of the list `keys.results`. Scripts read them in kept.lua."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from broker import outcome_codec


def read(elements: Sequence[bytes]) -> Iterator[tuple[str, bytes, int]]:
    """(job id, outcome, until when it is valid in Redis' ms) of all results. Raises DecodeError when one is cut short."""
    for until_ms, frames in zip(elements[::2], elements[1::2], strict=False):
        for outcome in outcome_codec.split_frames(frames):
            yield outcome_codec.id_of(outcome), outcome, int(until_ms)


def find(elements: Sequence[bytes], job_id: str, now_ms: int) -> tuple[bytes, int] | None:
    """A job's outcome and until when it is valid; None where there is none, or none any more. Raises DecodeError."""
    for found, outcome, until_ms in read(elements):
        if found == job_id and until_ms > now_ms:
            return outcome, until_ms
    return None
