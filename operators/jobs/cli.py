"""`penstock jobs`: the commands. Where one job is lies in `trail`, which there are in `listing`. Payloads are never printed."""

from __future__ import annotations

from collections.abc import Iterator

import click

from operators import table
from operators.completion.complete import complete_model
from operators.jobs import listing, trail
from operators.jobs.life import Life, Step
from operators.jobs.listing import Listed
from operators.reach import reached  # as the operator: the monitor may read no results, nor tell how a job ended
from operators.screen.cli import Seconds, as_json, load_or_in_force, print_json, print_lines
from operators.table import age, clean, cut, size

LISTED = 50
LONGEST_REASON = 40
COLORS = {
    "done": "green",
    "failed": "red",
    "dead": "red",
    "expired": "yellow",
    "cancelled": "yellow",
    "unknown": "yellow",
}


@click.group()
def jobs() -> None:
    """Show the life of one job, or which jobs of a model there are. What they hold is never printed."""


@jobs.command("show", short_help="Show the life of one job.")
@click.argument("id")
@click.option(
    "--search-s", type=Seconds(min=0, max=3600), default=trail.SEARCH_S, show_default=True, metavar="SECONDS",
    help="How long a long queue is searched.",
)  # fmt: skip
@as_json
@click.pass_obj
def show(config: str | None, id: str, search_s: float, is_json: bool) -> None:
    """Show the life of one job: state, lane, the slot that holds it, attempts, error, next retry, deadline, replays.

    ID is what submit gave: model:client-number. Exit code 1 when nothing is known of it.
    """
    with reached(load_or_in_force(config)) as link:
        found = trail.show(link, id, search_s=search_s)
    print_json(found) if is_json else _print_life(found)
    if found.state == "unknown":
        raise SystemExit(1)


@jobs.command("ls", short_help="List jobs of a model.")
@click.argument("model", shell_complete=complete_model)
@click.option("--state", type=click.Choice(listing.STATES), help="Only these; all but the dead unless given.")
@click.option(
    "--limit", type=click.IntRange(min=1, max=10_000), default=LISTED, show_default=True, help="At most how many."
)
@as_json
@click.pass_obj
def ls(config: str | None, model: str, state: listing.State | None, limit: int, is_json: bool) -> None:
    """List jobs of MODEL, those first that are served first."""
    settings = load_or_in_force(config)
    with reached(settings) as link:
        now_ms, found = listing.listed(link, model, state, limit=limit, models=settings.models)
    if is_json:
        print_json(found)
    elif found:
        _print_table(found, now_ms)
        if len(found) == limit:
            click.echo(f"the first {limit}; there may be more: --limit, and `penstock status` counts them", err=True)
    else:
        click.echo(f"no {state or 'waiting, claimed or delayed'} jobs of model {model}")


def _print_table(found: list[Listed], now_ms: int) -> None:
    head = ("ID", "STATE", "LANE", "AGE", "ROWS", "SIZE", "ATTEMPT", "MARKS", "SLOT", "DEADLINE", "REASON")
    rows = [
        (
            clean(one.id), one.state, one.lane or "-",
            f"due in {age(max(0, one.at_ms - now_ms))}" if one.state == "delayed" else age(now_ms - one.at_ms),
            str(one.rows or "-"), size(one.size), str(one.attempt or "-"), str(one.crash_marks), one.slot or "-",
            _deadline(one.deadline_ms, now_ms), cut(one.reason, LONGEST_REASON) or "-",
        )
        for one in found
    ]  # fmt: skip
    print_lines(table.align([head, *rows], right=range(3, 8)))


def _print_life(life: Life) -> None:
    for name, text in _told(life):
        shown = click.style(clean(text), fg=COLORS.get(life.state) if name == "state" else None)
        click.echo(f"{click.style(name.ljust(10), bold=True)}  {shown}")


def _told(life: Life) -> Iterator[tuple[str, str]]:
    now_ms = life.now_ms
    yield "id", life.id
    yield "state", life.state + (f": {life.note}" if life.note else "")
    if life.slot is not None:
        yield "slot", f"{life.slot} ({life.slot_state or 'says nothing'}), lease renewed {age(life.lease_idle_ms)} ago"
    if life.due_ms is not None:
        yield "next retry" if life.is_retry else "due", f"in {age(max(0, life.due_ms - now_ms))}"
    if life.lane is not None:
        yield "lane", life.lane + (f", {life.ahead} ahead of it" if life.ahead is not None else "")
    if life.submitted_ms is not None:
        yield "submitted", f"{age(now_ms - life.submitted_ms)} ago"
    if life.died_ms is not None:
        yield "died", f"{age(now_ms - life.died_ms)} ago"
    if life.attempt is not None:
        marks = f", {table.count_of(life.crash_marks, 'crash mark')}" if life.crash_marks else ""
        allowed = f", {life.retries} retries allowed" if life.retries is not None else ""
        yield "attempt", f"{life.attempt}{allowed}{marks}"
    if life.reason or life.error:
        yield "error", ": ".join(one for one in (life.reason, life.error) if one)
    if life.deadline_ms is not None:
        yield "deadline", _deadline(life.deadline_ms, now_ms)
    if life.rows is not None:
        kind = f"{life.kind}, " if life.kind else ""
        yield (
            "input" if life.kind else "rows",
            f"{kind}{table.count_of(life.rows, 'row')}" + (f", {size(life.size)}" if life.size else ""),
        )
    if life.timings is not None:
        one = life.timings
        yield (
            "times",
            f"{one.queue_ms:g} ms in Redis, {one.wait_ms:g} in the slot, {one.forward_ms:g} in the forward, {one.total_ms:g} in all",
        )
    if life.version:
        yield "model", f"version {life.version}"
    if life.expires_ms is not None:
        yield "result", f"kept for another {age(max(0, life.expires_ms - now_ms))}"
    elif life.is_stored is not None:
        yield (
            "result",
            f"will be kept for {age(1000.0 * life.result_ttl_s)}"
            if life.result_ttl_s
            else "not stored; only its client gets it",
        )
    if life.replay_of is not None:
        yield "replay of", _step(life.replay_of)
    for step in life.replays:
        yield "replayed", f"as {_step(step)}"


def _step(step: Step) -> str:
    why = ": ".join(one for one in (step.reason, step.error) if one)
    return f"{step.id} ({step.state}{f': {why}' if why else ''})"


def _deadline(deadline_ms: int | None, now_ms: int) -> str:
    if deadline_ms is None:
        return "-"
    return f"in {age(deadline_ms - now_ms)}" if deadline_ms > now_ms else f"passed {age(now_ms - deadline_ms)} ago"
