"""`penstock run submit` and `check`: from a file and a model to a run. Mounted by operators.runs.cli."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from broker import audit
from broker.runs import PRIORITIES, IfExists, Priority, Request
from operators.completion.complete import complete_model
from operators.reach import reached
from operators.runs import texts
from operators.runs.ordering import Words
from operators.runs.screen.cli import print_field, timeout, wait, wait_for
from operators.screen.cli import Number, as_json, load_or_in_force, print_json, say, with_reason
from producer import run_order

KINDS = ("parquet", "csv", "jsonl", "arrow", "files")

MAPPING: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
    click.option(
        "--map", "inputs", multiple=True, metavar="INPUT=COLUMNS", help="Columns of a model input: x=a,b,c or x=f*."
    ),
    click.option("--key", "keys", multiple=True, metavar="COLUMN", help="Column to carry into the output."),
    click.option(
        "--columns",
        "outputs",
        multiple=True,
        metavar="WHAT",
        help="What the output holds: auto, raw, or COLUMN=EXPRESSION (docs/runs.md).",
    ),
    click.option(
        "--mapping", "file", default="", metavar="FILE", help="TOML file with all three; options win over it."
    ),
    click.option("--input-kind", type=click.Choice(KINDS), help="Unless the name tells."),
    click.option("--model", required=True, metavar="MODEL", shell_complete=complete_model, help="Who scores."),
)


def with_mapping(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(MAPPING):
        command = option(command)
    return command


@click.command(short_help="Score a file or data set.")
@click.argument("input")
@click.option(
    "--output", required=True, metavar="FILE", help="Scored file: .parquet, .csv, .jsonl; a folder ends in /."
)
@click.option("--output-kind", type=click.Choice(KINDS[:3]), help="Unless the name tells.")
@with_mapping
@click.option(
    "--if-exists", type=click.Choice(run_order.IF_EXISTS), default="resume", show_default=True,
    help="A run of the same content is there: attach to it and let it go on, refuse, or begin anew over its output.",
)  # fmt: skip
@click.option("--priority", type=click.Choice(PRIORITIES), default="normal", show_default=True, help="Among runs.")
@click.option("--rate", type=Number(min=0), default=0.0, metavar="ROWS", help="Rows a second at most.")
@click.option(
    "--error-limit", type=click.IntRange(min=0), metavar="ROWS", help="Failed rows that end it; else runs.error_limit."
)
@click.option("--rows-per-job", type=click.IntRange(min=0), default=0, metavar="ROWS", help="0: as it fits the model.")
@click.option(
    "--shared", "is_shared", is_flag=True, help="Local paths lead to the same files on every host of the pool."
)
@wait_for
@timeout
@with_reason
@as_json
@click.pass_obj
def submit(
    config: str | None, input: str, output: str, output_kind: str | None, inputs: tuple[str, ...], keys: tuple[str, ...],
    outputs: tuple[str, ...], file: str, input_kind: str | None, model: str, if_exists: IfExists, priority: Priority, rate: float,
    error_limit: int | None, rows_per_job: int, is_shared: bool, is_waiting: bool, timeout_s: float | None, reason: str,
    is_json: bool,
) -> None:  # fmt: skip
    """Score INPUT (a file, folder, quoted glob or URL of Parquet, CSV, JSONL, Arrow or any files) and write FILE.

    The same input, model version, mapping and output are the same run: submitted again, it is attached to.
    With --wait it exits with 0 when all rows are scored, 2 when some failed, 1 when the run failed or was cancelled.

    For instance: penstock run submit day.parquet --model mlp --map 'x=f*' --key id --output scored.parquet --wait
    """
    from operators.runs.ordering import make_order

    settings = load_or_in_force(config)
    request = Request(
        input=input, output=output, model=model, output_kind=output_kind or "", input_kind=input_kind or "", rows_per_job=rows_per_job,
        error_limit=-1 if error_limit is None else error_limit, rate=rate, priority=priority, user=audit.user(),
    )  # fmt: skip
    with reached(settings) as link:
        words = Words(inputs, keys, outputs, file)
        order = make_order(
            link, request, words, if_exists=if_exists, is_shared=is_shared, host=settings.host, roots=settings.run_roots
        )
        view, is_new = run_order.submit(link, order)
        audit.record(link, "run submit", f"{view.id} {view.request.output}", reason=reason)
    if order.warning:
        say(f"warning: {order.warning}")
    if is_waiting:
        say(f"run {view.id} {'submitted' if is_new else f'attached to, it is {texts.state(view)}'}")
        wait(settings, view.id, timeout_s, is_json)
    elif is_json:
        print_json({"id": view.id, "is_new": is_new, "state": view.state, "warning": order.warning})
    else:
        say("submitted" if is_new else f"attached to; it is {texts.state(view)}")
        click.echo(view.id)


@click.command(short_help="Try a mapping on 100 rows and say how long all would take.")
@click.argument("input")
@with_mapping
@as_json
@click.pass_obj
def check(
    config: str | None, input: str, inputs: tuple[str, ...], keys: tuple[str, ...], outputs: tuple[str, ...], file: str,
    input_kind: str | None, model: str, is_json: bool,
) -> None:  # fmt: skip
    """Check the mapping of INPUT to a model, score its first 100 rows, and say how long the whole would take. Writes nothing."""
    from broker.fingerprint import absolute
    from broker.roots import check_within
    from operators.runs.ordering import fit, read_mapping
    from operators.runs.trial import try_out
    from producer import Producer

    settings = load_or_in_force(config)
    with reached(settings) as link:
        spec = run_order.known_model(link, model)
        place, roots = absolute(input), settings.run_roots
        check_within(roots, place, "input")
        bound = fit(spec, place, input_kind or "", read_mapping(Words(inputs, keys, outputs, file)), roots=roots)
        with Producer(settings.redis_url) as producer:
            found = try_out(link, producer, bound)
    if is_json:
        print_json(found)
    else:
        for name, text in texts.trial(found):
            print_field(name, text)
    if found.failed:
        raise SystemExit(2)
