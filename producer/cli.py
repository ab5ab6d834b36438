"""`penstock submit`: one job from a file or a text, its result on the screen. Mounted by operators.cli, which prints its errors."""

from __future__ import annotations

import json
import sys
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec
import numpy as np

from broker.connection import START_IT
from broker.durability import Durability
from broker.errors import InvalidInput, JobDead, RedisUnavailable
from broker.messages import LANES
from broker.settings import load
from producer.client import Producer

if TYPE_CHECKING:
    from producer.results import Result


def _seconds(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not isfinite(value):  # it would never be over
        raise click.BadParameter(f"{value:g} is no number of seconds")
    return value


@click.command()
@click.argument("model")
@click.option(
    "--input", "tensors", metavar="FILE", help="Tensors: .npy, .npz, .json (a list, or name to list), - for stdin."
)
@click.option("--file", "file", metavar="PATH", help="Raw bytes for the model's preprocess; - for stdin.")
@click.option("--text", metavar="TEXT", help="Text for the model's preprocess.")
@click.option("--lane", type=click.Choice(LANES), default="normal", show_default=True, help="Priority.")
@click.option(
    "--deadline", "deadline_s", type=float, callback=_seconds, metavar="SECONDS", help="Run it within, or not at all."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=float,
    callback=_seconds,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the result.",
)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for the result, or print the job's id.")
@click.option(
    "--durability",
    type=click.Choice(get_args(Durability)),
    default="none",
    show_default=True,
    help="fsync: go on only when Redis has proven that the job is on its disk.",
)
@click.option("--json", "is_json", is_flag=True, help="Print JSON for programs.")
@click.option("--config", metavar="FILE", help="pool.toml to take the Redis URL from.")
@click.option("--url", metavar="URL", help="Redis URL; wins over the configuration.")
def submit(
    model: str,
    tensors: str | None,
    file: str | None,
    text: str | None,
    lane: str,
    deadline_s: float | None,
    timeout_s: float,
    wait: bool,
    durability: Durability,
    is_json: bool,
    config: str | None,
    url: str | None,
) -> None:
    """Submit one job to MODEL and print its result. Give the input once: --input, --file or --text.

    For instance: penstock submit mlp --input row.npy
    """
    inputs = read_inputs(tensors, file, text)
    settings = None if url else load(config)
    try:
        _submit(
            settings.redis_url if settings else str(url), model, inputs, lane=lane, deadline_s=deadline_s, timeout_s=timeout_s, wait=wait,
            durability=durability, is_json=is_json,
        )  # fmt: skip
    except RedisUnavailable as error:
        if settings is None or not settings.is_embedded:
            raise
        raise type(error)(str(error).replace(START_IT, "start the pool with `penstock up`")) from None
    except JobDead as error:
        raise JobDead(f"{error}; see `penstock dead show {error.job_id}`", job_id=error.job_id) from None


def _submit(
    url: str, model: str, inputs: Any, *, lane: str, deadline_s: float | None, timeout_s: float, wait: bool,
    durability: Durability, is_json: bool,
) -> None:  # fmt: skip
    with Producer(url, submit_timeout_s=5.0, durability=durability) as producer:
        handle = producer.submit(model, inputs, lane=lane, deadline_s=deadline_s)
        if handle.warning and not is_json:
            click.echo(f"warning: {handle.warning}", err=True)
        if wait:
            result = handle.result(timeout_s)
            click.echo(json.dumps(as_dict(result)) if is_json else as_text(result))
        else:
            click.echo(json.dumps({"id": handle.id, "warning": handle.warning}) if is_json else handle.id)


def read_inputs(tensors: str | None, file: str | None, text: str | None) -> Any:
    """What the flags name. Raises InvalidInput for none, several, or a file that cannot be read."""
    if sum(one is not None for one in (tensors, file, text)) != 1:
        raise InvalidInput("give the input once: --input FILE, --file PATH or --text TEXT")
    if text is not None:
        return text
    name = tensors if tensors is not None else file
    assert name is not None
    try:
        if tensors is None:
            return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        if name.endswith((".npy", ".npz")):
            loaded = np.load(name, allow_pickle=False)
            return loaded if isinstance(loaded, np.ndarray) else dict(loaded)
        return msgspec.json.decode(sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes())
    except OSError as error:
        raise InvalidInput(f"cannot read {name}: {error.strerror or error}; name a file that is there") from None
    except (ValueError, EOFError) as error:
        raise InvalidInput(f"{name} is neither .npy, .npz nor JSON ({error}); convert it with numpy.save") from None


def as_dict(result: Result) -> dict[str, Any]:
    """A result as plain Python, for --json."""
    return {
        "id": result.id,
        "outputs": {name: array.tolist() for name, array in result.outputs.items()},
        "value": msgspec.to_builtins(result.value),
        "row_errors": result.row_errors,
        "flags": result.flags,
        "timings": msgspec.to_builtins(result.timings),
        "version": result.version,
        "attempt": result.attempt,
    }


def as_text(result: Result) -> str:
    """A result for the eye: an output a line, then how long it took."""
    lines = [f"{name}: {np.array2string(array, threshold=20, precision=5)}" for name, array in result.outputs.items()]
    if not result.outputs:
        lines.append(json.dumps(msgspec.to_builtins(result.value), ensure_ascii=False))
    lines += [f"row {row} failed: {text}" for row, text in result.row_errors.items()]
    lines += [f"row {row} flagged: {text}" for row, text in result.flags.items()]
    times = result.timings
    lines.append(
        f"{result.id}  version {result.version}, attempt {result.attempt}, {times.total_ms:.2f} ms "
        f"(queue {times.queue_ms:.2f}, batch wait {times.batch_wait_ms:.2f}, forward {times.forward_ms:.2f})"
    )
    return "\n".join(lines)
