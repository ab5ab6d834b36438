"""What `penstock dead` does: lists, shows, replays and drops the jobs that were given up. Redis is spoken to in `broker.dead`.

Every function takes a connected Link. Ids are taken as they are printed, `model:client-number`, or without the model.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from broker import roster
from broker.connection import Link
from broker.dead import REPLAY_OF, DeadLetters, Letter, gone, read_job, renew
from broker.errors import ConfigError, DecodeError, InvalidInput, PenstockError, StoreError, UnknownLetter, UnknownModel
from broker.intake import new_client
from broker.messages import Job, Kind
from broker.settings import unknown

AT_ONCE = 200  # letters listed, replayed or dropped between two looks


class Tensor(msgspec.Struct, frozen=True):
    """One input of a job. `shape` has the row axis in front, except for a job without one."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


class Shown(msgspec.Struct, frozen=True):
    """All that is known of one dead job. `values` is None unless they were asked for; `problem` says why a body is unread."""

    letter: Letter
    kind: str = ""
    rows: int = 0
    inputs: tuple[Tensor, ...] = ()
    context: Any = None
    replay_of: str = ""
    retries: int = 0
    result_ttl_s: int = 0
    is_stored: bool = False
    problem: str = ""
    values: Any = None


class Replayed(msgspec.Struct, frozen=True):
    """One job that runs again: its new id, and the one under which it died."""

    id: str
    replay_of: str


def listed(link: Link, model: str | None, *, reason: str = "", limit: int) -> tuple[int, list[Letter]]:
    """Redis' time, and up to `limit` letters, newest first, of one model or of all. Raises ConfigError for an unknown model."""
    now_ms, found = 0, []
    for name in _models(link, model):
        cursor, count = "+", 0
        while cursor and count < limit:
            page = DeadLetters(link, name).page(cursor, count=limit - count, reason=reason)
            found += page.letters
            count += len(page.letters)
            now_ms, cursor = page.now_ms, page.cursor
    found.sort(key=lambda letter: letter.died_ms, reverse=True)
    return now_ms, found[:limit]


def chosen(link: Link, model: str | None, *, reason: str = "") -> Iterator[list[Letter]]:
    """All letters of one model, or of all, page by page, newest first; those that come meanwhile are left alone."""
    for name in _models(link, model):
        cursor = "+"
        while cursor:
            page = DeadLetters(link, name).page(cursor, count=AT_ONCE, reason=reason)
            cursor = page.cursor
            if page.letters:
                yield page.letters


def reasons(link: Link, model: str | None) -> dict[str, int]:
    """What the letters of one model, or of all, died of, the most frequent first."""
    return dict(Counter(letter.reason for page in chosen(link, model) for letter in page).most_common())


def find(link: Link, id: str) -> Letter:
    """The letter of one job. Raises UnknownLetter, InvalidInput for what is no id."""
    for letter in _letters(link, id):
        return letter
    raise gone(id)


def show(link: Link, id: str, *, with_input: bool = False) -> Shown:
    """Everything about one letter; the input's values only when asked for. Raises UnknownLetter."""
    letter = find(link, id)
    found = DeadLetters(link, _model_of(letter)).read(letter.entry)
    if found is None:
        raise gone(id)
    letter, body = found
    problem = ""
    try:
        job = read_job(letter, body)
    except DecodeError as error:
        return Shown(letter, problem=str(error))
    try:
        job = DeadLetters(link, _model_of(letter)).with_body(job) if with_input else job
    except (DecodeError, StoreError, UnknownModel) as error:
        problem = str(error)
    context = job.context or {}
    return Shown(
        letter=letter,
        kind=Kind(job.kind).name.lower() if job.kind in tuple(Kind) else str(job.kind),
        rows=job.rows,
        inputs=tuple(_inputs(job)),
        context=context or None,
        replay_of=str(context.get(REPLAY_OF, "")),
        retries=job.retries,
        result_ttl_s=job.result_ttl_s,
        is_stored=job.is_stored,
        problem=problem,
        values=_values(job) if with_input and not problem else None,
    )


def replay(
    link: Link,
    letters: Sequence[Letter],
    *,
    lane: str | None = None,
    left: Callable[[PenstockError], None] | None = None,
) -> Iterator[Replayed]:
    """Queues each job again under a new id, in its own lane unless one is given, and takes its letter away.

    Raises QueueFull and UnknownModel at the first that is refused; those before it run. One that has gone, or cannot be
    read, is told to `left` and left alone; without it, UnknownLetter or InvalidInput is raised.
    """
    client = new_client()
    for number, letter in enumerate(letters, 1):
        model = _model_of(letter)
        dead = DeadLetters(link, model)
        job_id = f"{client}-{number}"
        try:
            found = dead.read(letter.entry)
            if found is None:
                raise gone(letter.id)
            dead.replay(letter, lane or letter.lane, renew(*found, job_id))
        except (UnknownLetter, InvalidInput) as error:
            if left is None:
                raise
            left(error)
        else:
            yield Replayed(id=f"{model}:{job_id}", replay_of=letter.id)


def drop(link: Link, letters: Sequence[Letter]) -> int:
    """Drops letters for good; how many were still there."""
    places: dict[str, list[str]] = {}
    for letter in letters:
        places.setdefault(_model_of(letter), []).append(letter.entry)
    return sum(
        DeadLetters(link, model).drop(entries[at : at + AT_ONCE])
        for model, entries in places.items()
        for at in range(0, len(entries), AT_ONCE)
    )


def find_all(link: Link, ids: Sequence[str]) -> list[Letter]:
    """The letters of all these jobs, each once. Raises UnknownLetter before anything is done to any of them."""
    found: dict[tuple[str, str], Letter] = {}
    for id in ids:
        letters = list(_letters(link, id))
        if not letters:
            raise gone(id)
        found.update({(letter.id, letter.entry): letter for letter in letters})
    return list(found.values())


def _letters(link: Link, id: str) -> Iterator[Letter]:
    model, _, job_id = id.rpartition(":")
    if not job_id:
        raise InvalidInput(f"{id!r} is not a job id; write it as `penstock dead ls` prints it, model:client-number")
    for name in [model] if model else _models(link, None):
        dead = DeadLetters(link, name)
        for entry in dead.entries(job_id):
            letter = dead.read(entry)
            if letter is not None:
                yield letter[0]


def _models(link: Link, model: str | None) -> list[str]:
    names = roster.models(link)
    if model is None:
        return names
    if model not in names:
        raise ConfigError(unknown("model", model, names))
    return [model]


def _model_of(letter: Letter) -> str:
    return letter.id.rpartition(":")[0]


def _inputs(job: Job) -> Iterator[Tensor]:
    rows = () if job.is_one_row else (job.rows,)
    for column in job.signature.columns:
        yield Tensor(column.name, column.dtype, (*rows, *column.shape), job.rows * column.row_bytes)
    if not job.signature.columns:
        size = len(job.data) - job.offset if job.body is None else job.body.size
        yield Tensor("(raw)", "text" if job.kind == Kind.TEXT else "bytes", (), size)


def _values(job: Job) -> Any:
    """Tensors as nested lists by name, text as it is, bytes as base64."""
    data = memoryview(job.data)[job.offset :]
    if not job.signature.columns:
        return bytes(data).decode(errors="replace") if job.kind == Kind.TEXT else b64encode(data).decode()
    values, at = {}, 0
    for column, tensor in zip(job.signature.columns, _inputs(job), strict=True):
        size = job.rows * column.row_bytes
        values[column.name] = np.frombuffer(data[at : at + size], column.dtype).reshape(tensor.shape).tolist()
        at += size
    return values
