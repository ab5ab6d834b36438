"""What `status`, `top`, `jobs` and `audit` read, as the roles they read it in, on both servers; the monitor sees no result."""

from __future__ import annotations

from broker import audit, keys
from broker.settings import RedisSettings, Settings
from operators import status
from operators.jobs import listing, trail
from operators.top.frame import make
from tests.broker.actors import BUNCH, FIRST_BUNCHED, MODEL, Client, Slot, publish
from tests.security.conftest import Guarded, Role


def test_the_monitor_sees_everything_but_how_a_job_ended(guarded: Guarded, role: Role) -> None:
    # given: a job that is done, one that waits, one that is claimed, one that is delayed, one that is dead
    worker, operator = role("worker"), role("operator")
    publish(worker)
    slot, client = Slot(worker), Client(role("producer"))
    done, dies, claimed, *bunch = client.submit(FIRST_BUNCHED + BUNCH - 1)
    first, second, _, *others = slot.claim()
    slot.settle([first])
    slot.settle(others)
    slot.fail([second], "dead")
    (waits,) = client.submit(1)
    (delayed,) = client.submit(1, delay_ms=60_000)
    audit.record(operator, "scale", "tiny")
    monitor = role("monitor")
    guarded.admin.call("ACL", "LOG", "RESET")
    # then
    seen = status.read(monitor, Settings(redis=RedisSettings(url=guarded.url)))
    assert make(seen).models[0].claimed == 1
    states = [trail.show(monitor, f"{MODEL}:{one.id}").state for one in (claimed, waits, delayed)]
    assert states == ["claimed", "waiting", "delayed"]
    assert [one.state for one in listing.listed(monitor, MODEL, "dead", limit=9)[1]] == ["dead"]
    assert len(listing.listed(monitor, MODEL, limit=9)[1]) == 3
    assert audit.acts(monitor)[0].command == "scale"
    assert set(guarded.denials()) == {"monitor: command getrange", "monitor: command lrange"}
    found = trail.show(monitor, f"{MODEL}:{done.id}")
    assert (found.state, found.expires_ms is not None) == ("ended", True)
    assert "may not read results" in found.note
    hidden = trail.show(monitor, f"{MODEL}:{bunch[-1].id}")
    assert (hidden.state, hidden.note) == (
        "unknown", "not in the queue; an outcome of it may be kept among results, which this user may not read",
    )  # fmt: skip
    # then: the operator sees that too
    told = trail.show(operator, f"{MODEL}:{bunch[-1].id}")
    assert (told.state, told.is_stored, told.expires_ms is not None) == ("done", True, True)
    assert trail.show(operator, f"{MODEL}:{done.id}").state == "done"
    assert trail.show(operator, f"{MODEL}:{dies.id}").reason == "test"
    assert operator.call("GETRANGE", keys.result(MODEL, done.id), 0, 0)
