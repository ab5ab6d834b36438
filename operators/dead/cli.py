"""`penstock dead`: the commands. Mounted by operators.cli, which prints its errors; what they do lies in `letters`."""

from __future__ import annotations

from collections.abc import Iterable

import click
import msgspec

from broker import audit
from broker.connection import Link
from broker.dead import Letter
from broker.errors import PenstockError
from broker.messages import LANES
from operators import table
from operators.completion.complete import complete_model
from operators.dead import letters
from operators.dead.letters import Replayed, Shown
from operators.reach import reached
from operators.screen.cli import as_json, ask, load_or_in_force, print_json, print_lines
from operators.table import clean, cut

LISTED = 50
LONGEST_ERROR = 60  # characters of an error in the table
LONGEST_VALUES = 2_000  # characters of an input on the screen; --json gives all of it

by_reason = click.option("--reason", default="", metavar="REASON", help="Only those that died of this reason.")
of_all = click.option("--all", "is_all", is_flag=True, help="All of them, instead of ids; asks first.")
of_model = click.option(
    "--model", metavar="MODEL", shell_complete=complete_model, help="With --all: of this model only."
)
yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group(invoke_without_command=True)
@click.pass_context
def dead(context: click.Context) -> None:
    """List, show, replay and drop dead letters: jobs that were given up, kept as they were submitted. Without a command: ls."""
    if context.invoked_subcommand is None:
        context.invoke(ls, model=None, reason="", limit=LISTED, is_json=False)


@dead.command("ls", short_help="List dead letters, newest first.")
@click.argument("model", required=False, shell_complete=complete_model)
@by_reason
@click.option("--limit", type=click.IntRange(min=1), default=LISTED, show_default=True, help="At most how many.")
@as_json
@click.pass_obj
def ls(config: str | None, model: str | None, reason: str, limit: int, is_json: bool) -> None:
    """List the dead letters of MODEL, or of all models, newest first."""
    with reached(load_or_in_force(config)) as link:
        now_ms, found = letters.listed(link, model, reason=reason, limit=limit)
        there = letters.reasons(link, model) if reason and not found and not is_json else {}
    if is_json:
        print_json(found)
    elif found:
        _print_table(found, now_ms)
    else:
        told = ", ".join(f"{clean(name) or '-'} ({count})" for name, count in there.items())
        click.echo(
            "no dead letters" + (f" of model {model}" if model else "") + (f" with reason {reason}" if reason else "")
            + (f"; there are: {told}" if told else "")
        )  # fmt: skip


@dead.command("show", short_help="Show all that is known of one.")
@click.argument("id")
@click.option("--show-input", is_flag=True, help="Print the input's values too; they may be confidential.")
@as_json
@click.pass_obj
def show(config: str | None, id: str, show_input: bool, is_json: bool) -> None:
    """Show all that is known of one dead letter. The input's names and shapes are shown, its values only if asked for."""
    with reached(load_or_in_force(config)) as link:
        found = letters.show(link, id, with_input=show_input)
    print_json(found) if is_json else _print_shown(found)


@dead.command("replay", short_help="Run dead jobs again, under new ids.")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@of_all
@of_model
@by_reason
@click.option("--lane", type=click.Choice(LANES), help="Priority; its own unless given.")
@yes
@as_json
@click.pass_obj
def replay(
    config: str | None, ids: tuple[str, ...], is_all: bool, model: str | None, reason: str, lane: str | None, yes: bool,
    is_json: bool,
) -> None:  # fmt: skip
    """Run dead jobs again, each under a new id, and take their letters away. Deadlines are gone, attempts begin anew.

    The new id is printed first; results are asked for by it. When the queue is full it stops, and the rest stays.
    """
    done: list[Replayed] = []
    left: list[PenstockError] = []
    with reached(load_or_in_force(config)) as link:
        try:
            for page in _pages(link, "replay", ids, is_all, model, reason, yes):
                for one in letters.replay(link, page, lane=lane, left=left.append if is_all else None):
                    done.append(one)
                    if not is_json:
                        click.echo(f"{one.id}  replay of {one.replay_of}")
        finally:  # what runs again must be told, though the next was refused
            if is_json:
                print_json(done)
            _noted(link, "replay", len(done), ids, model, reason)
    if left:
        more = f"; so were {len(left) - 1} others" if len(left) > 1 else ""
        raise type(left[0])(f"one was left alone: {left[0]}{more}")
    if not done and not is_json:
        click.echo("no dead letters to replay")


