"""`penstock config`: the commands. Errors are printed by operators.cli; what they do lies in differences, checking and reload."""

from __future__ import annotations

from collections.abc import Sequence

import click

from broker.settings import Settings, load
from operators import applied, audited
from operators.desk import checking, reload, unapplied
from operators.desk.cli import timeout
from operators.desk.differences import Difference, plain, shown
from operators.reach import reached
from operators.screen.cli import as_json, ask, load_or_in_force, print_findings, print_json, say, with_reason, with_yes
from operators.supervisor import Supervisor
from operators.table import count_of, numbered


@click.group()
def config() -> None:
    """Show, check, compare and apply pool.toml. Programs of the pool run with the copy that `up` or `reload` found right."""


@config.command("show", short_help="Print the settings the pool runs with.")
@click.option("--file", "is_file", is_flag=True, help="Those of pool.toml, though the pool runs with others.")
@as_json
@click.pass_obj
def show(path: str | None, is_file: bool, is_json: bool) -> None:
    """Print every setting with its value, defaults too: what the pool runs with, or pool.toml where it is not up.

    Passwords in URLs are hidden.
    """
    settings = load(path) if is_file else load_or_in_force(path)
    is_up = not is_file and Supervisor(settings).is_running()
    found = applied.in_force(settings) if is_up else settings
    say(f"the running pool, {applied.path(settings)}" if is_up else f"{settings.path or 'defaults'}, not applied")
    print_json(plain(found)) if is_json else _print_settings(found)


@config.command("check", short_help="Check pool.toml, its artifacts and devices.")
@as_json
@click.pass_obj
def check(path: str | None, is_json: bool) -> None:
    """Check pool.toml whole: keys, values, artifacts with their checksums, devices. Exit code 1 when it could not be run with."""
    print_findings(list(checking.check(load(path))), is_json=is_json)


@config.command("diff", short_help="Print how pool.toml differs from what the pool runs with.")
@click.option("--exit-code", "has_code", is_flag=True, help="Exit with 1 when they differ.")
@as_json
@click.pass_obj
def diff(path: str | None, has_code: bool, is_json: bool) -> None:
    """Print how pool.toml differs from what the running pool was given, and what it takes to apply each difference."""
    settings = load(path)
    Supervisor(settings).require()
    found = unapplied.compare(settings)
    print_json(found) if is_json else _print_differences(found)
    if found and has_code:
        raise SystemExit(1)


@config.command("reload", short_help="Apply a changed pool.toml to the running pool.")
@click.option("--dry-run", "is_dry", is_flag=True, help="Check and print the difference, apply nothing.")
@timeout
@with_reason
@with_yes
@as_json
@click.pass_obj
def reload_(path: str | None, is_dry: bool, timeout_s: float, reason: str, is_agreed: bool, is_json: bool) -> None:
    """Apply a changed pool.toml: checked whole before any of it is applied, then slots restart one at a time, come or go.

    What was not changed in the file stays as `penstock scale` left it. Slots that go for good are asked about. When a slot does
    not become ready with its new settings, those of before are put back, exit code 1.
    """
    settings = load(path)
    supervisor = Supervisor(settings)
    supervisor.require()
    with reached(settings) as link:
        if not is_json:
            _print_differences(unapplied.compare(settings))
        plan = reload.prepare(settings, link)
        if is_dry or not plan.differences:
            if is_json:
                print_json({"differences": plan.differences, "done": None})
            return
        if plan.takes_away:
            listed = ", ".join(f"{count_of(count, 'slot')} of {model}" for model, count in plan.takes_away.items())
            ask(f"take {listed} out of service?", is_agreed=is_agreed)
        keys = ", ".join(one.key for one in plan.differences)
        audited.note(settings, "config reload", keys, reason=reason, say=say)
        done = reload.carry_out(plan, link, supervisor, timeout_s=timeout_s, say=say)
    if is_json:
        print_json({"differences": plan.differences, "done": done})
        return
    did = (
        ("restarted", tuple(one.now for one in done.restarted if one.how != "left")), ("started", done.started), ("drained", done.drained),
    )  # fmt: skip
    told = "; ".join(f"{verb} {numbered(numbers)}" for verb, numbers in did if numbers)
    click.echo(f"applied {settings.path}: {told or 'no slot was concerned'}")


def _print_differences(found: Sequence[Difference]) -> None:
    for one in found:
        click.echo(one.line())
    if not found:
        click.echo("the pool runs with pool.toml as it stands")


def _print_settings(settings: Settings) -> None:
    for table, keys in plain(settings).items():
        inner = {name: keys[name] for name in keys} if table in ("models", "schedules") else {"": keys}
        for name, values in inner.items():
            click.secho(f"[{table}.{name}]" if name else f"[{table}]", bold=True)
            for key, value in values.items():
                click.echo(f"{key} = {shown(value)}")
