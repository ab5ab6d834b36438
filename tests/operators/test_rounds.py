"""The agent's second thread while Redis or supervisord is away."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from broker import autoscale, keys, roster
from broker.arrangement import arrange
from broker.autoscale import Override
from broker.connection import Link, ResponseError
from broker.errors import SupervisorError
from broker.roster import Assignment
from broker.settings import Settings
from broker.settings_tables import PoolSettings, RedisSettings
from operators import agent, hardware
from operators.agent_view import look
from operators.deaths import Deaths
from operators.hardware import Gpu, Hardware
from operators.places import Action, Place, Seen
from operators.rounds import Rounds
from operators.supervisor import Program
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


def test_an_action_that_redis_refuses_does_not_stop_the_others_of_its_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds, _ = agent.build(settings("unix:///nowhere/redis.sock", tmp_path), Deaths(wake=list))
    done: list[int] = []

    def act(self: Rounds, action: Action) -> None:
        if action.number == 0:
            raise ResponseError("OOM command not allowed when used memory > 'maxmemory'.")
        done.append(action.number)

    monkeypatch.setattr(Rounds, "_act", act)
    rounds._do([Action("assign", 0), Action("start", 0), Action("start", 1)], 0.0)
    assert done == [1]


@pytest.mark.parametrize("said", [{}, {"tiny": 0}, {"tiny": 2}])
def test_assignments_are_missed_only_while_wanted_has_no_word_of_this_host(
    redis_url: str, tmp_path: Path, said: dict[str, int]
) -> None:
    # given
    rounds, _ = agent.build(settings(redis_url, tmp_path), Deaths(wake=list))
    rounds._link.connect()
    rounds._link.call("FLUSHALL")
    given = Assignment("tiny", "/tiny")
    kept = rounds._kept
    kept.keep(rounds._link, Seen(1, {n: Place(n, "RUNNING", assignment=given) for n in (0, 1)}))
    # when they are gone, for however long
    for model, count in said.items():
        roster.want(rounds._link, "box", model, count)
    for at in (2, 1_000_000):
        kept.keep(rounds._link, Seen(at, {0: Place(0, "RUNNING"), 1: Place(1, "RUNNING")}))
    rounds._give_back()
    # then
    assert roster.assignments(rounds._link, "box") == ({} if said else {0: given, 1: given})
    assert roster.wanted(rounds._link, "tiny") == ({"box": said["tiny"]} if said else {"box": 2})
    rounds._link.close()


class Programs:
    """As supervisord tells of two slots that run."""

    def __init__(self, chosen: Settings) -> None:
        self.settings = chosen

    def slots(self) -> dict[int, Program]:
        return {number: Program(f"slot_{number:02d}", "RUNNING", 0, 50, "") for number in (0, 1)}


def test_what_an_operator_said_of_autoscaling_is_given_back_with_the_assignments(
    redis_url: str, tmp_path: Path
) -> None:
    # given
    chosen = settings(redis_url, tmp_path)
    rounds, _ = agent.build(chosen, Deaths(wake=list))
    link, kept = rounds._link, rounds._kept
    link.connect()
    link.call("FLUSHALL")
    off, bound = Override(is_off=True), Override(most=3)
    programs: Any = Programs(chosen)
    arrange(link, "box", wanted={"tiny": 2}, assigned=dict.fromkeys((0, 1), Assignment("tiny", "/tiny")))
    for model in ("tiny", "small"):
        autoscale.override(link, "box", model, off)
    kept.keep(link, look(link, programs, 1))
    # when it is emptied, and an operator was quicker with one
    link.call("FLUSHALL")
    autoscale.override(link, "box", "small", bound)
    kept.keep(link, look(link, programs, 2))
    rounds._give_back()
    # then
    assert autoscale.overrides(link, "box") == {"tiny": off, "small": bound}
    assert roster.wanted(link, "tiny") == {"box": 2}
    # when one is taken away, it does not come back
    autoscale.override(link, "box", "tiny", Override())
    kept.keep(link, look(link, programs, 3))
    link.call("FLUSHALL")
    kept.keep(link, look(link, programs, 4))
    rounds._give_back()
    assert autoscale.overrides(link, "box") == {"small": bound}
    # when the key is garbled, the look goes on
    link.call("DEL", keys.autoscale("box"))
    link.call("SET", keys.autoscale("box"), "nonsense")
    assert look(link, programs, 5).overrides == {}
    link.call("FLUSHALL")
    link.close()


def test_a_look_tells_an_emptied_redis_from_a_pool_whose_slots_were_all_taken_away(
    redis_url: str, tmp_path: Path
) -> None:
    chosen = settings(redis_url, tmp_path)
    programs: Any = Programs(chosen)
    link = Link(redis_url)
    link.connect()
    link.call("FLUSHALL")
    link.call("SADD", keys.models(), "tiny")  # slots publish their model again by themselves
    assert not look(link, programs, 1).is_meant
    roster.want(link, "other", "tiny", 2)
    assert not look(link, programs, 2).is_meant
    roster.want(link, "box", "tiny", 0)
    assert look(link, programs, 3).is_meant
    link.call("FLUSHALL")
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


def test_after_redis_stood_still_the_agent_sweeps_nobody_before_all_could_renew(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds, _ = agent.build(settings(redis_url, tmp_path), Deaths(wake=list))
    rounds._link.connect()
    at, beat_agent = [100.0], roster.beat_agent
    rounds._clock = lambda: at[0]

    def slow(link: Link, host: str, state: dict[str, str | int]) -> int:
        at[0] += 5.0
        return beat_agent(link, host, state)

    monkeypatch.setattr(roster, "beat_agent", slow)
    with pytest.raises(SupervisorError):
        rounds.round(100.0)
    assert rounds._next_sweep == 105.0 + rounds._settings.slot.lease_s
    rounds._link.close()


def test_its_beat_tells_of_the_host_s_gpus(redis_url: str, tmp_path: Path) -> None:
    link = Link(redis_url)
    link.connect()
    gpus = Hardware("580", (Gpu("GPU-a", "H200", 5, 4),))
    rounds, _ = agent.build(settings(redis_url, tmp_path), Deaths(wake=list), gpus=lambda: gpus)
    rounds._link.connect()
    with pytest.raises(SupervisorError):
        rounds.round(0.0)
    assert hardware.decode(roster.agent(link, "box")["devices"]) == gpus
    rounds._link.close()
    link.close()
