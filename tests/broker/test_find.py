"""Finding a job by its id alone: page by page, each page bounded, none missed."""

from __future__ import annotations

import pytest

from broker.connection import Link
from broker.intake import Intake
from tests.broker.actors import Client, Sent, Slot


def page(client: Client, job: Sent, cursor: str = "-", *, entries: int = 2_000, size: int = 4 << 20) -> tuple[str, str]:
    command = list(client.intake.find(job.id, job.lane, cursor))
    command[-2:] = (entries, size)
    return client.intake.read_find(client.link.call(*command))


@pytest.mark.parametrize("lane", ["high", "normal", "low"])
def test_a_job_is_found_in_its_lane_by_its_id_alone(link: Link, client: Client, lane: str) -> None:
    # given
    jobs = client.submit(30, lane=lane)
    # then
    assert [page(client, job)[0] for job in jobs] == [job.entry for job in jobs]


def test_a_claimed_job_is_found_too(client: Client, slot: Slot) -> None:
    (job,) = client.submit(1)
    slot.claim()
    assert page(client, job)[0] == job.entry


def test_an_id_that_is_the_start_of_another_is_not_taken_for_it(client: Client) -> None:
    # given: ids that end in 1, 10 and 100
    jobs = client.submit(100)
    # then
    assert page(client, jobs[0])[0] == jobs[0].entry
    assert page(client, jobs[9])[0] == jobs[9].entry


def test_an_empty_lane_is_at_its_end_at_once(client: Client) -> None:
    assert page(client, Sent("a-1", 1, "", b"")) == ("", "")


@pytest.mark.parametrize("bound", [{"entries": 16}, {"size": 2_000}])
def test_a_page_is_bounded_and_paging_on_misses_none(client: Client, bound: dict[str, int]) -> None:
    # given: 100 jobs of some 50 bytes each
    jobs = client.submit(100)
    # when
    pages, cursor, entry = 0, "-", ""
    while cursor and not entry:
        entry, cursor = page(client, jobs[-1], cursor, **bound)
        pages += 1
    # then
    assert entry == jobs[-1].entry
    assert pages > 2


def test_one_large_job_ends_a_page(client: Client) -> None:
    # given
    client.submit(20, b"x" * 100_000)
    (last,) = client.submit(1)
    # when
    entry, cursor = page(client, last, size=100_000)
    # then: it read one stretch, and goes on behind it
    assert entry == ""
    assert cursor


def test_garbled_entries_are_passed_over(link: Link, client: Client) -> None:
    # given
    lane = Intake("tiny", "x")._lanes[1]
    for garbage in (b"", b"\x07", b"\x01\x00\xff\x00" + b"z" * 8):
        link.call("XADD", lane, "*", "b", garbage)
    (job,) = client.submit(1)
    # then
    assert page(client, job)[0] == job.entry
