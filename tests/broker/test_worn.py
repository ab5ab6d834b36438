"""Jobs that one more crash mark ends: claimed alone, and not even decoded once they have it."""

from __future__ import annotations

from broker import codec, keys
from broker.claimed import MOST_MARKS
from broker.connection import Link
from broker.messages import Kind
from broker.queue import Queue

DEAD, HEIR = Queue("m", "box/0.1"), Queue("m", "box/0.2")


def blob(job_id: str) -> bytes:
    head, tail = codec.encode_job_head(
        kind=Kind.BYTES, rows=1, is_one_row=True, is_stored=False, retries=0, result_ttl_s=60, descriptor=b"",
        context=None,
    )  # fmt: skip
    return codec.encode_job(head, job_id.encode(), tail, b"x")


def hold(link: Link, *deliveries: int, lane: int = 1) -> None:
    """Returned leases with these delivery counts, in that order."""
    DEAD.ensure_groups(link)
    for number, count in enumerate(deliveries):
        entry = link.call("XADD", DEAD.lanes[lane], "*", "b", blob(f"c-{lane}{number}"))
        link.call("XREADGROUP", "GROUP", keys.GROUP, DEAD.consumer, "STREAMS", DEAD.lanes[lane], ">")
        link.call(
            "XCLAIM", DEAD.lanes[lane], keys.GROUP, keys.RETURNED, 0, entry, "RETRYCOUNT", count, "JUSTID"
        )  # fmt: skip


def claim(link: Link, room: int = 10) -> tuple[list[str], list[str]]:
    """Ids of the jobs that came, and of those that are at their end."""
    claimed = HEIR.read_claim(link.call(*HEIR.claim(room)))
    return [job.id for job in claimed.jobs], [lease.id for lease in claimed.broken]


def test_a_job_that_one_more_mark_ends_is_claimed_alone(link: Link) -> None:
    hold(link, MOST_MARKS, 2, MOST_MARKS, 1)
    assert claim(link) == (["c-10"], [])
    assert claim(link) == (["c-11", "c-13"], []), "not together with what has a claim of its own"
    assert claim(link) == (["c-12"], [])
    assert claim(link) == ([], [])


def test_nothing_fresh_comes_with_it_and_no_lane_hides_another(link: Link) -> None:
    hold(link, MOST_MARKS, lane=2)
    hold(link, 1, lane=0)
    assert claim(link) == (["c-00"], [])
    link.call("XADD", HEIR.lanes[0], "*", "b", blob("c-fresh"))
    assert claim(link) == (["c-20"], [])
    assert claim(link) == (["c-fresh"], [])


def test_a_job_past_its_last_mark_is_not_decoded(link: Link) -> None:
    hold(link, MOST_MARKS + 1, MOST_MARKS + 1, 1)
    claimed = HEIR.read_claim(link.call(*HEIR.claim(10)))
    assert [job.id for job in claimed.jobs] == ["c-12"]
    assert [(lease.id, lease.reason, lease.deliveries) for lease in claimed.broken] == [
        ("c-10", "crash_marks", 4), ("c-11", "crash_marks", 4),
    ]  # fmt: skip
    assert claimed.broken[0].error == "3 slots or engines died while they held this job"