@dead.command("drop", short_help="Delete dead letters for good.")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@of_all
@of_model
@by_reason
@yes
@as_json
@click.pass_obj
def drop(
    config: str | None, ids: tuple[str, ...], is_all: bool, model: str | None, reason: str, yes: bool, is_json: bool
) -> None:
    """Delete dead letters for good. Nothing of them is left."""
    with reached(load_or_in_force(config)) as link:
        count = sum(letters.drop(link, page) for page in _pages(link, "drop", ids, is_all, model, reason, yes))
        _noted(link, "drop", count, ids, model, reason)
    print_json({"dropped": count}) if is_json else click.echo(f"dropped {count} dead {_noun(count)}")


def _pages(
    link: Link, verb: str, ids: tuple[str, ...], is_all: bool, model: str | None, reason: str, yes: bool
) -> Iterable[list[Letter]]:
    """The letters a command is to work on, in bounded pages; --all has been confirmed."""
    if bool(ids) == is_all:
        raise click.UsageError("give ids, or --all")
    if not is_all:
        if model or reason:
            raise click.UsageError("--model and --reason go with --all")
        return [letters.find_all(link, ids)]
    whose = f"of model {model}" if model else "of every model"
    why = f" with reason {reason}" if reason else ""
    ask(f"{verb} all dead letters {whose}{why}?", is_agreed=yes)
    return letters.chosen(link, model, reason=reason)


def _noted(link: Link, verb: str, count: int, ids: tuple[str, ...], model: str | None, reason: str) -> None:
    """What was done, for the audit."""
    if count:
        which = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "") if ids else f"all of {model or 'every model'}"
        audit.record(link, f"dead {verb}", f"{which}: {count}", reason=f"reason {reason}" if reason else "")


def _print_table(found: list[Letter], now_ms: int) -> None:
    head = ("ID", "REASON", "ATTEMPTS", "DELIVERIES", "LANE", "DIED", "SIZE", "ERROR")
    rows = [
        (clean(one.id), clean(one.reason) or "-", str(one.attempts), str(one.deliveries), one.lane, f"{table.age(now_ms - one.died_ms)} ago",
         table.size(one.size), cut(one.error, LONGEST_ERROR) or "-")
        for one in found
    ]  # fmt: skip
    print_lines(table.align([head, *rows], right=(2, 3, 5, 6)))


def _print_shown(found: Shown) -> None:
    letter = found.letter
    lines = [
        ("id", letter.id), ("reason", letter.reason or "-"), ("error", letter.error or "-"),
        ("attempts", f"{letter.attempts}, {found.retries} retries were allowed"), ("deliveries", str(letter.deliveries)),
        ("lane", letter.lane), ("submitted", f"{table.age(letter.died_ms - letter.submitted_ms)} before it died"),
        ("size", table.size(letter.size)),
    ]  # fmt: skip
    if found.problem:
        lines.append(("input", f"cannot be read: {found.problem}"))
    else:
        lines.append(("kind", f"{found.kind}, {found.rows} {'row' if found.rows == 1 else 'rows'}"))
        for one in found.inputs:
            lines.append(
                ("input", f"{one.name} {one.dtype} {list(one.shape) if one.shape else ''} {table.size(one.bytes)}")
            )
        lines.append(("context", msgspec.json.encode(found.context).decode() if found.context else "-"))
        if found.replay_of:
            lines.append(("replay of", found.replay_of))
        if found.values is not None:
            values = found.values if isinstance(found.values, str) else msgspec.json.encode(found.values).decode()
            lines.append(("values", cut(values, LONGEST_VALUES)))
    for name, text in lines:
        click.echo(f"{click.style(name.ljust(10), bold=True)}  {clean(text)}")


def _noun(count: int) -> str:
    return "letter" if count == 1 else "letters"
