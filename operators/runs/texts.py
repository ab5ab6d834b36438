"""Runs as texts: a table, one run in full, a bar, a line of progress. Text out only; colours and the screen are the caller's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from broker.runs import RowError, View
from operators import table

if TYPE_CHECKING:  # they need pyarrow and croniter, which a list of runs does not
    from operators.runs.calendar import Entry
    from operators.runs.trial import Trial

BAR = 24  # characters
SHOWN = 5
LONGEST = 60  # characters of a path in a table

MENDS: Mapping[str, str] = {
    "paused": "penstock run resume {id}",
    "failed": "penstock run resume {id}",
    "done_with_errors": "penstock run errors {id}; penstock run retry {id}",
}


def runs(views: Sequence[View]) -> list[str]:
    """A line per run, headed."""
    head = ("RUN", "STATE", "MODEL", "DONE", "ROWS", "FAILED", "ROWS/S", "LEFT", "AGE", "OUTPUT")
    return table.align([head, *map(_row, views)], right=range(3, 9))


def one(view: View) -> list[tuple[str, str]]:
    """Name and text of all that is known of a run; the last says what to do next, if anything."""
    request = view.request
    said = [
        ("run", view.id), ("state", state(view)), ("model", f"{request.model} version {view.version}"),
        ("input", request.input), ("output", request.output), ("mapping", _mapping(request.mapping)),
        ("rows", f"{count(view.rows_done)} of {count(view.rows_total)} done, {count(view.rows_failed)} failed"),
        ("speed", f"{rate(view)}{_limit(request.rate)}"), ("left", left(view)), ("priority", request.priority),
        ("host", request.host or "any"), ("user", request.user or "-"),
        ("submitted", f"{table.age(view.at_ms - view.created_ms)} ago"),
        ("worked by", view.owner if view.state == "running" else "-"),
    ]  # fmt: skip
    if view.ended_ms:
        said.append(("ended", f"{table.age(view.at_ms - view.ended_ms)} ago, {took(view)}"))
    if view.error:
        said.append(("reason", view.error))
    if view.state in MENDS:
        said.append(("next", MENDS[view.state].format(id=view.id)))
    return said


def bar(view: View, width: int) -> str:
    """`3f0a..  ████░░░░  50 %  1 000 of 2 000 rows, 3 failed  500 rows/s  2.0 s left`, at most `width` characters."""
    share = done_share(view)
    full = round(BAR * (share or 0.0))
    drawn = f"{'█' * full}{'░' * (BAR - full)} {100 * share:3.0f} %" if share is not None else "-"
    return f"{view.id}  {drawn}  {progress(view)}"[:width]


def progress(view: View) -> str:
    """How far it is, for a bar or a line."""
    failed = f", {count(view.rows_failed)} failed" if view.rows_failed else ""
    total = f" of {count(view.rows_total)}" if view.rows_total is not None else ""
    done = f"{count(view.rows_done)}{total} rows{failed}"
    if view.state == "running":
        return f"{done}  {rate(view)}" + (f"  {left(view)} left" if view.eta_s is not None else "") + _doing(view)
    return f"{done}  {state(view)}" + (f": {view.error}" if view.error else "")


def ended(view: View) -> str:
    """The last line of a run that ended."""
    if view.state in ("failed", "cancelled"):
        return f"run {view.id} {state(view)}" + (f": {view.error}" if view.error else "")
    failed = f", {count(view.rows_failed)} failed (penstock run errors {view.id})" if view.rows_failed else ""
    return f"run {view.id} done: {count(view.rows_done)} rows{failed} in {took(view)}, {view.request.output}"


def state(view: View) -> str:
    text = view.state.replace("_", " ")
    asked = {"pause": "pausing", "cancel": "cancelling"}.get(view.asked, "") if not view.is_final else ""
    return f"{text}, {asked}" if asked else text


def done_share(view: View) -> float | None:
    """Between 0 and 1; None where the rows are not counted."""
    return min(1.0, view.rows_done / view.rows_total) if view.rows_total else None


def count(number: int | None) -> str:
    """1234567 as 1 234 567; ? where it is not known."""
    return "?" if number is None else f"{number:,}".replace(",", " ")


def rate(view: View) -> str:
    return f"{count(round(view.rows_per_s))} rows/s"


def left(view: View) -> str:
    return "-" if view.eta_s is None or view.is_final else table.age(view.eta_s * 1000)


def took(view: View) -> str:
    return table.age(view.ended_ms - view.started_ms) if view.ended_ms and view.started_ms else "no time"


def when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def errors(found: Sequence[RowError]) -> list[str]:
    """A line per failed row, headed; rows count from 0."""
    rows = [
        (str(one.row), " ".join(f"{name}={value}" for name, value in one.keys.items()) or "-", clean(one.error))
        for one in found
    ]
    return table.align([("ROW", "KEYS", "ERROR"), *rows], right=(0,))


def trial(found: Trial) -> list[tuple[str, str]]:
    """What `run check` found, by name."""
    total = count(found.rows_total) if found.rows_total is not None else f"about {count(found.rows_guess)}"
    said = [("input", f"{found.kind}, {total} rows")]
    said += [("mapping", f"{name} <- {_columns(columns)}") for name, columns in found.inputs.items()]
    said += [("output", ", ".join(found.columns)), ("tried", f"{found.tried} rows, {len(found.failed)} failed")]
    said += [("failed", f"row {row}: {text}") for row, text in list(found.failed.items())[:SHOWN]]
    said += [("sample", ", ".join(f"{name}={value}" for name, value in row.items())) for row in found.sample]
    if found.eta_s is not None:
        slots = table.count_of(found.slots, "ready slot")
        said.append(("speed", f"about {count(round(found.rows_per_s))} rows/s with {slots}, less beside live traffic"))
        said.append(("all rows", f"in about {table.age(found.eta_s * 1000)}"))
    return said


def schedules(found: Sequence[Entry]) -> list[str]:
    """A line per schedule, headed."""
    rows = [
        (one.name, one.cron, one.model, when(one.next_s) if one.next_s else "-", when(one.due_s) if one.due_s else "-",
         clean(one.error) or one.run or ("waits" if one.due_s else "-"))
        for one in found
    ]  # fmt: skip
    return table.align([("SCHEDULE", "CRON", "MODEL", "NEXT", "LAST", "BECAME"), *rows])


def clean(text: str) -> str:
    """One line without control characters: errors may be anybody's bytes, and terminals obey some."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


