"""One life of a slot from its lock to its exit code, with the model run inline, on a real Redis."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker import keys, roster, spec, timetable
from broker.connection import Link
from broker.errors import ConfigError, RedisUnavailable
from broker.queue import Queue
from broker.roster import Assignment
from broker.settings import Settings
from broker.settings_tables import RedisSettings
from operators import status
from tests import models
from tests.wait import wait_until
from tests.workers.test_blame import jobs
from workers.blame import Blame
from workers.engine_client import InlineEngine
from workers.exits import Exit
from workers.incarnation import Incarnation
from workers.life import Life
from workers.slot import Slot
from workers.take_over import take_over
from workers.waits import Stopped

Make = Callable[..., Life]


@pytest.fixture
def make(redis_url: str, link: Link, tmp_path: Path) -> Make:
    """Lives of slot 0 of host h, assigned the mlp model unless told otherwise."""
    models.mlp(tmp_path / "mlp")

    def make(assignment: Assignment | None = None, *, bodies: str = "redis") -> Life:
        raw: dict[str, Any] = {
            "redis": {"url": redis_url}, "slot": {"block_ms": 50}, "queue": {"bodies": bodies},
            "pool": {"var_dir": str(tmp_path / "var"), "host": "h"},
            "models": {"mlp": {"artifact": str(tmp_path / "mlp")}},
        }  # fmt: skip
        roster.assign(link, "h", 0, assignment or Assignment("mlp", str(tmp_path / "mlp")))
        return Life(msgspec.convert(raw, Settings), 0, is_inline=True)

    return make


def run_until_ready(life: Life, link: Link) -> Exit:
    """Lives, is ready, is asked to stop."""
    ended: list[Exit] = []
    thread = threading.Thread(target=lambda: ended.append(life.live()))
    thread.start()
    wait_until(lambda: roster.ready(link, "mlp"), "the slot is ready", timeout=10)
    life.stop()
    thread.join(20)
    return ended[0]


def reasons(link: Link) -> list[str]:
    return [one.reason for one in roster.exits(link)]


def test_a_life_that_is_asked_to_stop_drains_and_says_so(make: Make, link: Link) -> None:
    assert run_until_ready(make(), link) is Exit.DRAINED
    assert reasons(link) == ["drained"]
    assert roster.ready(link, "mlp") == []


def test_a_life_that_leaves_does_not_publish_over_its_successors_limits(make: Make, link: Link) -> None:
    # given an idle slot, and a successor that has published other limits
    life = make()
    thread = threading.Thread(target=life.live)
    thread.start()
    wait_until(lambda: roster.ready(link, "mlp"), "the slot is ready", timeout=10)
    published = spec.fetch(link, "mlp")
    spec.publish(link, published.spec, msgspec.structs.replace(published.limits, max_jobs=7))
    # when it is asked to stop in its blocked read, which it ends by connecting anew
    life.stop()
    thread.join(20)
    # then
    assert spec.fetch(link, "mlp").limits.max_jobs == 7


def test_a_loop_that_raises_ends_the_life_with_a_named_code(
    make: Make, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: Slot) -> None:
        raise RuntimeError("nobody foresaw\nthis")

    monkeypatch.setattr(Slot, "run", run)
    life = make()
    assert life.live() is Exit.CRASHED
    (exit,) = roster.exits(link)
    assert (exit.reason, exit.detail) == ("crashed", "RuntimeError: nobody foresaw this")
    assert life.beat is not None
    assert not life.beat.is_alive()
    assert make().live() is Exit.CRASHED, "the next life gets the lock: nothing of the one before is left"


def test_a_model_that_cannot_be_served_says_why(make: Make, link: Link, tmp_path: Path) -> None:
    (tmp_path / "mlp" / "model.onnx").write_bytes(b"altered")
    assert make().live() is Exit.LOAD_FAILED
    state = roster.slots(link)["h/0"]
    assert state["state"] == "failing"
    assert "penstock models seal" in state["reason"]
    assert link.call("ZCARD", keys.failing("mlp")) == 1, "others must not retire meanwhile"


def test_a_store_of_large_bodies_that_cannot_be_used_is_the_reason_that_status_shows(
    make: Make, link: Link, tmp_path: Path
) -> None:
    # given
    (tmp_path / "file").write_text("")
    bodies = f"{tmp_path}/file/bodies"
    assert make(bodies=bodies).live() is Exit.MISCONFIGURED
    # when the next life backs off
    life = make(bodies=bodies)
    thread = threading.Thread(target=life.live)
    thread.start()
    wait_until(lambda: roster.slots(link)["h/0"].get("reason", "").endswith("(last: misconfigured)"), "it backs off")
    found = status.read(link, life.settings)
    life.stop()
    thread.join(20)
    # then
    (said,) = [one.text for one in found.problems if "backing off" in one.text]
    assert f"(last: misconfigured): queue.bodies: large bodies stand in the folder {bodies}, which cannot be" in said


def test_an_assignment_to_another_artifact_is_refused(make: Make, link: Link, tmp_path: Path) -> None:
    assert make(Assignment("other", str(tmp_path / "mlp"))).live() is Exit.LOAD_FAILED
    assert "the slot is assigned 'other'" in roster.slots(link)["h/0"]["reason"]


@pytest.mark.parametrize(("was_killed", "deliveries"), [(True, [2, 1]), (False, [1, 1])])
def test_leases_left_behind_are_returned_and_only_those_in_the_engine_are_marked_after_a_kill(
    make: Make, link: Link, tmp_path: Path, was_killed: bool, deliveries: list[int]
) -> None:
    # given a life of this slot that served another model, held two leases of it, one in its engine, and is over
    before = end_with_leases(tmp_path / "var", link, in_engine=1, was_killed=was_killed)

    run_until_ready(make(), link)

    pending = link.call("XPENDING", before.lanes[1], keys.GROUP, "-", "+", 10)
    assert [(lease[1], lease[3]) for lease in pending] == [(b"returned", count) for count in deliveries]
    assert before.consumers(link) == set()
    assert ("killed" in reasons(link)) is was_killed


def end_with_leases(var: Path, link: Link, *, in_engine: int, was_killed: bool = True, of: str = "former") -> Queue:
    """A life that is over and held what there is, the first `in_engine` jobs in its engine; two jobs are added if none is."""
    life, blame = Incarnation(var, 0), Blame(var, 0)
    life.begin(of)
    life.settled()  # so that the next one does not back off
    blame.begin(life.id)
    queue = Queue(of, f"h/0.{life.id}")
    queue.ensure_groups(link)
    lane = queue.lanes[1]
    if not link.call("XLEN", lane):
        for _ in range(2):
            link.call("XADD", lane, "*", "b", b"x")
        link.call("XREADGROUP", "GROUP", keys.GROUP, queue.consumer, "STREAMS", lane, ">")
    held = [entry for entry, _ in link.call("XRANGE", lane, "-", "+")]
    for lease in link.call("XPENDING", lane, keys.GROUP, "-", "+", 10):
        link.call("XCLAIM", lane, keys.GROUP, queue.consumer, 0, lease[0], "RETRYCOUNT", lease[3], "JUSTID")
    if in_engine:
        blame.note(1, jobs(*((1, entry) for entry in held[:in_engine])))
    if not was_killed:
        blame.clear()
        life.end("redis_lost", is_fault=False)
    blame.close()
    life.close()
    return queue


def test_a_slot_killed_with_an_idle_engine_blames_only_what_two_kills_in_a_row_held(
    make: Make, link: Link, tmp_path: Path
) -> None:
    for kill, deliveries in enumerate(([1, 1], [2, 2], [2, 2]), start=1):
        queue = end_with_leases(tmp_path / "var", link, in_engine=0)
        take_over_as_next(tmp_path / "var", link, queue.model)
        pending = link.call("XPENDING", queue.lanes[1], keys.GROUP, "-", "+", 10)
        assert [lease[3] for lease in pending] == deliveries, f"after kill {kill}"
        if kill == 2:  # a life in between ends with its word: suspicion ends too
            end_with_leases(tmp_path / "var", link, in_engine=0, was_killed=False)
            take_over_as_next(tmp_path / "var", link, queue.model)


def take_over_as_next(var: Path, link: Link, model: str) -> None:
    """The next life takes over, and is killed in its turn."""
    life, blame = Incarnation(var, 0), Blame(var, 0)
    take_over(link, [Queue(model, f"h/0.{life.id}")], slot="h/0", incarnation=life, blame=blame)
    blame.begin(life.id)
    blame.close()
    life.close()


def test_kills_of_an_idle_slot_are_no_reason_to_back_off_and_those_of_a_busy_one_are(
    link: Link, tmp_path: Path
) -> None:
    var = tmp_path / "var"

    def killed(*, holding: bool) -> float:
        """The back-off of the life after one that is killed while ready."""
        life, blame = Incarnation(var, 0), Blame(var, 0)
        queue = Queue("former", f"h/0.{life.id}")
        queue.ensure_groups(link)
        take_over(link, [queue], slot="h/0", incarnation=life, blame=blame)
        life.begin("former")
        blame.begin(life.id)
        life.ready()
        if holding:
            link.call("XADD", queue.lanes[1], "*", "b", b"x")
            link.call("XREADGROUP", "GROUP", keys.GROUP, queue.consumer, "STREAMS", queue.lanes[1], ">")
        blame.close()
        life.close()
        return life.back_off_s()

    assert [killed(holding=False) for _ in range(4)] == [0.0] * 4
    assert [killed(holding=True) for _ in range(3)] == [0.0, 1.0, 2.0]


def test_a_life_that_was_ready_for_a_while_without_a_job_is_a_good_one(
    make: Make, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.beat.STEADY_S", 0.0)
    life = make()
    thread = threading.Thread(target=life.live)
    thread.start()
    try:
        wait_until(lambda: roster.ready(link, "mlp"), "the slot is ready", timeout=10)
        wait_until(lambda: life.incarnation.note.has_settled, "that is noted")
        assert life.incarnation.note.was_ready
    finally:
        life.stop()
        thread.join(20)


def test_a_life_that_never_reached_redis_leaves_its_word(make: Make, link: Link, tmp_path: Path) -> None:
    life = make()
    life.settings = msgspec.structs.replace(life.settings, redis=RedisSettings(url="unix:///nowhere/redis.sock"))
    life.stop()
    with pytest.raises(Stopped):
        life.live()
    after = Incarnation(tmp_path / "var", 0)
    assert (after.before.exit, after.was_killed, after.back_off_s()) == ("drained", False, 0.0)
    after.close()


def test_a_life_for_which_redis_stays_away_leaves_its_word_and_the_page_of_the_life_before(
    make: Make, link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.life.REDIS_PATIENCE_S", 0.05)
    end_with_leases(tmp_path / "var", link, in_engine=1)
    life = make()
    life.settings = msgspec.structs.replace(life.settings, redis=RedisSettings(url="unix:///nowhere/redis.sock"))
    with pytest.raises(RedisUnavailable):
        life.live()
    after, blame = Incarnation(tmp_path / "var", 0), Blame(tmp_path / "var", 0)
    assert (after.before.exit, after.back_off_s()) == ("redis_lost", 0.0)
    assert len(blame.read()[1]) == 1, "who was in the engine is known still"
    blame.close()
    after.close()


def test_a_life_that_is_stopped_before_it_took_over_keeps_the_page_of_the_life_before(
    make: Make, link: Link, tmp_path: Path
) -> None:
    end_with_leases(tmp_path / "var", link, in_engine=1)
    life = make()
    roster.assign(link, "h", 0, None)
    life.stop()
    assert life.live() is Exit.DRAINED
    blame = Blame(tmp_path / "var", 0)
    assert len(blame.read()[1]) == 1, "who was in the engine is known still"
    blame.close()


def test_a_failing_disk_under_the_page_is_named_and_is_no_kill(make: Make, link: Link, tmp_path: Path) -> None:
    (tmp_path / "var" / "slot-0.batch").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"cannot write .*slot-0\.batch"):
        make().live()
    after = Incarnation(tmp_path / "var", 0)
    assert (after.before.exit, after.back_off_s()) == ("misconfigured", 1.0)
    after.close()


def test_an_engine_that_survives_sigkill_quarantines_its_device_until_it_is_gone(
    make: Make, link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given an engine that cannot be killed, here a process of the test's own
    stuck = subprocess.Popen(["sleep", "60"])
    try:
        with monkeypatch.context() as patch:
            patch.setattr(InlineEngine, "kill", lambda self: False)
            patch.setattr(InlineEngine, "pid", stuck.pid)
            patch.setattr("workers.custody.end_engine", lambda pid, started: False)
            life = make()
            run_until_ready(life, link)
            assert life.custody.is_left
            state = roster.slots(link)["h/0"]
            assert state["state"] == "failing"
            assert f"quarantined: engine PID {stuck.pid} survives SIGKILL" in state["reason"]
            # then no engine is started while it lives
            assert make().live() is Exit.LOAD_FAILED
            assert f"quarantined: engine PID {stuck.pid}" in roster.slots(link)["h/0"]["reason"]
    finally:
        stuck.kill()
        stuck.wait()
    assert run_until_ready(make(), link) is Exit.DRAINED


def test_a_slot_that_loses_redis_before_its_loop_ends_by_name_with_bodies_in_a_folder_too(
    make: Make, link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise ConnectionResetError("Connection reset by peer")

    # given: what knows of bodies' removal is built, and not started yet
    monkeypatch.setattr(timetable, "load", lost)
    # when
    ended = make(bodies=f"{tmp_path}/bodies").live()
    # then
    assert ended is Exit.REDIS_LOST
