"""`penstock jobs`: the life of one job in each of its states, and lists of them, on a queue in a real Redis. Never a payload."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import keys, paused, roster
from broker.connection import Link
from broker.errors import InvalidInput
from operators.dead import letters
from operators.jobs import listing, trail
from operators.jobs.life import Life
from tests.broker.actors import MODEL, Client, Sent, Slot, publish
from tests.operators.conftest import Run

SECRET = b"a secret input of a job"


@pytest.fixture
def link(redis_url: str) -> Iterator[Link]:
    link = Link(redis_url)
    link.connect()
    link.call("FLUSHALL")
    publish(link)
    yield link
    link.close()


@pytest.fixture
def client(link: Link) -> Client:
    return Client(link)


@pytest.fixture
def slot(link: Link) -> Slot:
    """Slot 0 of a host, which also says how it is."""
    link.call(*roster.announce("box/0", {"model": MODEL, "state": "ready", "incarnation": "1"}))
    return Slot(link)


@pytest.fixture
def penstock(link: Link, redis_url: str, tmp_path: Path, typed: Run, monkeypatch: pytest.MonkeyPatch) -> Run:  # fmt: skip
    """The command as typed, in this process: (exit code, stdout, stderr)."""
    config = tmp_path / "pool.toml"
    config.write_text(f'[redis]\nurl = "{redis_url}"\n')
    monkeypatch.setenv("PENSTOCK_CONFIG", str(config))
    return typed


def life(link: Link, job: Sent | str) -> Life:
    return trail.show(link, f"{MODEL}:{job if isinstance(job, str) else job.id}")


def test_a_job_that_waits_tells_its_lane_its_place_and_its_deadline(link: Link, client: Client) -> None:
    client.submit(3)
    job = client.submit(1, SECRET, deadline_ms=60_000, retries=2)[0]
    found = life(link, job)
    assert (found.state, found.lane, found.ahead, found.attempt, found.retries) == ("waiting", "normal", 3, 1, 2)
    assert found.deadline_ms is not None
    assert 50_000 < found.deadline_ms - found.now_ms <= 60_000
    assert (found.slot, found.kind, found.rows, found.result_ttl_s) == (None, "bytes", 1, 60)


def test_a_job_that_is_claimed_tells_the_slot_that_holds_it_and_how_it_is(
    link: Link, client: Client, slot: Slot
) -> None:
    (job,) = client.submit(1)
    slot.claim()
    found = life(link, job)
    assert (found.state, found.slot, found.slot_state, found.crash_marks, found.note) == (
        "claimed",
        "box/0",
        "ready",
        0,
        "",
    )
    assert found.lease_idle_ms is not None
    assert found.lease_idle_ms < 5_000


def test_a_job_of_a_slot_that_ended_says_so(link: Link, client: Client) -> None:
    (job,) = client.submit(1)
    Slot(link, "box/7.old").claim()
    found = life(link, job)
    assert (found.state, found.slot, found.slot_state) == ("claimed", "box/7", "")
    assert "that slot has ended" in found.note


def test_a_job_that_was_given_back_waits_with_its_crash_marks(link: Link, client: Client, slot: Slot) -> None:
    (job,) = client.submit(1)
    slot.give_back(slot.claim(), marks=1)
    found = life(link, job)
    assert (found.state, found.crash_marks) == ("waiting", 1)
    assert "gave it back" in found.note


def test_a_job_that_waits_in_a_paused_lane_says_so(link: Link, client: Client) -> None:
    (job,) = client.submit(1, lane="low")
    paused.pause(link, MODEL, ["low"], paused.Pause(by="ann@box", reason="deploy", at_ms=1))
    assert life(link, job).note == "its lane is paused by ann@box: `penstock resume tiny --lane low`"


def test_a_job_that_failed_and_is_tried_again_tells_when(link: Link, client: Client, slot: Slot) -> None:
    (job,) = client.submit(1)
    slot.fail(slot.claim(), "retry", delay_ms=30_000)
    found = life(link, job)
    assert (found.state, found.is_retry, found.attempt, found.lane) == ("delayed", True, 2, "normal")
    assert found.due_ms is not None
    assert 20_000 < found.due_ms - found.now_ms <= 30_000
    # when: it is due
    link.call("ZADD", keys.delayed(MODEL), 1, job.id)
    slot.move()
    assert (life(link, job).state, life(link, job).attempt) == ("waiting", 2)


def test_a_job_that_was_sent_with_a_delay_is_no_retry(link: Link, client: Client) -> None:
    (job,) = client.submit(1, delay_ms=60_000)
    found = life(link, job)
    assert (found.state, found.is_retry, found.note) == ("delayed", False, "")


@pytest.mark.parametrize("end", ["done", "failed", "expired", "cancelled"])
def test_a_job_that_ended_tells_how_and_for_how_long_that_is_kept(
    link: Link, client: Client, slot: Slot, end: str
) -> None:
    (job,) = client.submit(1)
    if end == "done":
        slot.settle(slot.claim(), data=SECRET)
    elif end == "cancelled":
        client.cancel(job)
    else:
        slot.fail(slot.claim(), end)
    found = life(link, job)
    assert found.state == end
    assert found.expires_ms is not None
    assert 50_000 < found.expires_ms - found.now_ms <= 60_000
    assert (found.timings is not None, found.attempt) == (True, 1)
    assert found.error == {"done": None, "cancelled": "the job was cancelled"}.get(end, f"{end} on purpose")


def test_an_outcome_with_a_long_error_is_read_to_its_end(
    link: Link, client: Client, slot: Slot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.traces.HEAD_BYTES", 40)
    (job,) = client.submit(1)
    slot.fail(slot.claim(), "failed")
    assert life(link, job).error == "failed on purpose"


def test_a_dead_job_tells_where_its_letter_is_and_a_replay_where_it_stood_before(
    link: Link, client: Client, slot: Slot
) -> None:
    (job,) = client.submit(1)
    slot.fail(slot.claim(), "dead")
    found = life(link, job)
    assert (found.state, found.reason, found.error, found.lane) == ("dead", "test", "dead on purpose", "normal")
    assert f"penstock dead replay {MODEL}:{job.id}" in found.note
    # when
    (again,) = letters.replay(link, letters.find_all(link, [job.id]))
    # then: the new one knows the old one, and the old one the new
    new, old = trail.show(link, again.id), life(link, job)
    assert (new.state, new.replay_of.id, new.replay_of.state) == ("waiting", f"{MODEL}:{job.id}", "dead")  # type: ignore[union-attr]
    assert (old.state, [one.id for one in old.replays]) == ("dead", [again.id])
    # when: nothing but the replay remembers it
    link.call("DEL", keys.result(MODEL, job.id))
    assert (life(link, job).state, [one.id for one in life(link, job).replays]) == ("unknown", [again.id])


def test_a_dead_job_whose_outcome_is_gone_is_found_by_its_letter(link: Link, client: Client, slot: Slot) -> None:
    job, _ = client.submit(2)
    slot.fail(slot.claim(), "dead")
    link.call("DEL", keys.result(MODEL, job.id))
    assert (life(link, job).state, life(link, job).error) == ("dead", "dead on purpose")


def test_a_job_that_nobody_knows_is_unknown_and_says_what_that_may_mean(link: Link) -> None:
    found = life(link, "nobody-1")
    assert found.state == "unknown"
    assert "never accepted" in found.note
    assert "no model named 'nothing'" in trail.show(link, "nothing:nobody-1").note
    with pytest.raises(InvalidInput, match="is not a job id"):
        trail.show(link, "nonsense")


def test_a_job_far_back_is_found_over_pages_and_a_search_ends_in_time(
    link: Link, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.traces.PAGE_ENTRIES", 7)
    client.submit(100)
    (job,) = client.submit(1)
    assert life(link, job).ahead == 100
    clock = itertools.count()
    cut = trail.show(link, f"{MODEL}:{job.id}", search_s=2, clock=lambda: next(clock))
    assert (cut.state, "search on with --search-s" in cut.note) == ("unknown", True)


def test_a_job_whose_bytes_are_garbled_is_shown_by_what_is_known(link: Link) -> None:
    blob = b"\x09\x01\x05" + bytes(13) + b"abc-1" + b"rest"
    link.call("XADD", keys.lane(MODEL, "low"), "*", "b", blob)
    found = life(link, "abc-1")
    assert (found.state, found.lane) == ("waiting", "low")
    assert "garbled" in found.note


def test_lists_are_of_a_state_and_bounded(link: Link, client: Client, slot: Slot) -> None:
    client.submit(3, lane="low")
    claimed = slot.claim(2)
    client.submit(1, delay_ms=60_000)
    client.submit(2, lane="high")
    returned = client.submit(1, lane="high")[0]
    slot.give_back([job for job in slot.claim(3) if job.id == returned.id])

    def listed(state: listing.State | None = None, limit: int = 50) -> list[tuple[str, str, str]]:
        return [(one.state, one.lane, one.slot) for one in listing.listed(link, MODEL, state, limit=limit)[1]]

    assert listed("claimed") == [("claimed", "high", "box/0")] * 2 + [("claimed", "low", "box/0")] * 2
    assert listed("waiting") == [("waiting", "high", ""), ("waiting", "low", "")]
    assert listed("delayed") == [("delayed", "normal", "")]
    assert len(listed()) == 7
    assert len(listed(limit=5)) == 5
    slot.fail(claimed, "dead")
    assert listed("dead") == [("dead", "low", "")] * 2


def test_the_commands_print_the_life_and_never_the_payload(
    penstock: Run, link: Link, client: Client, slot: Slot
) -> None:
    waits, dies = client.submit(2, SECRET)
    slot.fail([job for job in slot.claim() if job.id == dies.id], "dead")
    done = client.submit(1, SECRET)[0]
    slot.settle(slot.claim(), data=SECRET)
    printed = ""
    for job in (waits, dies, done):
        for options in ([], ["--json"]):
            code, out, err = penstock("jobs", "show", f"{MODEL}:{job.id}", *options)
            assert (code, err) == (0, "")
            printed += out
    for state in listing.STATES:
        code, out, _ = penstock("jobs", "ls", MODEL, "--state", state, "--json")
        assert code == 0
        printed += out
        printed += penstock("jobs", "ls", MODEL, "--state", state)[1]
    assert "claimed" in printed
    assert "dead on purpose" in printed
    assert "secret" not in printed


def test_an_unknown_job_is_told_with_exit_code_1_and_an_unknown_model_names_the_nearest(penstock: Run) -> None:
    code, out, _ = penstock("jobs", "show", f"{MODEL}:nobody-1", "--json")
    assert (code, json.loads(out)["state"]) == (1, "unknown")
    code, _, err = penstock("jobs", "ls", "tiyn")
    assert (code, err) == (1, 'error: unknown model "tiyn"; did you mean "tiny"?\n')