def _row(view: View) -> tuple[str, ...]:
    share = done_share(view)
    return (
        view.id, state(view), view.request.model, "-" if share is None else f"{100 * share:.0f} %", count(view.rows_total),
        count(view.rows_failed), count(round(view.rows_per_s)), left(view), table.age(view.at_ms - view.created_ms),
        _short(view.request.output),
    )  # fmt: skip


def _columns(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= SHOWN else f"{names[0]}, {names[1]} .. {names[-1]} ({len(names)} columns)"


def _short(path: str) -> str:
    return path if len(path) <= LONGEST else "…" + path[1 - LONGEST :]


def _doing(view: View) -> str:
    return f"  ({view.doing})" if view.doing else ""


def _limit(limit: float) -> str:
    return f", at most {count(round(limit))}" if limit else ""


def _mapping(mapping: Mapping[str, object]) -> str:
    """As it would be typed."""
    inputs, keys, outputs = mapping.get("inputs"), mapping.get("keys"), mapping.get("outputs")
    words = (
        [f"--map {name}={','.join(columns)}" for name, columns in inputs.items()] if isinstance(inputs, dict) else []
    )
    words += [f"--key {','.join(keys)}"] if isinstance(keys, list) else []
    words += [f"--columns {outputs}"] if isinstance(outputs, str) else []
    words += [f"--columns {name}={how}" for name, how in outputs.items()] if isinstance(outputs, dict) else []
    return " ".join(words) or "by name"
