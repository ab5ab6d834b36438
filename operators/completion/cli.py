"""`penstock completion`: the command, and the answer to a shell that asks behind Tab."""

from __future__ import annotations

import os
import sys

import click
from click.shell_completion import get_completion_class

PROGRAM, ASKED = "penstock", "_PENSTOCK_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


@click.command("completion", short_help="Print the script that completes commands in your shell.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that lets SHELL complete commands, options, models, slots and runs behind Tab.

    \b
    bash   echo 'eval "$(penstock completion bash)"' >> ~/.bashrc
    zsh    echo 'eval "$(penstock completion zsh)"' >> ~/.zshrc
    fish   penstock completion fish > ~/.config/fish/completions/penstock.fish
    """
    found = get_completion_class(shell)
    assert found is not None, shell
    click.echo(found(context.find_root().command, {}, PROGRAM, ASKED).source())


def answer(cli: click.Command) -> None:
    """Answers the shell and ends the process. What goes wrong offers nothing: a traceback in the middle of a line helps nobody."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    try:
        cli.main(args=[], prog_name=PROGRAM)
    except Exception:  # noqa: BLE001 - the process ends here, and its user is typing
        sys.exit(1)
