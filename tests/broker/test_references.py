"""References to bodies on the wire, and the places that may be configured: nothing a job says is ever a path or a URL."""

from __future__ import annotations

import pytest

from broker import bodies
from broker.bodies import Reference
from broker.connection import Link
from broker.errors import ConfigError, DecodeError
from tests.broker.actors import Client, Slot
from tests.broker.apart import job


@pytest.mark.parametrize(
    "reference",
    [
        Reference("redis", "../../etc/passwd", 1, 0),
        Reference("redis", "a/b-1", 1, 0),
        Reference("redis", "", 1, 0),
        Reference("../x", "a-1", 1, 0),
        Reference("redis", "a-1", 1 << 60, 0),
    ],
)
def test_a_reference_to_anything_but_a_name_is_refused(reference: Reference) -> None:
    with pytest.raises(DecodeError):
        bodies.decode(bodies.encode(reference))


def test_a_reference_comes_back_as_it_was_and_cut_short_is_refused() -> None:
    reference = bodies.refer("redis", "abc-1", b"data")
    raw = bodies.encode(reference)
    assert bodies.decode(raw) == reference
    for at in range(len(raw)):
        with pytest.raises(DecodeError):
            bodies.decode(raw[:at])


def test_a_body_that_is_not_what_was_written_is_told() -> None:
    reference = bodies.refer("redis", "abc-1", b"data")
    assert reference.fault(b"data") == ""
    assert "holds 3 bytes, 4 were written" in reference.fault(b"dat")
    assert "other bytes" in reference.fault(b"daTa")


def test_garbled_references_in_a_lane_break_no_script(client: Client, slot: Slot, link: Link) -> None:
    # given
    blob, _ = job(client)
    for cut in (1, 5, 20, len(blob) - 30, len(blob) - 1):
        link.call("XADD", slot.queue.lanes[1], "*", "b", blob[:cut])
    # when
    slot.sweep()
    claimed = slot.claimed()
    # then
    assert (len(claimed.jobs), len(claimed.broken)) == (0, 5)


@pytest.mark.parametrize("location", ["redis", "/dev/shm/penstock", "s3://bucket/prefix", "memory://x"])
def test_a_location_is_redis_a_folder_or_a_url(location: str) -> None:
    bodies.check_location("pool.toml", location)


@pytest.mark.parametrize("location", ["", "Redis", "var/bodies", "simplecache::s3://x", "://x", "s3://"])
def test_any_other_location_is_refused_with_the_mend(location: str) -> None:
    with pytest.raises(ConfigError, match="must be"):
        bodies.check_location("pool.toml", location)
