"""`penstock`: the operator's commands. Each parses, calls one function, prints; what they do lies elsewhere.

Exit codes: 0 done, 1 error (one line on stderr that says the mend), 2 wrong usage, 130 interrupted.
Heavy modules are imported inside the commands, so that `--help` is there at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from broker.errors import PenstockError
from broker.settings import load
from operators.commands.cli import EXIT_CODES, Commands
from operators.completion.cli import ASKED, answer
from operators.completion.complete import complete_model
from operators.screen.cli import (
    Seconds,
    as_json,
    ask_at_terminal,
    load_or_in_force,
    print_findings,
    print_json,
    print_lines,
    print_mark,
    say,
    with_reason,
    with_yes,
)
from operators.table import numbered

if TYPE_CHECKING:
    from operators.snapshot import Snapshot

READY_TIMEOUT_S = 120.0
INTERRUPTED = 130


class _Slots(click.IntRange):
    name = "whole number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value).startswith("+"):
            self.fail(f"{value} is a difference; say how many slots there shall be in all")
        return super().convert(value, param, ctx)


timeout = click.option(
    "--timeout", "timeout_s", type=Seconds(min=0, max=1e9), default=READY_TIMEOUT_S, show_default=True,
    metavar="SECONDS", help="How long to wait.",
)  # fmt: skip


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EXIT_CODES
)
@click.option(
    "--config", metavar="FILE", help="pool.toml to use; else PENSTOCK_CONFIG, else configs/pool.toml, else defaults."
)
@click.version_option(package_name="penstock", message="penstock %(version)s")
@click.pass_context
def cli(context: click.Context, config: str | None) -> None:
    """Runs a pool of inference workers behind Redis.

    Settings come from pool.toml. `up` starts the pool of this host, `status` shows it, `down` drains it.
    """
    context.obj = config
    if os.environ.get("NO_COLOR"):  # https://no-color.org
        context.color = False
    if config:  # `submit` reads its settings by itself
        os.environ["PENSTOCK_CONFIG"] = config


@cli.command(short_help="Start the pool of this host.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until every slot is ready.")
@timeout
@with_reason
@click.pass_obj
def up(config: str | None, wait: bool, timeout_s: float, reason: str) -> None:
    """Start the pool of this host: supervisord, Redis unless redis.url is set, and the slots of pool.toml.

    A pool that is up keeps running; what is missing is started.
    """
    from operators import audited, pool, readiness, status, wishes

    settings = load(config)
    changed = pool.up(settings, say=say)
    audited.note(settings, "up", numbered(changed.started), reason=reason, say=say)
    if wait:
        numbers, since_ms = wishes.assigned(settings), changed.since_ms
        readiness.wait_until_ready(settings, numbers, timeout_s=timeout_s, say=say, since_ms=since_ms)
    if changed.started:
        say(f"started {numbered(changed.started)}")
    _print_status(status.snapshot(settings))


@cli.command(short_help="Drain the slots of this host and stop the pool.")
@with_reason
@with_yes
@click.pass_obj
def down(config: str | None, reason: str, is_agreed: bool) -> None:
    """Drain every slot of this host, then stop everything that `up` started. Queued jobs stay in Redis, bulk runs go on later.

    At a terminal it asks first where jobs wait or runs are not done."""
    from operators import audited, pool
    from operators.leaving_behind import left_behind
    from operators.supervisor import Supervisor

    settings = load_or_in_force(config)
    is_made = settings.var.exists() or settings.runtime.exists()  # else there never was a pool, and none is made now
    if is_made and (supervisor := Supervisor(settings)).is_running():
        supervisor.require_ours()
        if waits := left_behind(settings):
            ask_at_terminal(f"{waits}: take the pool down? They stay in Redis", is_agreed=is_agreed)
        audited.note(settings, "down", reason=reason, say=say)  # before: the embedded Redis goes with it
    changed = pool.down(settings, say=say) if is_made else pool.Changed(was_up=False)
    if not changed.was_up:
        click.echo("the pool is not up; nothing to do")
        return
    waits = "job waits" if changed.queued_jobs == 1 else "jobs wait"
    kept = f"; {changed.queued_jobs} {waits} in Redis for the next `penstock up`" if changed.queued_jobs else ""
    click.echo(f"the pool is down; drained {numbered(changed.stopped)}{kept}")


@cli.command(short_help="Show what is wrong, the models and the slots.")
@as_json
@click.pass_obj
def status(config: str | None, is_json: bool) -> None:
    """Show what is wrong (worst first, each with its mend), the models and the slots.

    Exit code 0 whatever it finds; `doctor` exits with 1 on a failure.
    """
    from operators import status

    found = status.snapshot(load_or_in_force(config))
    print_json(found) if is_json else _print_status(found)


@cli.command(short_help="Give a model N slots on this host.")
@click.argument("model", shell_complete=complete_model)
@click.argument("slots", type=_Slots(min=0), metavar="N")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until the new slots are ready.")
@timeout
@with_reason
@click.pass_obj
def scale(config: str | None, model: str, slots: int, wait: bool, timeout_s: float, reason: str) -> None:
    """Give MODEL N slots on this host, without touching any other slot. Slots that go are drained.

    Holds until the next `penstock up` after a `down`; to keep it, set slots in pool.toml and `penstock config reload`.
    """
    from operators import audited, pool, readiness
    from operators.autoscale import standing

    settings = load_or_in_force(config)
    changed = pool.scale(settings, model, slots)
    audited.note(settings, "scale", f"{model} {slots}", reason=reason, say=say)
    if remark := standing.remark(settings, model):
        say(remark)
    if wait and changed.started:
        numbers, since_ms = changed.started, changed.since_ms
        readiness.wait_until_ready(settings, numbers, timeout_s=timeout_s, say=say, since_ms=since_ms)
    done = (("started", changed.started), ("drained", changed.stopped))
    did = [f"{verb} {numbered(numbers)}" for verb, numbers in done if numbers]
    click.echo(f"{model}: {slots} wanted, {', '.join(did) or 'nothing to change'}")


@cli.command(short_help="Check the pool and say the mend of each finding.")
@as_json
@click.pass_obj
def doctor(config: str | None, is_json: bool) -> None:
    """Check Redis, supervisord, devices, artifacts and settings; say the mend of each finding. Exit code 1 on a failure."""
    from operators import doctor

    print_findings(doctor.examine(load_or_in_force(config)), is_json=is_json)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script: what goes wrong is one line on stderr and an exit code, never a traceback."""
    if ASKED in os.environ:
        answer(cli)
    from broker.connection import LOST, NoPermissionError, ResponseError  # redis-py; every command but --help needs it

    try:
        code = cli.main(arguments or sys.argv[1:] or ["--help"], prog_name="penstock", standalone_mode=False)
    except PenstockError as error:
        code = _fail(str(error))
    except click.exceptions.NoArgsIsHelpError as error:  # `penstock jobs`: what there is
        click.echo(error.format_message(), err=True)
        code = error.exit_code
    except click.ClickException as error:  # usage
        code = _fail(_usage(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    except BrokenPipeError:  # `penstock status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except NoPermissionError as error:
        code = _fail(
            f"Redis refused us: {error}; give the user of redis.url the rights of `operator` (docs/security.md)"
        )
    except ResponseError as error:
        code = _fail(f"Redis refused what this command asks: {error}; see `penstock doctor`")
    except LOST as error:
        code = _fail(f"Redis went away: {error}; see `penstock doctor`, then try again")
    sys.exit(code if isinstance(code, int) else 0)


def _fail(text: str, code: int = 1) -> int:
    is_plain = bool(os.environ.get("NO_COLOR"))
    click.echo(click.style("error: ", fg="red") + " ".join(text.split()), err=True, color=False if is_plain else None)
    return code


def _usage(error: click.ClickException) -> str:
    """Click's words in our form, with the mend."""
    text = error.format_message().rstrip(".").replace(". Did", "; did")
    context = getattr(error, "ctx", None) or click.Context(cli, info_name="penstock")
    mend = f"see `{context.command_path} --help`"
    if getattr(error, "option_name", "") == "--config":
        mend = f"write it first: `penstock --config FILE {context.info_name}`"
    elif isinstance(error, click.MissingParameter) or type(error) is click.UsageError:
        mend = context.get_usage().replace("Usage:", "usage:")
    return f"{text[:1].lower()}{text[1:]}; {mend}"


def _print_status(found: Snapshot) -> None:
    from operators import gpu_troubles, table

    for problem in found.problems:
        print_mark("fail" if problem.level == "error" else "warn", problem.text, problem.mend)
    if found.redis is not None:
        limit = f" of {table.size(found.redis.max_bytes)}" if found.redis.max_bytes else ""
        click.echo(
            f"{found.host}: Redis {found.redis.version} at {found.redis.url}, {table.size(found.redis.used_bytes)}{limit} used"
        )
    if found.models:
        print_lines(table.models(found))
    if found.slots:
        print_lines(table.slots(found))
    if found.agent is not None and found.agent.devices is not None and found.agent.devices.gpus:
        print_lines(table.align(gpu_troubles.lines(found.agent.devices)))


if __name__ == "__main__":
    main()
