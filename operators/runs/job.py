"""An RQ job that can only call what is allowed. Whoever can write to Redis can write a job, so nothing in it is believed.

RQ 3.0 imports callables from a job's hash for its function, its three callbacks, and by unpickling its data, and fetches
webhook URLs named there. Here the data is JSON, the function a key of `tasks.ALLOWED`, and a hash with any field that is not
in FIELDS, or with a garbled one, is refused: the job fails and its result says why.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from rq.exceptions import TimeoutFormatError
from rq.job import Job

from operators.runs.tasks import ALLOWED

MOST_BYTES = 1 << 20  # of a job's data: names and small arguments, never payloads

# What a hash may hold. All else is refused unless empty: callbacks, webhooks, dependencies, repeats, rate limits, groups,
# and whatever a later RQ adds.
FIELDS = frozenset({
    "created_at", "data", "description", "ended_at", "enqueue_at_front", "enqueued_at", "failure_ttl",
    "last_heartbeat", "meta", "number_of_retries", "origin", "result_ttl", "started_at", "status", "timeout", "ttl",
    "worker_name",
})  # fmt: skip


class Refused(Exception):
    """Raised in place of a job that may not run; its text is the reason, in the job's result."""


class AllowedJob(Job):
    """A job as a worker of ours sees it: a name of ALLOWED and JSON arguments, or a refusal."""

    refusal = ""

    def restore(self, raw_data: Mapping[Any, bytes]) -> Any:
        """Reads the hash. Never raises for what stands in it: a job that cannot be read must fail, not end the worker."""
        fields = {_text(name): value for name, value in raw_data.items()}
        if "data" not in fields:
            return super().restore(fields)  # what is left of a job that was deleted: RQ passes over it
        foreign = sorted(name for name, value in fields.items() if value and name not in FIELDS)
        try:
            if foreign:
                raise ValueError(f"runs have no {', '.join(foreign)[:200]}")
            return super().restore(
                {name: fields[name] for name in FIELDS & fields.keys()} | {"data": _repacked(fields)}
            )
        except (ValueError, TypeError, AttributeError, AssertionError, OverflowError, TimeoutFormatError) as error:
            self.refusal = f"its hash cannot be taken: {error}"
            origin = fields.get("origin", b"").decode(errors="replace").encode()
            return super().restore({"data": b"null", "origin": origin, "status": b"queued"})

    @property
    def func(self) -> Callable[..., Any]:
        """The allowed function. Raises Refused; imports nothing."""
        self._require_allowed()
        return ALLOWED[str(self._func_name)]

    def perform(self) -> Any:
        self._require_allowed()
        return super().perform()

    def _require_allowed(self) -> None:
        if not self.refusal:
            self._deserialize_data()
        if self.refusal:
            raise Refused(f"job {self.id} was not run: {self.refusal}")

    def _deserialize_data(self) -> None:
        """Sets the call. One that is refused becomes a call of nothing, which `perform` refuses."""
        self._func_name, self._instance, self._args, self._kwargs = "", None, [], {}
        if self.refusal:
            return
        try:
            call = json.loads(self.data)
        except (ValueError, RecursionError):
            self.refusal = "its data is not JSON; runs are never unpickled"
            return
        match call:
            case [str(name), None, list(args), dict(kwargs)]:
                if name in ALLOWED:
                    self._func_name, self._args, self._kwargs = name, args, kwargs
                else:
                    self.refusal = f"{name[:100]!r} is not in the allow-list ({', '.join(sorted(ALLOWED))})"
            case _:
                self.refusal = "its data is not [name, null, [arguments], {keywords}]"

    def dependencies_are_met(self, *_: Any, **__: Any) -> bool:
        """Always: RQ asks when a run has ended, and what names dependencies is refused; without this it would fail the run."""
        return True

    # RQ asks for these after a job, and when it finds one abandoned; none of ours has any.

    @property
    def success_callback(self) -> None:
        return None

    @property
    def failure_callback(self) -> None:
        return None

    @property
    def stopped_callback(self) -> None:
        return None


def _text(name: bytes | str) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name


def _repacked(fields: Mapping[str, bytes]) -> bytes:
    """The job's data, compressed once and checked for its size before RQ unpacks it. Raises ValueError."""
    raw, unpacker = fields["data"], zlib.decompressobj()
    try:
        data = unpacker.decompress(raw, MOST_BYTES + 1)
    except zlib.error:
        data = raw  # RQ takes data that is not compressed too
    if len(data) > MOST_BYTES:
        raise ValueError(f"its data is larger than {MOST_BYTES} bytes")
    return zlib.compress(data)
