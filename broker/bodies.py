"""References to bodies that stand apart from their jobs, and the places they may stand in. Pure: no I/O.

A job whose data is large travels as a reference: the body itself is a Redis key, a file on the host or an object behind a
URL. Written before the job is queued, removed after it ended. On the wire the reference stands where the data would begin:

    0            8             12          13         14
    +------------+-------------+-----------+----------+-------+------+
    | size (u64) | crc32 (u32) | token len | name len | token | name |
    +------------+-------------+-----------+----------+-------+------+

The token says which store; the name is the id under which the job was first submitted. A slot looks for names in its own
store only: nothing that a job says is ever a path or a URL. scripts/body.lua reads this layout too.
"""

from __future__ import annotations

import re
import struct
from hashlib import blake2b
from typing import TypeAlias

import msgspec
from isal.isal_zlib import crc32  # the same checksum as zlib's, five times as fast

from broker.errors import ConfigError, DecodeError, StoreError

REDIS = "redis"  # the token and the location of bodies that are keys
TTL_MS = 60_000  # of a body's key until its job is queued, in the same breath; what was never queued vanishes by it
MOST_BYTES = 1 << 40

Body: TypeAlias = bytes | memoryview  # of bytes, contiguous

_HEAD = struct.Struct("<QIBB")
_TOKEN = re.compile(r"[a-z0-9]{1,32}")
_NAME = re.compile(r"[a-z0-9]{1,64}-[0-9]{1,20}")


class Reference(msgspec.Struct, frozen=True, gc=False):
    """Where a body stands, and how it is known to be whole."""

    token: str
    name: str
    size: int  # bytes
    crc: int

    def fault(self, body: bytes) -> str:
        """What is wrong with what was found; '' when it is the body."""
        if len(body) != self.size:
            return f"holds {len(body)} bytes, {self.size} were written"
        return "" if crc32(body) == self.crc else "holds other bytes than were written"


def refer(token: str, name: str, body: Body) -> Reference:
    """The reference of a body about to be written."""
    return Reference(token, name, len(body), crc32(body))


def encode(reference: Reference) -> bytes:
    token, name = reference.token.encode(), reference.name.encode()
    return _HEAD.pack(reference.size, reference.crc, len(token), len(name)) + token + name


def decode(raw: bytes) -> Reference:
    """Raises DecodeError for what is no reference."""
    try:
        size, crc, token_len, name_len = _HEAD.unpack_from(raw)
        token, name = raw[14 : 14 + token_len].decode(), raw[14 + token_len :].decode()
    except (struct.error, UnicodeDecodeError):
        raise DecodeError("a job's reference to its body is cut short or garbled") from None
    if len(name) != name_len or not _TOKEN.fullmatch(token) or not is_name(name) or size > MOST_BYTES:
        raise DecodeError("a job's reference to its body is garbled")
    return Reference(token, name, size, crc)


def is_name(name: str) -> bool:
    """Whether a body may be called so: a job's id, and never a path."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """The name, when a body may be called so: what stores ask before they make a path of it. Raises StoreError."""
    if is_name(name):
        return name
    raise StoreError(f"{name[:100]!r} is no body's name, which is a job's id; find out who else writes to Redis")


def is_folder(location: str) -> bool:
    """Whether bodies of this location are files of the host."""
    return location.startswith("/")


def token_of_url(url: str) -> str:
    """The token of a URL's store, the same on every machine."""
    return blake2b(url.rstrip("/").encode(), digest_size=8).hexdigest()


def check_location(where: str, location: str) -> None:
    """Raises ConfigError for a `bodies` that names no store."""
    protocol, colon, rest = location.partition("://")
    is_url = bool(colon and rest and re.fullmatch(r"[a-z][a-z0-9+.-]*", protocol))
    if location == REDIS or is_folder(location) or is_url:
        return
    raise ConfigError(
        f'{where}: bodies = "{location}" must be "redis", an absolute folder like "/dev/shm/penstock", or a URL like '
        '"s3://bucket/prefix"'
    )
