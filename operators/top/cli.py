"""`penstock top`: the command. What is shown is `frame`, how it is set is `lines`, the screen is `live`."""

from __future__ import annotations

import shutil
import sys
import time

import click
import msgspec

from broker.errors import PenstockError
from operators.screen.cli import Seconds, load_or_in_force, print_json
from operators.status import Sight
from operators.top import lines
from operators.top.frame import Frame
from operators.top.looks import Looks

PLAIN_WIDTH = 200  # of what is no terminal
COLORS = {"error": "red", "warning": "yellow", "good": "green"}


@click.command("top", short_help="Watch queues, slots and problems, live.")
@click.option(
    "--interval",
    type=Seconds(min=0.2, max=3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks.",
)
@click.option("--once", is_flag=True, help="Show it once and leave.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON for programs; without --once an object a line.")
@click.pass_obj
def top(config: str | None, interval: float, once: bool, is_json: bool) -> None:
    """Watch queues, slots and problems, live; q or Ctrl-C leaves.

    Rates are of the last five seconds; the first look tells those that slots measured. ROWS and FILL: rows in a batch, and their share of
    the model's largest. MEMORY, DEVICE: what is used, and MB above the slot's baseline. Where the output is no terminal, a plain table a look.
    """
    sight = Sight(load_or_in_force(config))
    look = Looks(sight)
    try:
        if not once and not is_json and sys.stdout.isatty():
            _live(look, interval)
            return
        while True:
            frame = look()
            if is_json:
                print_json(frame) if once else click.echo(msgspec.json.encode(frame))
            else:
                _print(frame)
            if once:
                return
            if not is_json:
                click.echo()
            sys.stdout.flush()
            time.sleep(interval)
    except KeyboardInterrupt:  # the way out
        pass
    finally:
        sight.close()


def _live(look: Looks, interval_s: float) -> None:
    try:
        from operators.top.live import watch
    except ModuleNotFoundError as error:
        raise PenstockError(
            f"top needs {error.name} for its screen: pip install 'penstock[local]'; `penstock top --once` does without"
        ) from None
    watch(look, interval_s=interval_s)


def _print(frame: Frame) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PLAIN_WIDTH
    for line in lines.draw(frame, width=width):
        click.secho(line.text, fg=COLORS.get(line.tone), bold=line.tone in ("head", "title"))
