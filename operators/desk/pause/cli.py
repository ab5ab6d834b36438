"""`penstock pause` and `penstock resume`: the commands. Errors are printed by operators.cli; what they do lies in hold."""

from __future__ import annotations

import click

from broker.messages import LANES
from broker.paused import Pause, told
from broker.settings import Settings
from operators import audited, table
from operators.completion.complete import complete_model
from operators.desk.pause import hold
from operators.desk.pause.hold import Held
from operators.reach import reached
from operators.screen.cli import as_json, load_or_in_force, print_json, say, with_reason

of_lane = click.option("--lane", type=click.Choice(LANES), help="This lane only; all three unless given.")


@click.command(short_help="Stop claiming a model's jobs; its slots stay warm.")
@click.argument("model", shell_complete=complete_model)
@of_lane
@with_reason
@as_json
@click.pass_obj
def pause(config: str | None, model: str, lane: str | None, reason: str, is_json: bool) -> None:
    """Stop claiming MODEL's jobs on every host, within about a second, until `penstock resume`. Its slots stay ready.

    What slots hold is finished. Jobs are accepted as before, up to the queue's limits, and wait; deadlines go on. The reason
    stands in `status`, and in the error of a producer that waited in vain.
    """
    settings = load_or_in_force(config)
    with reached(settings) as link:
        held = hold.pause(link, settings, model, _lanes(lane), reason=reason)
    _note(settings, "pause", held, reason)
    if is_json:
        print_json(held)
    elif held.changed:
        click.echo(
            f"{model}: paused{_which(held.changed)}; slots finish what they hold and claim no more within about a second; "
            f"`penstock resume {model}{f' --lane {lane}' if lane else ''}` ends it"
        )
    else:
        click.echo(f"{model}: {_since(held, _lanes(lane))}; nothing to do")


@click.command(short_help="Claim a paused model's jobs again.")
@click.argument("model", shell_complete=complete_model)
@of_lane
@with_reason
@as_json
@click.pass_obj
def resume(config: str | None, model: str, lane: str | None, reason: str, is_json: bool) -> None:
    """Claim the jobs of a paused MODEL again, on every host, within about a second."""
    settings = load_or_in_force(config)
    with reached(settings) as link:
        held = hold.resume(link, settings, model, _lanes(lane))
    _note(settings, "resume", held, reason)
    if is_json:
        print_json(held)
    elif held.changed:
        still = f"; still {told(held.paused)}" if held.paused else ""
        click.echo(f"{model}: resumed{_which(held.changed)}; it was {_since(held, held.changed)}{still}")
    else:
        click.echo(f"{model}: {f'lane {lane} is' if lane else 'it is'} not paused; nothing to do")


def _lanes(lane: str | None) -> list[str]:
    return [lane] if lane else list(LANES)


def _which(lanes: list[str]) -> str:
    return "" if len(lanes) == len(LANES) else f" ({', '.join(lanes)})"


def _since(held: Held, lanes: list[str]) -> str:
    """`paused by ann@box (deploy) 5 min ago`, of the pauses there were."""
    chosen: dict[str, Pause] = {lane: held.before[lane] for lane in lanes if lane in held.before}
    first_ms = min((one.at_ms for one in chosen.values()), default=held.at_ms)
    return f"{table.clean(told(chosen))} {table.age(held.at_ms - first_ms)} ago"


def _note(settings: Settings, command: str, held: Held, reason: str) -> None:
    if held.changed:
        audited.note(settings, command, held.model + _which(held.changed), reason=reason, say=say)
