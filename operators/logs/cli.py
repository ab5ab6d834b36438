"""`penstock logs`: the command. Which logs there are is `files`, how they are read is `tail`, what a line says is `lines`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime

import click
import msgspec

from operators.completion.complete import complete_program
from operators.logs import lines
from operators.logs.follower import Follower
from operators.logs.lines import Line
from operators.screen.cli import load_or_in_force

SHOWN = 50
POLL_S = 0.25
COLORS = {"warning": "yellow", "error": "red", "critical": "red"}


@click.command("logs", short_help="Show what the programs of this host wrote.")
@click.argument("program", metavar="[PROGRAM|SLOT]", default="", shell_complete=complete_program)
@click.option(
    "-n",
    "count",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"The last N lines.  [default: {SHOWN}; all with --since]",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, until Ctrl-C.")
@click.option(
    "--since", "since_text", metavar="TIME", help="From then on: 10m, 2h, 1d ago, or 07:30, 2026-11-22T07:30."
)
@click.option("--raw", is_flag=True, help="Lines as they stand in the file.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON for programs, an object a line.")
@click.pass_obj
def logs(
    config: str | None, program: str, count: int | None, follow: bool, since_text: str | None, raw: bool, is_json: bool
) -> None:
    """Show what the programs of this host wrote, by time: all, or slot (all slots), 3 (slot 3), agent, redis, runs, supervisord.

    Reads the rotated files too, as far back as they go, and follows over a rotation.
    """
    folder = load_or_in_force(config).var / "log"
    since = lines.since(since_text, datetime.now().astimezone()) if since_text else None
    if count is None:
        count = None if since else SHOWN
    follower = Follower(folder, program, is_following=follow)
    write = Writer(is_raw=raw, is_json=is_json, width=follower.width)
    try:
        write(follower.last(count, since))
        while follow:
            time.sleep(POLL_S)
            write(follower.fresh())
    except KeyboardInterrupt:  # the way out of -f
        click.echo(err=True)
    finally:
        follower.close()


class Writer:
    """Lines onto the screen, with their program's name where there are several."""

    def __init__(self, *, is_raw: bool, is_json: bool, width: int) -> None:
        self._is_raw, self._is_json, self._width = is_raw, is_json, width

    def __call__(self, found: Iterable[Line]) -> None:
        for line in found:
            if self._is_json:
                click.echo(msgspec.json.encode({
                    "program": line.program, "at": line.at, "level": line.level, "text": line.text, "fields": line.fields,
                }))  # fmt: skip
            elif self._is_raw:
                click.echo(line.raw)
            else:
                name = click.style(f"{line.program:<{self._width}}  ", dim=True) if self._width else ""
                click.echo(name + click.style(lines.told(line), fg=COLORS.get(line.level)))
