"""How a job is to be treated, checked once per call and put into its head. Not about what the model takes: see `inputs`.

What is no value of its kind is an InvalidInput of one line; a name we do not know is a TypeError, as of any function.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from hashlib import blake2b
from numbers import Integral, Real
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
        """Raises InvalidInput for a value of the wrong type or out of range."""
        number = _LANE_NUMBERS.get(str(lane))
        if number is None:
            raise InvalidInput(unknown("lane", str(lane), LANES))
        for name, value in (("deadline_s", deadline_s), ("delay_s", delay_s), ("result_ttl_s", result_ttl_s)):
            if not _is_number(value) and (value is not None or name == "result_ttl_s"):
                raise InvalidInput(f"{name}={value!r} is no number of seconds; write it as an int or a float")
        if deadline_s is not None and not 0 < deadline_s <= _MAX_TIME_S:
            raise InvalidInput(
                f"deadline_s={deadline_s:g} has passed or is over a year away; give the seconds from now"
            )
        if delay_s is not None and not 0 <= delay_s <= _MAX_TIME_S:
            raise InvalidInput(f"delay_s={delay_s:g} is negative or over a year; give the seconds from now")
        if deadline_s is not None and delay_s is not None and delay_s >= deadline_s:
            raise InvalidInput(f"delay_s={delay_s:g} ends after deadline_s={deadline_s:g}; make the deadline later")
        if not is_whole(retries) or not 0 <= retries <= 255:
            raise InvalidInput(f"retries={retries!r} must be a whole number between 0 and 255")
        if not _is(store, bool):
            raise InvalidInput(f"store={store!r} must be True or False")
        if context is not None and not _is(context, Mapping):
            raise InvalidInput(f'context is a {type(context).__name__}, and must be a dict; write {{"name": value}}')
        if not 1 <= result_ttl_s <= _MAX_TTL_S:
            raise InvalidInput(f"result_ttl_s={result_ttl_s} must lie between 1 and {_MAX_TTL_S} (30 days)")
        return cls(
            number,
            int(delay_s * 1000) if delay_s else 0,
            max(1, int(deadline_s * 1000)) if deadline_s else 0,
            int(retries),
            int(result_ttl_s),
            store,
            dict(context) if context else None,
        )

    def after(self, waited_s: float) -> Options:
        """The same, for a submit that waited for room: a deadline counts from the call, not from the answer."""
        if not self.deadline_ms or waited_s < 0.001:
            return self
        return msgspec.structs.replace(self, deadline_ms=max(1, self.deadline_ms - int(waited_s * 1000)))

    def head(self, fitted: Fitted, *, is_apart: bool = False) -> tuple[bytes, bytes]:
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
                is_apart=is_apart,
            )
        except struct.error:
            raise InvalidInput("the context is over 65 535 bytes; send a reference instead") from None
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidInput(
                f"the context cannot be sent ({error}); use plain str, int, float, bool, list, dict"
            ) from None
        return head


class Sealed(str):
    """An idempotency key whose content follows from the key itself, so that it need not be hashed: a run's id names its input as it
    was, and the key the rows of it."""


def digest(fitted: Fitted, key: str = "") -> str:
    """Of a job's content: an idempotency key means the same job only when this is the same too."""
    if isinstance(key, Sealed):
        return f"sealed-{fitted.rows}"
    content = blake2b(fitted.descriptor, digest_size=16)
    content.update(f"{int(fitted.kind)} {fitted.rows} {fitted.is_one_row} ".encode())
    content.update(fitted.data)
    return content.hexdigest()


_NAMES = ("lane", "deadline_s", "delay_s", "context", "retries", "result_ttl_s", "store")
_ALSO = {
    "submit": ("wait_s", "idempotency_key"),
    "infer": ("timeout", "wait_s", "idempotency_key"),
    "submit_many": ("wait_s", "idempotency_keys"),
    "map": ("window", "ordered", "timeout", "return_errors"),
}  # fmt: skip


def options_of(call: str, given: dict[str, Any]) -> Options:
    """The options given to one of the client's methods. Raises TypeError for an unknown name, InvalidInput."""
    if not given:
        return PLAIN
    check_names(call, given)
    return Options.of(**given)


def check_names(call: str, given: dict[str, Any]) -> None:
    """Raises TypeError, naming the method and the nearest option there is."""
    for name in given:
        if name not in _NAMES and not (call == "infer" and name in _ALSO[call]):
            raise TypeError(f"{call}(): {unknown('option', name, (*_NAMES, *_ALSO[call]))}")


def seconds(value: float | None, name: str = "timeout") -> float | None:
    """How long to wait: 0 for a negative number, None for no end. Raises InvalidInput for what is no number."""
    if value is None:
        return None
    if not _is_number(value) or value != value:
        raise InvalidInput(f"{name}={value!r} is no number of seconds; write an int or a float, or None")
    return value if value > 0 else 0.0


def until(wait_s: float | None) -> float:
    """When a wait for room in the queue ends (monotonic); 0 without one. Raises InvalidInput."""
    return time.monotonic() + wait if (wait := seconds(wait_s, "wait_s")) else 0.0


def many(call: str, inputs: Any) -> Iterable[Any]:
    """The inputs of many jobs. Raises InvalidInput for what is one job's, which would fall apart into letters or names."""
    if isinstance(inputs, str | bytes | bytearray | memoryview | Mapping) or not hasattr(inputs, "__iter__"):
        raise InvalidInput(
            f"{call} takes an iterable of inputs, and one {type(inputs).__name__} came; put it in a list, or use submit"
        )
    return inputs  # type: ignore[no-any-return]


def keys_for(inputs: Iterable[Any], keys: Iterable[str] | None) -> Iterator[str] | None:
    """An idempotency key for each input. Raises InvalidInput when their numbers differ, here where both are known."""
    if keys is None:
        return None
    if isinstance(keys, str | bytes) or not hasattr(keys, "__iter__"):
        raise InvalidInput(f"idempotency_keys={keys!r} is not a list of keys; give one for each input")
    if isinstance(keys, Sized) and isinstance(inputs, Sized) and len(keys) != len(inputs):
        raise InvalidInput(f"{len(keys)} idempotency_keys for {len(inputs)} inputs; give one for each input")
    return _each(keys)


def _each(keys: Iterable[str]) -> Iterator[str]:
    yield from map(check_key, keys)
    raise InvalidInput("the idempotency_keys ended before the inputs; give one for each input")


def check_key(key: object) -> str:
    """Raises InvalidInput for an idempotency key that cannot be one."""
    if not isinstance(key, str) or not 0 < len(key) <= 512:
        raise InvalidInput("an idempotency key is a str of 1 to 512 characters; hash a longer one")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise InvalidInput("an idempotency key is not valid Unicode: it holds a lone surrogate; hash it") from None
    return key


def check_model(name: object) -> str:
    """Raises InvalidInput for a model that is no name: arguments in the wrong order, most of the time."""
    if not isinstance(name, str) or not name.isprintable():
        raise InvalidInput(f"the model is named first, by a str, and a {type(name).__name__} came; then the inputs")
    return name


def is_whole(value: object) -> bool:
    """Whether it is an int, numpy's included; True and False are not meant as numbers."""
    return type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))


def _is_number(value: object) -> bool:
    return type(value) in (int, float) or (isinstance(value, Real) and not isinstance(value, bool))


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind)  # what callers without a type checker hand in


PLAIN = Options.of()
