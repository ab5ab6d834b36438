"""The screen: JSON, tables and marked findings, the same in every command. Colours are here, figures and columns in `table`."""

from __future__ import annotations

from typing import Any

import click
import msgspec

as_json = click.option("--json", "is_json", is_flag=True, help="Print JSON for programs.")

COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}


def say(text: str) -> None:
    """What goes on, beside the answer."""
    click.echo(text, err=True)


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
