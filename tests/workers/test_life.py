"""One life of a slot from its lock to its exit code, with the model run inline, on a real Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker import keys, roster
from broker.connection import Link
from broker.queue import Queue
from broker.roster import Assignment
from broker.settings import Settings
from tests import models
from tests.wait import wait_until
from workers.exits import Exit
from workers.incarnation import Incarnation
from workers.life import Life
from workers.slot import Slot

Make = Callable[..., Life]


@pytest.fixture
def make(redis_url: str, link: Link, tmp_path: Path) -> Make:
    """Lives of slot 0 of host h, assigned the mlp model unless told otherwise."""
    models.mlp(tmp_path / "mlp")

    def make(assignment: Assignment | None = None) -> Life:
        raw: dict[str, Any] = {
            "redis": {"url": redis_url}, "slot": {"block_ms": 50},
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


def test_an_assignment_to_another_artifact_is_refused(make: Make, link: Link, tmp_path: Path) -> None:
    assert make(Assignment("other", str(tmp_path / "mlp"))).live() is Exit.LOAD_FAILED
    assert "the slot is assigned 'other'" in roster.slots(link)["h/0"]["reason"]


@pytest.mark.parametrize(("was_killed", "deliveries"), [(True, 2), (False, 1)])
def test_leases_left_behind_are_returned_and_marked_only_after_a_kill(
    make: Make, link: Link, tmp_path: Path, was_killed: bool, deliveries: int
) -> None:
    # given a life of this slot that served another model, held a lease of it, and is over
    before = Incarnation(tmp_path / "var", 0)
    before.begin("former")
    if not was_killed:
        before.end("redis_lost", is_fault=False)
    before.close()
    queue = Queue("former", f"h/0.{before.id}")
    queue.ensure_groups(link)
    link.call("XADD", queue.lanes[1], "*", "b", b"x")
    link.call("XREADGROUP", "GROUP", keys.GROUP, queue.consumer, "COUNT", 1, "STREAMS", queue.lanes[1], ">")

    run_until_ready(make(), link)

    ((_, consumer, _, count),) = link.call("XPENDING", queue.lanes[1], keys.GROUP, "-", "+", 10)
    assert (consumer, count) == (b"returned", deliveries)
    assert queue.consumers(link) == set()
    assert ("killed" in reasons(link)) is was_killed
