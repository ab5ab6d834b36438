"""Bulk runs as Redis knows them: what was asked for, how far each is, which rows failed. Whoever submits or watches reads here.

What only the programs that work runs say stands in `run_lease`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from broker import keys
from broker.connection import Arg, Link, ResponseError, is_out_of_memory
from broker.errors import InvalidInput, RunError
from broker.run_beats import Beat as Beat
from broker.run_beats import beats as beats
from broker.run_request import PRIORITIES as PRIORITIES
from broker.run_request import Priority as Priority
from broker.run_request import Request as Request
from broker.run_request import decode
from broker.run_request import run_id as run_id

State: TypeAlias = Literal["queued", "running", "paused", "done", "done_with_errors", "failed", "cancelled"]
IfExists: TypeAlias = Literal["resume", "fail", "overwrite"]
Ask: TypeAlias = Literal["pause", "resume", "cancel", "retry"]

FINAL: frozenset[str] = frozenset({"done", "done_with_errors", "failed", "cancelled"})
KEEP_MS = 14 * 24 * 3_600_000  # how long a run that is cancelled while nobody works it is remembered


class View(msgspec.Struct, frozen=True):
    """A run as it stands. Times are Redis', in ms, 0 where it has not come to that; `at_ms` is when this was read.

    `rows_done` counts rows that are written, those that failed among them. `doing`: what it waits for or does now, "" when it
    just goes on. `asked`: what a user asked for that its worker has not done yet. `owner`: who works it.
    """

    id: str
    request: Request
    state: State
    version: str
    fingerprint: str
    rows_total: int | None
    rows_done: int
    rows_failed: int
    rows_per_s: float
    eta_s: float | None
    error: str
    created_ms: int
    started_ms: int
    ended_ms: int
    progressed_ms: int
    at_ms: int
    owner: str
    asked: str
    doing: str
    is_fresh: bool
    is_retry: bool

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    @property
    def quiet_s(self) -> float:
        """How long a running run has not done a row; 0 for one that does not run."""
        return max(0, self.at_ms - self.progressed_ms) / 1000 if self.state == "running" else 0.0


class RowError(msgspec.Struct, frozen=True):
    """One row that failed: its number in the input, its key columns, and why."""

    row: int
    keys: dict[str, Any]
    error: str


def submit(
    link: Link, request: Request, run: str, *, if_exists: IfExists = "resume", version: str = "", fingerprint: str = ""
) -> tuple[View, bool]:
    """Takes the run in; (its view, whether it is new). Nothing is read here: what the paths hold is the programs' to find out.

    There is one already: with "resume" that one (one that failed or was cancelled goes on, under what this request says of limits,
    rate and priority), with "overwrite" it begins anew, with "fail" RunError. Raises RunError too for one that is to begin anew
    while it is worked, when another run is to write the same output, or one that goes on would replace what another has written since,
    and when Redis is full.
    """
    args: list[Arg] = [
        run, keys.run(run, "_lease"), if_exists, msgspec.json.encode(request), version, fingerprint,
        request.output.rstrip("/"), keys.run(""),
    ]  # fmt: skip
    try:
        verdict, state, *by = _texts(link.script("run_submit", [keys.run(run), keys.runs()], args))
    except ResponseError as error:
        if is_out_of_memory(error):
            raise RunError(
                "Redis is full and takes no new run; let the queues drain, or raise redis.max_memory_mb"
            ) from None
        raise
    if verdict == "exists":
        raise RunError(
            f"run {run} exists already and is {state}; see `penstock run show {run}`, or submit with --if-exists resume or overwrite"
        )
    if verdict == "taken":
        say = _rival if state in FINAL else output_taken
        raise RunError(say(request.output, by[0], state))
    if verdict == "busy":
        raise RunError(f"run {run} is being worked and cannot begin anew; first `penstock run cancel {run}`")
    return view(link, run), verdict == "new"


def output_taken(output: str, by: str, state: str) -> str:
    """The text for a run whose output another one is to write."""
    return f"run {by} ({state}) writes to {output} already; wait for it, `penstock run cancel {by}`, or name another output"


def view(link: Link, run: str) -> View:
    """One run. Raises RunError for an id nobody knows."""
    found = _views(link, [run])
    if not found:
        raise RunError(f"no run {run}; `penstock run ls` lists those there are (a run that ended is forgotten in time)")
    return found[0]


def views(link: Link) -> list[View]:
    """All runs, the newest first. What is no run of ours is passed over: whoever may submit may write anything there."""
    names = reversed(link.call("ZRANGE", keys.runs(), 0, -1))
    return _views(link, [name.decode(errors="replace") for name in names])


def ask(link: Link, run: str, what: Ask) -> View:
    """Pauses, resumes, cancels, or scores again the rows that failed; at once, or as soon as its worker has seen it (`asked`).

    Raises RunError when the run is not in a state for that, or would go on to write what another run writes or has written.
    """
    args: list[Arg] = [what, keys.run(run, "_lease"), KEEP_MS, run, keys.run("")]
    verdict, state, *by = _texts(link.script("run_ask", [keys.run(run), keys.runs()], args))
    if verdict == "taken":
        raise RunError(f"run {run} cannot {what}: {_rival(by[1], by[0], state)}")
    if verdict == "ended":
        raise RunError(f"run {run} has ended ({state}) and cannot {what}; {_MENDS.get(state, 'submit it again')}")
    if verdict == "unfinished":
        mend = {"failed": "resume it", "cancelled": "submit it again"}.get(state, "wait for its end")
        raise RunError(f"run {run} is {state}: failed rows are scored again once it has gone through; {mend}")
    if verdict == "spotless":
        raise RunError(f"run {run} has no failed rows; there is nothing to score again")
    return view(link, run)  # raises for one that is unknown


def errors(link: Link, run: str, limit: int = 100) -> list[RowError]:
    """The first rows that failed, in row order. At most keys.RUN_ERRORS_CAP are kept; the output's `error` column has all."""
    found: list[Any] = link.call("XRANGE", keys.run(run, "_errors"), "-", "+", "COUNT", limit)
    return [_row_error(entry, flat) for entry, flat in found]


