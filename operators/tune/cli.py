"""`penstock tune`: the command. Mounted by operators.cli, which prints its errors; the course of it lies in `conduct`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import msgspec

from broker.errors import ConfigError
from broker.settings import Settings, load, unknown
from operators import devices, placement
from operators.completion.complete import complete_model
from operators.screen.cli import Number, Seconds, as_json, print_json, print_lines, say
from operators.tune import paper, save
from operators.tune.conduct import Conductor, Tuned, Wishes
from operators.tune.decide import Target
from operators.tune.edit import Value
from operators.tune.program import Program
from workers.tune.words import Open

BUDGET_S = 45.0
MOST_ON_A_GPU = 4  # slots tried where nobody says
FREE_SHARE = 0.9  # of the memory that is free, where nobody says


@click.command(short_help="Measure a model and write how it is best served.")
@click.argument("which", metavar="MODEL|FOLDER", shell_complete=complete_model)
@click.option(
    "--data",
    metavar="PATH",
    help="Real inputs: files for models that take bytes or text, .npy or .npz (rows first) for tensors.",
)
@click.option(
    "--latency-ms",
    type=Number(min=0, min_open=True),
    metavar="MS",
    help="What 99 of 100 jobs shall stay under.",
)
@click.option(
    "--memory-mb",
    type=Number(min=0, min_open=True, max=1e9),
    metavar="MB",
    help="For all slots on the device; else what is free.",
)
@click.option(
    "--max-slots", type=click.IntRange(min=1), metavar="N", help="Most slots to try; else one per core, or 4 on a GPU."
)
@click.option("--device", metavar="DEVICE", help="Instead of pool.toml's.")
@click.option(
    "--budget-s",
    type=Seconds(min=1, max=3600),
    default=BUDGET_S,
    show_default=True,
    metavar="SECONDS",
    help="How long it may take.",
)
@click.option("--dry-run", "is_dry", is_flag=True, help="Write nothing.")
@as_json
@click.pass_obj
def tune(
    config: str | None, which: str, data: str | None, latency_ms: float | None, memory_mb: float | None, max_slots: int | None,
    device: str | None, budget_s: float, is_dry: bool, is_json: bool,
) -> None:  # fmt: skip
    """Measure a model on this machine and write max_rows, row_buckets and slots into pool.toml.

    The model runs as in a slot, with the files of --data as its inputs. Stop its slots first, or they share the device with
    the measurement. For instance: penstock tune magika --data ~/documents --latency-ms 200
    """
    settings = load(config)
    model, folder = _named(settings, which)
    on = device or (placement.one(settings, model) if model else "cpu")
    wishes = Wishes(
        Target(latency_ms, _memory(on, memory_mb)), budget_s, max_slots or _places(settings, model, on),
        settings.slot.max_wait_ms,
    )  # fmt: skip
    load_1m = os.getloadavg()[0]  # before the measurement adds to it
    question = Open(
        folder=str(folder), trusted=str(settings.trusted), data=str(Path(data).absolute()) if data else "", device=on,
        threads=settings.slot.threads, memory_fraction=settings.models[model].memory_fraction if model else 0.0,
        payload_limit_bytes=settings.queue.payload_limit_bytes,
        load_timeout_s=settings.slot.load_timeout_s, silent_s=settings.slot.hang_floor_s,
    )  # fmt: skip
    with Program() as program:
        tuned = Conductor(program, wishes, say=(lambda _: None) if is_json else say).tune(question)
    values = _values(tuned, device)
    kept = None
    if tuned.choice.step is not None:
        if model:
            kept = save.in_pool(settings, model, values, tuned.max_wait_ms, is_dry=is_dry)
        else:
            kept = save.beside(folder, tuned.model.name, values, is_dry=is_dry)
    _print(tuned, values, kept, load_1m, is_json=is_json)
    if tuned.choice.step is None:
        raise ConfigError(tuned.choice.reason)


def _named(settings: Settings, which: str) -> tuple[str, Path]:
    """The model of pool.toml, empty where it is not in it, and its folder. Raises ConfigError when it is neither."""
    if which in settings.models:
        return which, settings.artifact_path(which)
    if Path(which).is_dir():
        folder = Path(which).absolute()
        return next((name for name in settings.models if settings.artifact_path(name) == folder), ""), folder
    raise ConfigError(f"{unknown('model', which, settings.models)}; nor is it a folder")


def _memory(device: str, memory_mb: float | None) -> int | None:
    if memory_mb is not None:
        return int(memory_mb * 1e6)
    free = devices.free_host_bytes() if device == "cpu" else devices.free_device_bytes(device)
    return None if free is None else int(FREE_SHARE * free)


def _places(settings: Settings, model: str, device: str) -> int:
    """Slots worth trying: as many as can run at once, and as pool.toml has room for."""
    others = sum(one.slots for name, one in settings.models.items() if name != model)
    at_once = len(os.sched_getaffinity(0)) // settings.slot.threads if device == "cpu" else MOST_ON_A_GPU
    return max(1, min(at_once, settings.pool.most_slots - others))


def _values(tuned: Tuned, device: str | None) -> dict[str, Value]:
    """The model's keys in pool.toml."""
    if tuned.choice.step is None:
        return {}
    found: dict[str, Value] = {
        "max_rows": tuned.choice.step.rows,
        "row_buckets": list(tuned.row_buckets),
        "slots": tuned.slots,
    }
    return {**found, "device": device} if device else found


def _print(tuned: Tuned, values: dict[str, Value], kept: save.Kept | None, load_1m: float, *, is_json: bool) -> None:
    if is_json:
        plain: dict[str, Any] = msgspec.to_builtins(tuned)
        print_json({**plain, "values": values, "kept": kept, "load_1m": round(load_1m, 2)})
        return
    for line in (*paper.head(tuned), *paper.neighbours(load_1m, len(os.sched_getaffinity(0)))):
        click.echo(line)
    for lines in (paper.cells(tuned), paper.steps(tuned)):
        if lines:
            print_lines(lines)
    if kept is None:
        return
    for line in paper.advice(tuned, values):
        click.echo(line)
    if not kept.changes:
        click.echo(f"{kept.path} says so already")
        return
    click.echo(f"{'wrote' if kept.is_written else 'would write'} {kept.path}:")
    for line in kept.changes:
        click.echo(line)
    if kept.is_written:
        click.echo("a pool that is up takes it up with `penstock config reload`")
