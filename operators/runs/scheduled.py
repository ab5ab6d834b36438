"""The task of a schedule: submits its run, and says what became of it. Done twice for one time it does the same once, for a run has one id."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from broker import schedules
from broker.connection import Link
from broker.errors import PenstockError, RunError
from broker.fingerprint import is_local
from broker.runs import IfExists, Request
from broker.settings import Settings, unknown
from operators.runs.ordering import Words, make_order
from operators.runs.program_context import context
from producer import run_order

MARKS = ("{date}", "{time}")


def submit(name: str, due_s: int) -> str:
    """The run's id. Only within the program of runs, whose settings and Redis user it takes."""
    begun = context.get()
    link = Link(begun.url)
    link.connect_within(begun.settings.redis.connect_s)
    try:
        return answer(begun.settings, link, str(name), int(due_s))
    finally:
        link.close()


def answer(settings: Settings, link: Link, name: str, due_s: int) -> str:
    """Submits, and keeps what became of it for `penstock run schedules`; what is wrong is raised too, so that RQ's tools show it."""
    try:
        run = submit_for(settings, link, name, due_s)
    except PenstockError as error:
        schedules.say(link, name, schedules.Said(due_s, error=str(error)))
        raise
    schedules.say(link, name, schedules.Said(due_s, run=run))
    return run


def submit_for(settings: Settings, link: Link, name: str, due_s: int) -> str:
    """Submits what [schedules.NAME] says, for the time it was due. Raises what is wrong with it."""
    if name not in settings.schedules:
        raise RunError(
            f"{settings.path} has no [schedules.{name}] any more; {unknown('schedule', name, settings.schedules)}"
        )
    one = settings.schedules[name]
    due = datetime.fromtimestamp(due_s, UTC)
    # An output without the day in its name means the latest: it is written anew each time.
    how: IfExists = "resume" if any(mark in one.output for mark in MARKS) else "overwrite"
    request = Request(
        input=_place(settings, one.input, due), output=_place(settings, one.output, due), model=one.model,
        priority="normal", user=f"schedule {name}",
    )  # fmt: skip
    words = Words(file=_place(settings, one.mapping, due) if one.mapping else "")
    order = make_order(link, request, words, if_exists=how, host=settings.host, roots=settings.run_roots)
    view, _ = run_order.submit(link, order)
    return view.id


def _place(settings: Settings, text: str, due: datetime) -> str:
    """Relative paths start where pool.toml's do. Not str.format: a glob may hold braces."""
    text = text.replace("{date}", f"{due:%Y-%m-%d}").replace("{time}", f"{due:%H%M}")
    return str(Path(settings.root) / text) + "/" * (text.endswith("/") and text != "/") if is_local(text) else text