_CONTROL = dict.fromkeys((*range(32), *range(127, 160)), " ")  # would steer the terminal of who looks at it
_MENDS = {
    "done": "submit it with --if-exists overwrite to score it anew",
    "done_with_errors": "`penstock run retry` scores its failed rows again",
    "failed": "`penstock run resume` goes on where it stopped",
    "cancelled": "submit it again",
}


def _views(link: Link, runs: Sequence[str]) -> list[View]:
    clock, *replies = link.call_all([("TIME",), *(("HGETALL", keys.run(run)) for run in runs)])
    found = []
    for run, reply in zip(runs, replies, strict=True):
        if isinstance(reply, ResponseError):
            if not str(reply).startswith("WRONGTYPE"):
                raise reply
        elif "request" in (fields := _fields(reply)):
            with suppress(ValueError, KeyError, OverflowError, InvalidInput):
                found.append(_view(run, fields, _ms(clock)))
    return found


def _rival(output: str, by: str, state: str) -> str:
    """The text for a run that ended and may not go on, for another has its output."""
    if state in FINAL:
        return (
            f"run {by} ({state}) has written {output} since; submit with --if-exists overwrite, or with another output"
        )
    return f"run {by} ({state}) writes to {output} now; `penstock run cancel {by}`, or submit with another output"


def _view(run: str, row: Mapping[str, str], at_ms: int) -> View:
    """Raises ValueError, KeyError, OverflowError or InvalidInput for what is no run."""
    if row["state"] not in get_args(State):
        raise ValueError(row["state"])

    def number(name: str) -> int:
        return int(row.get(name, 0))

    return View(
        id=run, request=decode(row["request"]), state=row["state"],  # type: ignore[arg-type]
        version=row.get("version", ""), fingerprint=row.get("fingerprint", ""),
        rows_total=number("rows_total") if "rows_total" in row else None, rows_done=number("rows_done"),
        rows_failed=number("rows_failed"), rows_per_s=float(row.get("rows_per_s", 0)),
        eta_s=float(row["eta_s"]) if "eta_s" in row else None, error=row.get("error", ""), created_ms=number("created_ms"),
        started_ms=number("started_ms"), ended_ms=number("ended_ms"), progressed_ms=number("progressed_ms"), at_ms=at_ms,
        owner=row.get("owner", ""), asked=row.get("asked", ""), doing=row.get("doing", ""),
        is_fresh="is_fresh" in row, is_retry="is_retry" in row,
    )  # fmt: skip


def _row_error(entry: bytes, flat: Sequence[bytes]) -> RowError:
    row = _fields(flat)
    return RowError(int(entry.partition(b"-")[0]) - 1, msgspec.json.decode(row["keys"] or "{}"), row["why"])


def _texts(reply: Sequence[bytes]) -> list[str]:
    return [part.decode(errors="replace").translate(_CONTROL) for part in reply]


def _fields(flat: Sequence[bytes]) -> dict[str, str]:
    texts = _texts(flat)
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _ms(time: Sequence[bytes]) -> int:
    return int(time[0]) * 1000 + int(time[1]) // 1000
