"""A spec that an older version publishes over a newer one's: its slots read no body that stands apart, so none is asked for."""

from __future__ import annotations

import msgspec

from broker import keys, spec
from broker.connection import Link
from broker.spec import Limits, ModelSpec
from tests.broker.actors import MODEL

SHAPE = ModelSpec(name=MODEL, version="1", takes="bytes", inputs=(), outputs=(), max_rows=8)
LIMITS = Limits(max_jobs=10, max_bytes=1000, payload_limit_bytes=100, large_bytes=64, bodies="/dev/shm/penstock")


def test_a_version_before_that_publishes_again_ends_large_bodies_and_a_newer_one_begins_them_again(link: Link) -> None:
    # given
    spec.publish(link, SHAPE, LIMITS)
    assert spec.fetch(link, MODEL).limits == LIMITS
    # when: rolled back; it knows five fields
    link.call(
        "HSET", keys.spec(MODEL), "generation", "older", "body", msgspec.json.encode(SHAPE), "max_jobs", 10, "max_bytes", 1000,
        "payload_limit_bytes", 100,
    )  # fmt: skip
    # then
    assert spec.fetch(link, MODEL).limits == msgspec.structs.replace(LIMITS, large_bytes=0)
    spec.publish(link, SHAPE, LIMITS)
    assert spec.fetch(link, MODEL).limits == LIMITS


def test_publishing_what_is_published_writes_nothing(link: Link) -> None:
    spec.publish(link, SHAPE, LIMITS)
    link.call("HSET", keys.spec(MODEL), "max_jobs", 11)
    spec.publish(link, SHAPE, LIMITS)
    assert link.call("HGET", keys.spec(MODEL), "max_jobs") == b"11"
