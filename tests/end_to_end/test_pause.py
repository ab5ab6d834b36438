"""`penstock pause` and `resume` on a whole pool: claiming stops and goes on, slots stay as they are, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from broker import audit, roster
from broker.connection import Link
from broker.settings import Settings
from operators import status
from producer import JobExpired, Producer, ResultTimeout
from tests.end_to_end.test_pool import counter, rows
from tests.operators.conftest import penstock as typed
from tests.wait import wait_until

Start = Callable[..., Settings]
Connect = Callable[[Settings], Link]


def penstock(chosen: Settings, *arguments: str) -> str:
    """The command as typed."""
    done = typed(*arguments, config=Path(chosen.path))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_paused_model_keeps_its_slots_and_its_jobs_and_serves_both_again(pooled: Start, pool_link: Connect) -> None:
    # given
    chosen = pooled()
    link = pool_link(chosen)
    with Producer(chosen.redis_url) as producer:
        producer.infer("mlp", rows(1)[0], 20)
        before = {name: state["pid"] for name, state in roster.slots(link).items()}

        def is_heard() -> bool:
            """No slot waits for normal jobs any more: those sent now stay where they are, and not because a slot is slow."""
            for handle in producer.submit_many("mlp", rows(3)):
                try:
                    handle.result(0.3)
                except ResultTimeout:
                    if handle.status() == "waiting":
                        continue
                return False
            return True

        # when one lane is paused, the others are served
        assert "mlp: paused (low)" in penstock(chosen, "pause", "mlp", "--lane", "low", "--reason", "try")
        wait_until(lambda: status.read(link, chosen).models[0].paused, "status shows it")
        producer.infer("mlp", rows(1)[0], 20, lane="high")
        # when all are
        penstock(chosen, "pause", "mlp", "--reason", "new weights")
        wait_until(is_heard, "both slots have heard of it")
        handles = producer.submit_many("mlp", rows(300))
        late = producer.submit("mlp", rows(1)[0], deadline_s=0.5)
        delayed = producer.submit("mlp", rows(1)[0], delay_s=0.2, lane="low")
        done = counter(link, "done")
        with pytest.raises(ResultTimeout, match=r"2 slots ready, .*paused by .* \(new weights\)"):
            handles[0].result(0.3)
        # then a deadline passes all the same, and nothing else moves
        with pytest.raises(JobExpired):
            late.result(20)
        wait_until(lambda: delayed.status() == "waiting", "the delayed job is due, and waits")
        assert counter(link, "done") == done
        assert len(roster.ready(link, "mlp")) == 2
        text = next(one for one in status.read(link, chosen).problems if "paused" in one.text)
        assert (text.level, text.mend) == ("warning", "penstock resume mlp")
        # when it is resumed
        assert "mlp: resumed" in penstock(chosen, "resume", "mlp")
        for handle in [*handles, delayed]:
            handle.result(20)
    # then everything was done once, by the slots that were there
    assert {name: state["pid"] for name, state in roster.slots(link).items()} == before
    seen = status.read(link, chosen)
    assert (seen.models[0].paused, seen.models[0].jobs) == ({}, 0)
    assert [act.command for act in audit.acts(link)][:3] == ["resume", "pause", "pause"]
