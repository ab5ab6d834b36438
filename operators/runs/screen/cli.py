"""Waiting for a run: a bar on a terminal, lines elsewhere, and the exit code that says how it ended."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable

import click

from broker.errors import ResultTimeout
from broker.runs import View
from broker.settings import Settings
from operators.runs import texts
from operators.screen.cli import Seconds, print_json, say
from producer.runs import Run

EXITS = {"done": 0, "done_with_errors": 2}  # all else: 1

wait_for = click.option("--wait/--no-wait", "is_waiting", default=False, show_default=True, help="Wait for its end.")


timeout = click.option(
    "--timeout", "timeout_s", type=Seconds(min=0, max=1e9), metavar="SECONDS",
    help="Wait no longer; the run goes on.",
)  # fmt: skip


def wait(settings: Settings, id: str, timeout_s: float | None, is_json: bool) -> None:
    """Shows progress on stderr until the run ends, the result on stdout; ends the command with its exit code."""
    is_drawn = sys.stderr.isatty()
    show_it = _draw if is_drawn else _lines()
    try:
        view = Run(id, url=settings.redis_url_as("operator")).wait_final(timeout_s, on_progress=show_it)
    except (KeyboardInterrupt, ResultTimeout) as error:
        if is_drawn:
            click.echo(err=True)
        if isinstance(error, KeyboardInterrupt):
            say(f"run {id} goes on; `penstock run watch {id}` follows it again, `penstock run cancel {id}` ends it")
        raise
    if is_drawn:
        click.echo(err=True)
    print_json(view) if is_json else click.echo(texts.ended(view))
    raise SystemExit(EXITS.get(view.state, 1))


def _draw(view: View) -> None:
    """The bar, over the last one."""
    width = shutil.get_terminal_size().columns - 1
    click.echo(f"\r{texts.bar(view, width).ljust(width)}", nl=False, err=True)


def _lines() -> Callable[[View], None]:
    from operators.runs.progress_lines import ProgressLines

    progress = ProgressLines()

    def tell(view: View) -> None:
        line = progress.line(view)
        if line is not None:
            say(line)

    return tell


def print_field(name: str, text: str) -> None:
    click.echo(f"{click.style(name.ljust(10), bold=True)}  {texts.clean(text)}")
