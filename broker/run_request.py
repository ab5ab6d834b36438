"""What a bulk run is asked for, and what such a request may hold: checked where it is submitted, and again by whoever reads it.

Every app that submits may write to Redis, so the programs that work runs believe nothing that stands there.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from broker.errors import InvalidInput
from broker.settings import unknown

Priority: TypeAlias = Literal["high", "normal", "low"]

PRIORITIES: tuple[Priority, ...] = get_args(Priority)
INPUT_KINDS = ("parquet", "csv", "jsonl", "arrow", "files")
OUTPUT_KINDS = ("parquet", "csv", "jsonl")
_MOST_LETTERS = 4096  # of a path, as Linux has it
_MOST_NAME = 255
_MOST_MAPPING_BYTES = 256 << 10
_MOST_ROWS = 1 << 53
_LEAST_RATE = 1e-3  # rows a second: a waiting time must stay one


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for. `input` and `output` are absolute paths or URLs. 0 and "" mean: as the runs program sees fit.

    `mapping` is the mapping's JSON-able form. `error_limit`: failed rows that end the run, -1 the host's setting. `rate`: rows
    a second, 0 as many as go. `host`: the one whose programs may work it, because its paths are there; "" any.
    """

    input: str
    output: str
    model: str
    mapping: dict[str, Any] = {}
    output_kind: str = ""
    input_kind: str = ""
    rows_per_job: int = 0
    error_limit: int = -1
    rate: float = 0.0
    priority: Priority = "normal"
    user: str = ""
    host: str = ""


def run_id(request: Request, fingerprint: str, version: str) -> str:
    """12 hex digits: the same input, model version, mapping and output are the same run, so that a retried pipeline attaches."""
    said = [request.input, request.input_kind, fingerprint, request.model, version, request.output, request.output_kind]
    body = msgspec.json.encode([said, request.mapping], order="sorted")
    return blake2b(body, digest_size=6).hexdigest()


def decode(text: str) -> Request:
    """A request as it stands in Redis. Raises InvalidInput for one that no program of ours wrote."""
    try:
        request = msgspec.json.decode(text, type=Request)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidInput(f"it is no request: {error}") from None
    check(request)
    for path in (request.input, request.output):
        if not path.startswith("/") and "://" not in path:
            raise InvalidInput(f"{path!r} is neither an absolute path nor a URL")
    return request


def check(request: Request) -> None:
    """Raises InvalidInput for a value that cannot be, naming it. Where the paths lead is not looked at."""
    for name in ("input", "output", "model"):
        if not getattr(request, name):
            raise InvalidInput(f"{name}='' must be a text: a path or a URL, or the model's name")
    for name in ("input", "output", "model", "user", "host"):
        _check_text(name, getattr(request, name), _MOST_LETTERS if name in ("input", "output") else _MOST_NAME)
    for path in (request.input, request.output):
        if path.lower().startswith(("file:", "local:")):
            raise InvalidInput(f"{path!r} must be written as a plain path")
    if not request.model.replace("-", "").replace("_", "").isalnum():
        raise InvalidInput(f"model={request.model!r} is no model's name: letters, digits, - and _")
    for name, kinds in (("input_kind", INPUT_KINDS), ("output_kind", OUTPUT_KINDS), ("priority", PRIORITIES)):
        value = getattr(request, name)
        if value not in kinds and (value or name == "priority"):
            raise InvalidInput(unknown(name, value, kinds))
    if not (request.rate == 0 or _LEAST_RATE <= request.rate < 1e12):
        raise InvalidInput(
            f"rate={request.rate:g} is no number of rows a second, {_LEAST_RATE:g} or more; 0 sets no bound"
        )
    if not 0 <= request.rows_per_job <= _MOST_ROWS:
        raise InvalidInput(f"rows_per_job={request.rows_per_job} must be 0 (as it fits best) or more")
    if not -1 <= request.error_limit <= _MOST_ROWS:
        raise InvalidInput(f"error_limit={request.error_limit} must be 0 or more; -1 takes the pool's")
    if len(msgspec.json.encode(request.mapping)) > _MOST_MAPPING_BYTES:
        raise InvalidInput(
            f"the mapping has more than {_MOST_MAPPING_BYTES >> 10} KB; name columns by patterns such as f*"
        )


def _check_text(name: str, text: str, most: int) -> None:
    if len(text) > most:
        raise InvalidInput(f"{name} has {len(text)} letters, more than {most}")
    if any(letter < " " or "\x7f" <= letter < "\xa0" for letter in text):  # would steer an operator's terminal
        raise InvalidInput(f"{name}={text[:100]!r} holds control characters")
