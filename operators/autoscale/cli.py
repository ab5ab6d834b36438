"""`penstock autoscale`: the command. Mounted by operators.cli, which prints its errors."""

from __future__ import annotations

import click

from broker.connection import Link
from broker.settings import Settings
from operators import audited, table
from operators.autoscale import dry, standing
from operators.autoscale.standing import Standing
from operators.autoscale.words import Bounds
from operators.completion.complete import complete_model
from operators.reach import reached
from operators.screen.cli import Seconds, as_json, load_or_in_force, print_json, print_lines, say, with_reason
from operators.supervisor import Supervisor


@click.command(short_help="Let the agent scale a model by its queue.")
@click.argument("model", required=False, default="", shell_complete=complete_model)
@click.option(
    "--min", "least", type=click.IntRange(min=0), metavar="N", help="Slots it keeps; 0: none while nothing comes."
)
@click.option("--max", "most", type=click.IntRange(min=1), metavar="N", help="Slots it may start, on this host.")
@click.option(
    "--target-s",
    type=Seconds(min=0, min_open=True, max=86_400),
    metavar="SECONDS",
    help="How soon what waits shall be done.",
)
@click.option("--on/--off", "is_on", default=None, help="Switch it on again with its bounds, or off.")
@click.option("--dry-run", "is_dry", is_flag=True, help="Change nothing; say what it would do now, and why.")
@as_json
@with_reason
@click.pass_obj
def autoscale(
    config: str | None, model: str, least: int | None, most: int | None, target_s: float | None, is_on: bool | None,
    is_dry: bool, is_json: bool, reason: str,
) -> None:  # fmt: skip
    """Let the agent start and stop slots of MODEL on this host, so that what waits is done within the target.

    Without options it shows how things stand, without MODEL of all models. What is set here holds until the pool goes down; to
    keep it, write [models.NAME.autoscale] in pool.toml. For instance: penstock autoscale magika --min 1 --max 4 --target-s 2
    """
    wish = {"least": least, "most": most, "target_s": target_s, "is_off": None if is_on is None else not is_on}
    is_wish = any(one is not None for one in wish.values())
    if is_wish and not model:
        raise click.UsageError("name the model that these options are for")
    settings = standing.running(load_or_in_force(config), model)
    with reached(settings) as link:
        if is_dry:
            _dry(settings, link, model, wish if is_wish else {}, is_json=is_json)
            return
        if is_wish:
            found = standing.change(settings, link, model, **wish)
            audited.note(settings, "autoscale", f"{model}: {_told(found)}", reason=reason, say=say)
            if not is_json:
                click.echo(f"{model}: autoscale {_told(found)}")
                return
        shown = [one for one in standing.standings(settings, link) if not model or one.model == model]
    if is_json:
        print_json(shown)
    else:
        _print(shown)


def _dry(settings: Settings, link: Link, model: str, wish: dict[str, float | bool | None], *, is_json: bool) -> None:
    chosen = standing.wished(settings, link, model, **wish)
    told = dry.forecasts(settings, link, Supervisor(settings), chosen)
    if is_json:
        print_json(told)
        return
    for one in told:
        now = table.count_of(one.state.slots, "slot")
        click.echo(f"{one.model}: {now}, {one.state.needed} needed; {one.would}")
        click.echo(f"  {one.state.jobs} jobs wait; {one.state.why}")
    if not told:
        click.echo(
            "autoscale is off" if model else "no model is autoscaled; `penstock autoscale MODEL --max N` begins it"
        )


def _told(found: Bounds | None) -> str:
    return f"{found.least} to {found.most} slots, target {found.target_s:g} s" if found else "off"


def _print(shown: list[Standing]) -> None:
    rows: list[tuple[str, ...]] = [("MODEL", "MIN", "MAX", "TARGET", "SLOTS", "WANTED", "WHY")]
    for one in shown:
        if one.bounds is None:
            rows.append((one.model, "-", "-", "-", "-", "-", "off"))
            continue
        limits = (str(one.bounds.least), str(one.bounds.most), f"{one.bounds.target_s:g} s")
        if one.state is None:
            rows.append((one.model, *limits, "-", "-", "the agent has not looked yet"))
            continue
        why = one.state.refused or one.state.why
        rows.append((one.model, *limits, str(one.state.slots), str(one.state.wanted), table.clean(why)))
    print_lines(table.align(rows, right=range(1, 6)))
