"""What a model takes and gives, and the limits of its queue: the part of the manifest that lets submit refuse.

Published by slots and operators, read by producers; the generation changes whenever any of it does.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Literal

import msgspec

from broker import keys
from broker.bodies import REDIS, check_location
from broker.errors import ConfigError, DecodeError, UnknownModel

if TYPE_CHECKING:  # the engine reads specs too, and must never load redis
    from broker.connection import Link

OnViolation = Literal["refuse", "flag"]


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One input or output. `shape` is per row; a string names a dimension that varies between jobs.

    `minimum`, `maximum` bound the values (inclusive); `finite` forbids NaN and infinities. What breaks a bound is refused
    (inputs at submit, outputs as a failed job or row) or only flagged in the result, as `on_violation` says.
    `pad_value` fills up varying dimensions and must be neutral to the model (an attention mask's 0, say).
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    finite: bool = False
    on_violation: OnViolation = "refuse"
    pad_value: float = 0

    @property
    def is_bounded(self) -> bool:
        return self.finite or self.minimum is not None or self.maximum is not None


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of one model's queue. Bytes count waiting, claimed and delayed jobs and stored results.

    Data above `large_bytes` (0: none) stands apart from its job, in the store that `bodies` names: "redis", a folder or a URL.
    """

    max_jobs: int = 1_000_000
    max_bytes: int = 2 << 30
    payload_limit_bytes: int = 4 << 20
    large_bytes: int = 64 << 10
    bodies: str = REDIS


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A model's public face. `takes` says whether jobs bring tensors, or bytes or text for the artifact's preprocess."""

    name: str
    version: str
    takes: Literal["tensors", "bytes", "text"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_rows: int
    buckets: dict[
        str, tuple[int, ...]
    ] = {}  # varying dimension -> sizes it is padded to; the last is the largest allowed
    has_postprocess: bool = False

    def generation(self, limits: Limits) -> str:
        """Digest of the spec and its limits; equal content gives equal generations on every host."""
        return blake2b(msgspec.msgpack.encode((self, limits)), digest_size=8).hexdigest()


class Published(msgspec.Struct, frozen=True):
    """A spec as read from Redis."""

    spec: ModelSpec
    limits: Limits
    generation: str


def publish(link: Link, spec: ModelSpec, limits: Limits) -> str:
    """Writes the spec; the generation."""
    generation = spec.generation(limits)
    if link.call("HMGET", keys.spec(spec.name), "generation", "large_generation") == [generation.encode()] * 2:
        return generation  # nothing to write: a slot must be able to start on a server at maxmemory
    for reply in link.call_all(
        [
            (
                "HSET", keys.spec(spec.name), "generation", generation, "body", msgspec.json.encode(spec),
                "max_jobs", limits.max_jobs, "max_bytes", limits.max_bytes,
                "payload_limit_bytes", limits.payload_limit_bytes, "large_bytes", limits.large_bytes,
                "bodies", limits.bodies, "large_generation", generation,
            ),
            ("SADD", keys.models(), spec.name),
        ]
    ):  # fmt: skip
        if isinstance(reply, Exception):
            raise reply
    return generation


FIELDS = (
    "generation", "body", "max_jobs", "max_bytes", "payload_limit_bytes", "large_bytes", "bodies", "large_generation",
)  # fmt: skip


def read(model: str, values: list[bytes | None]) -> Published:
    """Reads the values of FIELDS. Raises UnknownModel when the model was never published, DecodeError for garbage."""
    if values[0] is None or values[1] is None:
        raise UnknownModel(
            f"no model named {model!r} is published; see `penstock models`, or start the pool that serves it"
        )
    try:
        # A version before publishes no `large_bytes`, and leaves what a newer one wrote beside its own generation; its slots
        # read no job whose body stands apart.
        max_jobs, max_bytes, payload_limit, large = (int(value or 0) for value in values[2:6])
        if values[7] != values[0]:
            large = 0
        location = (values[6] or b"").decode() or REDIS
        check_location("it", location)
        return Published(
            spec=msgspec.json.decode(values[1], type=ModelSpec),
            limits=Limits(max_jobs, max_bytes, payload_limit, large, location),
            generation=values[0].decode(),
        )
    except (msgspec.DecodeError, ValueError, RecursionError, ConfigError) as error:
        raise DecodeError(
            f"the published spec of model {model!r} is garbled: {error}; a slot that starts publishes it again"
        ) from None


def fetch(link: Link, model: str) -> Published:
    """One round trip. Raises UnknownModel when the model was never published."""
    return read(model, link.call("HMGET", keys.spec(model), *FIELDS))
