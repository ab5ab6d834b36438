"""`penstock restart` and `penstock drain`: the commands. Errors are printed by operators.cli; what they do lies in rolling and draining."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from broker.connection import Link
from broker.errors import SupervisorError
from broker.settings import Settings
from operators import applied, audited
from operators.autoscale import standing
from operators.completion.complete import complete_model, complete_slot
from operators.desk import draining, targets
from operators.desk.alone import alone
from operators.desk.draining import Drained
from operators.desk.rolling import Restarted, Rolling
from operators.reach import reached
from operators.screen.cli import Seconds, as_json, ask, load_or_in_force, print_json, say, with_reason, with_yes
from operators.supervisor import Supervisor
from operators.table import count_of

READY_TIMEOUT_S = 120.0

of_slot = click.option(
    "--slot", type=click.IntRange(min=0), metavar="N", shell_complete=complete_slot, help="This slot of this host only."
)
timeout = click.option(
    "--timeout", "timeout_s", type=Seconds(min=0, max=1e9), default=READY_TIMEOUT_S, show_default=True,
    metavar="SECONDS", help="How long each slot may take to be ready.",
)  # fmt: skip


@click.command(short_help="Restart slots, one at a time while the others serve.")
@click.argument("model", required=False, default="", shell_complete=complete_model)
@of_slot
@click.option(
    "--rolling/--at-once", "is_rolling", default=True, show_default=True, help="One at a time, or all together; the latter asks first."
)  # fmt: skip
@timeout
@with_reason
@with_yes
@as_json
@click.pass_obj
def restart(
    config: str | None, model: str, slot: int | None, is_rolling: bool, timeout_s: float, reason: str, is_agreed: bool,
    is_json: bool,
) -> None:  # fmt: skip
    """Restart the slots of this host, of MODEL, or one; each starts with the settings the pool was given last.

    One at a time: a spare takes a slot's place where memory and a number are free, else the slot stops and starts again while
    others serve; the next follows when the last is ready. When one is not ready in time, the rest is left alone, exit code 1.
    """
    settings = load_or_in_force(config)
    with _pool(settings) as (link, supervisor), alone(settings):
        chosen = targets.choose(settings, link, supervisor, model=model, slot=slot)
        if not is_rolling:
            ask(f"stop {targets.told(chosen)} at once? Requests wait until they are ready again", is_agreed=is_agreed)
        audited.note(settings, "restart", _target(model, slot), reason=reason, say=say)
        rolling = Rolling(settings, link, supervisor, timeout_s=timeout_s, say=say)
        try:
            rolling.one_at_a_time(chosen) if is_rolling else rolling.at_once(chosen)
        finally:
            if is_json:
                print_json(rolling.done)
    if not is_json:
        _print_restarted(rolling.done)
    if applied.in_force(settings) != settings:
        say(
            "pool.toml has changed since it was applied, and a restart does not apply it; `penstock config reload` does"
        )


@click.command(short_help="Take slots out of service once they have finished.")
@click.argument("model", required=False, default="", shell_complete=complete_model)
@of_slot
@with_reason
@with_yes
@as_json
@click.pass_obj
def drain(config: str | None, model: str, slot: int | None, reason: str, is_agreed: bool, is_json: bool) -> None:
    """Take the slots of this host, of MODEL, or one out of service: they finish what they hold and stay away.

    What they only read ahead goes back to its queue unharmed. Fewer slots are wanted from then on, until `penstock scale`, or
    `down` and `up`.
    """
    settings = load_or_in_force(config)
    with _pool(settings) as (link, supervisor):
        chosen = targets.choose(settings, link, supervisor, model=model, slot=slot)
        ask(f"take {targets.told(chosen)} out of service?", is_agreed=is_agreed)
        audited.note(settings, "drain", _target(model, slot), reason=reason, say=say)
        done = draining.drain(settings, link, supervisor, chosen, say=say)
    for remark in filter(None, (standing.remark(settings, name) for name in done.wanted)):
        say(remark)
    if is_json:
        print_json(done)
    else:
        _print_drained(done)


@contextmanager
def _pool(settings: Settings) -> Iterator[tuple[Link, Supervisor]]:
    """The running pool. Raises SupervisorError where there is none."""
    supervisor = Supervisor(settings)
    supervisor.require()
    with reached(settings) as link:
        yield link, supervisor


def _target(model: str, slot: int | None) -> str:
    return " ".join(filter(None, [model, "" if slot is None else f"slot {slot}"])) or "all slots"


def _print_restarted(done: list[Restarted]) -> None:
    texts = {
        "spare": "slot {0.now} in its place",
        "by itself": "by itself meanwhile",
        "left": "left alone, it serves nothing",
    }
    told = ", ".join(f"{one.number}" + (f" ({texts[one.how].format(one)})" if one.how in texts else "") for one in done)
    click.echo(f"restarted {count_of(sum(one.how != 'left' for one in done), 'slot')}: {told}")


def _print_drained(done: Drained) -> None:
    if not done.slots:
        raise SupervisorError("they were gone already; see `penstock status`")
    click.echo(f"drained {count_of(len(done.slots), 'slot')}: {', '.join(map(str, done.slots))}")
    for model, wanted in done.wanted.items():
        waits = f", {count_of(done.queued[model], 'job')} in its queue" if not wanted and done.queued[model] else ""
        click.echo(
            f"{model}: {wanted} wanted on this host{waits}; `penstock scale {model} {done.before[model]}` brings them back"
        )
