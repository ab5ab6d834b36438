"""How a job is to be treated, checked once per call and put into its head. Not about what the model takes: see `inputs`."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from broker import codec
from broker.errors import InvalidInput
from broker.messages import LANES
from broker.settings import unknown
from producer.inputs import Fitted

_LANE_NUMBERS = {name: number for number, name in enumerate(LANES, 1)}
_MAX_TTL_S = 30 * 24 * 3600
_MAX_TIME_S = 365 * 24 * 3600.0


class Options(msgspec.Struct, frozen=True):
    """Checked options of one submit. `lane` is the wire's number, 1 high to 3 low."""

    lane: int
    delay_ms: int
    deadline_ms: int
    retries: int
    result_ttl_s: int
    is_stored: bool
    context: dict[str, Any] | None

    @classmethod
    def of(
        cls,
        *,
        lane: str = "normal",
        deadline_s: float | None = None,
        delay_s: float | None = None,
        context: Mapping[str, Any] | None = None,
        retries: int = 3,
        result_ttl_s: int = 600,
        store: bool = True,
    ) -> Options:
        """Raises InvalidInput for a value out of range."""
        number = _LANE_NUMBERS.get(lane)
        if number is None:
            raise InvalidInput(unknown("lane", str(lane), LANES))
        if deadline_s is not None and not 0 < deadline_s <= _MAX_TIME_S:
            raise InvalidInput(
                f"deadline_s={deadline_s:g} has passed or is over a year away; give the seconds from now"
            )
        if delay_s is not None and not 0 <= delay_s <= _MAX_TIME_S:
            raise InvalidInput(f"delay_s={delay_s:g} is negative or over a year; give the seconds from now")
        if deadline_s is not None and delay_s is not None and delay_s >= deadline_s:
            raise InvalidInput(f"delay_s={delay_s:g} ends after deadline_s={deadline_s:g}; make the deadline later")
        if not 0 <= retries <= 255:
            raise InvalidInput(f"retries={retries} must lie between 0 and 255")
        if not 0 < result_ttl_s <= _MAX_TTL_S:
            raise InvalidInput(f"result_ttl_s={result_ttl_s} must lie between 1 and {_MAX_TTL_S} (30 days)")
        return cls(
            number,
            int(delay_s * 1000) if delay_s else 0,
            max(1, int(deadline_s * 1000)) if deadline_s else 0,
            retries,
            int(result_ttl_s),
            store,
            dict(context) if context else None,
        )

    def after(self, waited_s: float) -> Options:
        """The same, for a submit that waited for room: a deadline counts from the call, not from the answer."""
        if not self.deadline_ms or waited_s < 0.001:
            return self
        return msgspec.structs.replace(self, deadline_ms=max(1, self.deadline_ms - int(waited_s * 1000)))

    def head(self, fitted: Fitted) -> tuple[bytes, bytes]:
        """What stands around the id; see `codec.encode_job_head`. Raises InvalidInput for a context that cannot travel."""
        try:
            head = codec.encode_job_head(
                kind=fitted.kind,
                rows=fitted.rows,
                is_one_row=fitted.is_one_row,
                is_stored=self.is_stored,
                retries=self.retries,
                result_ttl_s=self.result_ttl_s,
                descriptor=fitted.descriptor,
                context=self.context,
            )
        except struct.error:
            raise InvalidInput("the context is over 65 535 bytes; send a reference instead") from None
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidInput(
                f"the context cannot be sent ({error}); use plain str, int, float, bool, list, dict"
            ) from None
        return head


def digest(fitted: Fitted) -> str:
    """Of a job's content: an idempotency key means the same job only when this is the same too."""
    content = blake2b(fitted.descriptor, digest_size=16)
    content.update(f"{int(fitted.kind)} {fitted.rows} {fitted.is_one_row} ".encode())
    content.update(fitted.data)
    return content.hexdigest()


def check_key(key: str) -> str:
    """Raises InvalidInput for an idempotency key that cannot be one."""
    if not 0 < len(key) <= 512:
        raise InvalidInput("an idempotency key is a str of 1 to 512 characters; hash a longer one")
    return key
