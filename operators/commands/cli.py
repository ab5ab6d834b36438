"""The table of `penstock`'s commands: their order, their sections in --help, and the modules of those that live elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import NamedTuple

import click


class Place(NamedTuple):
    """Where a command lives, and its line in --help, which is shown without importing it."""

    module: str
    attribute: str
    line: str


EXIT_CODES = """\b
Exit codes:
  0    done
  1    error: one line that says the mend; a failure found by `doctor`, or a
       job that `jobs show` knows nothing of
  2    wrong usage; a question nobody was there to answer (--yes); a run that
       is done with failed rows (--wait)
  130  interrupted"""

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Pool": ("up", "status", "top", "logs", "down"),
    "Slots": ("scale", "autoscale", "pause", "resume", "drain", "restart"),
    "Jobs": ("submit", "jobs", "dead"),
    "Bulk runs": ("run",),
    "Models": ("models", "tune"),
    "Care": ("doctor", "config", "audit", "completion"),
}

ELSEWHERE: Mapping[str, Place] = {
    "pause": Place("operators.desk.pause.cli", "pause", "Stop claiming a model's jobs; its slots stay warm."),
    "resume": Place("operators.desk.pause.cli", "resume", "Claim a paused model's jobs again."),
    "autoscale": Place("operators.autoscale.cli", "autoscale", "Let the agent scale a model by its queue."),
    "restart": Place("operators.desk.cli", "restart", "Restart slots, one at a time while the others serve."),
    "drain": Place("operators.desk.cli", "drain", "Take slots out of service once they have finished."),
    "config": Place("operators.desk.config.cli", "config", "Show, check, compare and apply pool.toml."),
    "top": Place("operators.top.cli", "top", "Watch queues, slots and problems, live."),
    "logs": Place("operators.logs.cli", "logs", "Show what the programs of this host wrote."),
    "jobs": Place("operators.jobs.cli", "jobs", "Show the life of one job, or list jobs of a model."),
    "audit": Place("operators.acts.cli", "audit", "List who changed what, and why."),
    "completion": Place(
        "operators.completion.cli", "completion", "Print the script that completes commands in your shell."
    ),
    "run": Place("operators.runs.cli", "run", "Score files beside live traffic, resumable after any crash."),
    "submit": Place("producer.cli", "submit", "Submit one job to a model and print its result."),
    "tune": Place("operators.tune.cli", "tune", "Measure a model and write how it is best served."),
    "models": Place("operators.artifacts.cli", "models", "List, seal, verify and trust model artifacts."),
    "dead": Place("operators.dead.cli", "dead", "List, show, replay and drop jobs that were given up."),
}


class Commands(click.Group):
    """Commands of this group's own module, and those that live in other packages: imported when asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [name for names in SECTIONS.values() for name in names if name in ELSEWHERE or name in self.commands]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in ELSEWHERE:  # for lists and completion; `resolve_command` gives the real one
            return click.Command(name, short_help=ELSEWHERE[name].line)
        return super().get_command(context, name)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in ELSEWHERE:
            place = ELSEWHERE[args[0]]
            return args[0], getattr(import_module(place.module), place.attribute), args[1:]
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The sections of the table instead of one list."""
        there = self.list_commands(context)
        width = max(map(len, there))
        limit = formatter.width - 6 - width
        for section, names in SECTIONS.items():
            rows = []
            for name in names:
                command = self.get_command(context, name) if name in there else None
                if command is not None:
                    rows.append((name.ljust(width), command.get_short_help_str(limit)))
            if rows:
                with formatter.section(section):
                    formatter.write_dl(rows)
