"""The agent's second thread while Redis or supervisord is away."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from broker.connection import Link
from broker.errors import SupervisorError
from broker.settings import PoolSettings, RedisSettings, Settings
from operators import agent
from operators.deaths import Deaths
from operators.rounds import Rounds
from tests.operators.conftest import wait_until


def settings(url: str, folder: Path) -> Settings:
    return Settings(redis=RedisSettings(url=url), pool=PoolSettings(var_dir=str(folder), host="box"))


def test_it_goes_on_without_redis_and_a_storm_of_events_makes_no_tight_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries, connect = [0], Link.connect

    def counted(self: Link) -> None:
        tries[0] += 1
        connect(self)

    monkeypatch.setattr(Link, "connect", counted)
    rounds, _ = agent.build(settings("unix:///nowhere/redis.sock", tmp_path), Deaths(wake=list))
    rounds.start()
    is_over = threading.Event()
    for _ in range(100):  # a second's worth of events
        rounds.hasten()
        is_over.wait(0.005)
    assert rounds.is_alive()
    assert 1 <= tries[0] <= 6
    rounds.stop()
    assert not rounds.is_alive()


def test_it_beats_and_serves_models_while_supervisord_does_not_answer(redis_url: str, tmp_path: Path) -> None:
    link = Link(redis_url)
    link.connect()
    link.call("FLUSHALL")
    rounds, _ = agent.build(settings(redis_url, tmp_path), Deaths(wake=list))
    rounds._link.connect()
    with pytest.raises(SupervisorError, match="no answer from supervisord"):
        rounds.round(0.0)
    assert link.call("DBSIZE") == 1, "its own sign of life and nothing else"
    rounds.start()
    wait_until(rounds.is_alive)
    rounds.stop()
    link.close()


def test_a_round_that_fails_for_a_reason_nobody_foresaw_is_not_the_last(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds, _ = agent.build(settings(redis_url, tmp_path), Deaths(wake=list))
    calls: list[float] = []

    def fail(self: Rounds, now: float) -> Any:
        calls.append(now)
        self.hasten()
        raise KeyError("nobody foresaw this")

    monkeypatch.setattr(Rounds, "round", fail)
    rounds.start()
    wait_until(lambda: len(calls) >= 2)
    rounds.stop()
