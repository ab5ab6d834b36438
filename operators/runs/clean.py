"""What runs leave beside their outputs, taken away once nobody can come back for it: the daily clean-up of one host.

A run that is done keeps a note there, until Redis knows of its end; one with failed rows its parts, for `run retry`; one that
failed its parts, for `run resume`. Those go shortly before the run is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker import run_lease, runs, schedules
from broker.connection import Link
from broker.errors import RunError
from broker.runs import View
from broker.settings import Settings
from operators.runs.admit import check_output, require_id
from operators.runs.program_context import context

DAY_MS = 24 * 3_600_000


def clean(name: str, due_s: int) -> str:
    """The task; what was taken away. Only within the program of runs."""
    begun = context.get()
    link = Link(begun.url)
    link.connect_within(begun.settings.redis.connect_s)
    try:
        text = tidy(begun.settings, link)
        schedules.say(link, str(name), schedules.Said(int(due_s)))
        return text
    finally:
        link.close()


def tidy(settings: Settings, link: Link) -> str:
    """Discards what may go. A place that cannot be reached now is looked at again tomorrow; one that runs may not write to is left."""
    from operators.runs.data.sink import open_sink

    gone, left = 0, 0
    for view in leftovers(runs.views(link), settings):
        if run_lease.is_held(link, [view.id])[0] or not runs.view(link, view.id).is_final:
            continue
        try:
            require_id(view.id)
            check_output(view.request.output, view.id, settings.run_roots)
            open_sink(view.request.output, kind=view.request.output_kind, run=view.id, replace=True).discard()
            gone += 1
        except RunError:
            left += 1
    return f"looked through {gone + left} runs that ended, {left} of them could not be reached"


def leftovers(views: Iterable[View], settings: Settings) -> list[View]:
    """Runs of this host, or of any, whose parts nobody needs: done since an hour, or otherwise ended and forgotten within two days."""
    keep_ms = settings.runs.keep_days * DAY_MS
    found = []
    for view in views:
        ended_ms = view.at_ms - view.ended_ms
        if not view.is_final or not view.ended_ms or view.request.host not in ("", settings.host):
            continue
        is_settled = view.state in ("done", "cancelled")
        if ended_ms > (DAY_MS / 24 if is_settled else max(keep_ms - 2 * DAY_MS, keep_ms / 2)):
            found.append(view)
    return found
