"""`penstock run`: the commands. Mounted by operators.cli, which prints their errors; what they do lies beside this file.

Exit codes where a command waits for a run: 0 done, 2 done and some rows failed, 1 failed or cancelled. `check` likewise: 2 when
one of the rows it tried failed. Wrong usage is 2 too, before anything was submitted.
"""

from __future__ import annotations

import click

from broker import audit, runs
from broker.runs import Ask
from broker.settings import Settings
from operators.completion.complete import complete_run
from operators.reach import reached
from operators.runs import texts
from operators.runs.screen.cli import print_field, timeout, wait, wait_for
from operators.runs.submit.cli import check, submit
from operators.screen.cli import as_json, load_or_in_force, print_json, print_lines, say, with_reason, with_yes
from operators.screen.cli import ask as agree

LISTED = 50


@click.group(invoke_without_command=True)
@click.pass_context
def run(context: click.Context) -> None:
    """Score files of any size beside live traffic, resumable after any crash. Without a command: ls."""
    if context.invoked_subcommand is None:
        context.invoke(ls, limit=LISTED, is_json=False)


run.add_command(submit)
run.add_command(check)


@run.command("ls", short_help="List runs, newest first.")
@click.option("--limit", type=click.IntRange(min=1), default=LISTED, show_default=True, help="At most how many.")
@as_json
@click.pass_obj
def ls(config: str | None, limit: int, is_json: bool) -> None:
    """List runs, newest first; those that ended are remembered for runs.keep_days."""
    with reached(load_or_in_force(config)) as link:
        found = runs.views(link)[:limit]
    if is_json:
        print_json(found)
    elif found:
        print_lines(texts.runs(found))
    else:
        click.echo("no runs; `penstock run submit` begins one")


@run.command(short_help="Show all that is known of one.")
@click.argument("id", shell_complete=complete_run)
@as_json
@click.pass_obj
def show(config: str | None, id: str, is_json: bool) -> None:
    """Show all that is known of run ID, and what to do next."""
    with reached(load_or_in_force(config)) as link:
        view = runs.view(link, id)
    if is_json:
        print_json(view)
    else:
        for name, text in texts.one(view):
            print_field(name, text)


@run.command(short_help="Follow one until it ends.")
@click.argument("id", shell_complete=complete_run)
@timeout
@as_json
@click.pass_obj
def watch(config: str | None, id: str, timeout_s: float | None, is_json: bool) -> None:
    """Follow run ID until it ends; exit codes as of `submit --wait`. Interrupting it leaves the run alone."""
    settings = load_or_in_force(config)
    with reached(settings) as link:
        runs.view(link, id)
    wait(settings, id, timeout_s, is_json)


@run.command(short_help="Stop one for now.")
@click.argument("id", shell_complete=complete_run)
@with_reason
@as_json
@click.pass_obj
def pause(config: str | None, id: str, reason: str, is_json: bool) -> None:
    """Stop run ID behind the rows it has sent; what is done stays done, and `resume` goes on from there."""
    _ask(load_or_in_force(config), id, "pause", reason, is_json)


@run.command(short_help="Let one go on that was paused or failed.")
@click.argument("id", shell_complete=complete_run)
@wait_for
@with_reason
@as_json
@click.pass_obj
def resume(config: str | None, id: str, is_waiting: bool, reason: str, is_json: bool) -> None:
    """Let run ID go on where it stopped: it was paused, or failed for a reason that is mended."""
    _ask(load_or_in_force(config), id, "resume", reason, is_json, is_waiting=is_waiting)


@run.command(short_help="End one and throw away what it has done.")
@click.argument("id", shell_complete=complete_run)
@with_yes
@with_reason
@as_json
@click.pass_obj
def cancel(config: str | None, id: str, is_agreed: bool, reason: str, is_json: bool) -> None:
    """End run ID and throw its parts away; nothing stands under the output's name."""
    settings = load_or_in_force(config)
    with reached(settings) as link:
        view = runs.view(link, id)
    if not view.is_final:
        agree(f"cancel run {id} and throw away {texts.count(view.rows_done)} scored rows?", is_agreed=is_agreed)
    _ask(settings, id, "cancel", reason, is_json)


@run.command(short_help="Score the failed rows again.")
@click.argument("id", shell_complete=complete_run)
@wait_for
@with_reason
@as_json
@click.pass_obj
def retry(config: str | None, id: str, is_waiting: bool, reason: str, is_json: bool) -> None:
    """Score the rows of run ID again that failed, and no others; the output is written anew with them."""
    _ask(load_or_in_force(config), id, "retry", reason, is_json, is_waiting=is_waiting)


@run.command(short_help="List the rows that failed, with reasons.")
@click.argument("id", shell_complete=complete_run)
@click.option("--limit", type=click.IntRange(min=1), default=LISTED, show_default=True, help="At most how many.")
@as_json
@click.pass_obj
def errors(config: str | None, id: str, limit: int, is_json: bool) -> None:
    """List the rows of run ID that failed: number from 0, key columns, reason. The output's `error` column has all of them."""
    with reached(load_or_in_force(config)) as link:
        view = runs.view(link, id)
        found = runs.errors(link, id, limit)
    if is_json:
        print_json(found)
    elif found:
        print_lines(texts.errors(found))
        if view.rows_failed > len(found):
            say(
                f"{texts.count(view.rows_failed - len(found))} more; --limit shows more, the output's `error` column all"
            )
    else:
        click.echo(f"no row of run {id} has failed")


@run.command("schedules", short_help="Show the schedules and what became of them.")
@as_json
@click.pass_obj
def list_schedules(config: str | None, is_json: bool) -> None:
    """Show [schedules] of pool.toml: when each is next due, in UTC, and what became of its last time."""
    from operators.runs.calendar import calendar

    settings = load_or_in_force(config)
    with reached(settings) as link:
        found = calendar(settings, link)
    if is_json:
        print_json(found)
    elif found:
        print_lines(texts.schedules(found))
    else:
        click.echo("no schedules; [schedules.NAME] in pool.toml makes one (docs/runs.md)")


def _ask(settings: Settings, id: str, what: Ask, reason: str, is_json: bool, *, is_waiting: bool = False) -> None:
    with reached(settings) as link:
        view = runs.ask(link, id, what)
        audit.record(link, f"run {what}", id, reason=reason)
    if is_waiting:
        wait(settings, id, None, is_json)
    elif is_json:
        print_json(view)
    else:
        click.echo(f"run {id} is {texts.state(view)}")
