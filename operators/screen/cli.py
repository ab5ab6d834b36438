"""The screen: JSON, tables and marked findings, the same in every command. Colours are here, figures and columns in `table`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import isfinite
from typing import Any

import click
import msgspec

from broker.errors import ConfigError, PenstockError
from broker.settings import Settings, load
from operators.finding import Finding

as_json = click.option("--json", "is_json", is_flag=True, help="Print JSON for programs.")
with_reason = click.option("--reason", default="", metavar="TEXT", help="Why, for the audit.")
with_yes = click.option("--yes", "is_agreed", is_flag=True, help="Do not ask.")


class Number(click.FloatRange):
    """A finite number within a range. nan is in every range, and inf in each that has no end: no limit would hold, no wait end."""

    called = "no finite number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value} is {self.called}", param, ctx)
        return number


class Seconds(Number):
    """A span of time."""

    called = "no number of seconds"


COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}


def say(text: str) -> None:
    """What goes on, beside the answer."""
    click.echo(text, err=True)


def ask(question: str, *, is_agreed: bool) -> None:
    """Returns when the operator agrees. Without a terminal nobody can: wrong usage, exit 2."""
    if is_agreed:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("this asks first, and no terminal is there to answer; give --yes")
    if not click.confirm(question, err=True):
        raise PenstockError("nothing was changed; answer y, or give --yes")


def ask_at_terminal(question: str, *, is_agreed: bool) -> None:
    """As `ask`, for what supervision and scripts do as well and what loses nothing: without a terminal nobody is asked."""
    if sys.stdin.isatty():
        ask(question, is_agreed=is_agreed)


def load_or_in_force(config: str | None) -> Settings:
    """Settings for a command that looks at the pool or acts on the one that runs: those of pool.toml, and where that is broken
    those the running pool was given, which is said. Raises ConfigError as `load` does where no pool runs."""
    try:
        return load(config)
    except ConfigError as error:
        from operators.fallback import in_force_of_broken

        found = in_force_of_broken(config)
        if found is None:
            raise
        why = " ".join(str(error).split())
        say(
            f"pool.toml is broken ({why}); this goes by the settings in force of the running pool, {found.var}/applied.toml"
        )
        return found


def print_json(value: Any) -> None:
    """Any of our structs, or plain values."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def print_lines(lines: list[str]) -> None:
    """A table as `table.align` gives it: the first line is its head."""
    click.secho(lines[0], bold=True)
    for line in lines[1:]:
        click.echo(line)


def print_mark(level: str, text: str, mend: str) -> None:
    """A finding with its mend; `level` is ok, warn or fail."""
    click.echo(f"{click.style(level.ljust(4), fg=COLORS[level])}  {text}" + (f"\n      -> {mend}" if mend else ""))


def print_findings(findings: Sequence[Finding], *, is_json: bool) -> None:
    """What a check found; ends the command with exit code 1 where one is a failure."""
    if is_json:
        print_json(findings)
    else:
        for finding in findings:
            print_mark(finding.level, finding.text, finding.mend)
    if any(finding.level == "fail" for finding in findings):
        raise SystemExit(1)
