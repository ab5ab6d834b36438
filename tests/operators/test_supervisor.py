"""What is told to supervisord, and when; a real one stands in test_pool."""

from __future__ import annotations

import configparser
import xmlrpc.client

import pytest

from broker.settings import Settings
from operators import supervisor
from operators.supervisor import Supervisor
from tests.operators.conftest import ROOT


class Ending:
    """A supervisord that shuts down: it looks for ended children only when it is spoken to, and refuses what it is asked."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def getPID(self) -> int:
        return 1

    def shutdown(self) -> bool:
        return True

    def getState(self) -> None:
        self.looks -= 1
        if self.looks > 0:
            raise xmlrpc.client.Fault(6, "SHUTDOWN_STATE")
        raise FileNotFoundError("supervisor.sock")


def test_a_shutdown_is_waited_for_until_supervisord_has_killed_what_hangs() -> None:
    """What has another priority is stopped one after the other: with a Redis that hangs, runs take all of their time, then it."""
    conf = configparser.RawConfigParser(comment_prefixes=(";",), strict=False)
    conf.read(ROOT / "supervisord.conf")
    waits = [conf.getfloat(f"program:{name}", "stopwaitsecs") for name in ("runs", "redis")]
    assert waits == [supervisor.RUNS_END_WITHIN_S, supervisor.REDIS_ENDS_WITHIN_S]
    assert sum(waits) + 10 < supervisor.SHUTDOWN_TIMEOUT_S


def test_supervisord_is_spoken_to_until_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = Ending(looks=4)
    monkeypatch.setattr(supervisor, "is_alive", lambda pid: ending.looks > 0)
    monkeypatch.setattr(supervisor, "POLL_S", 0.001)
    monkeypatch.setattr(supervisor, "SHUTDOWN_TIMEOUT_S", 10.0)
    one = Supervisor(Settings())
    one._server = ending
    one.shutdown()
    assert ending.looks == 0
