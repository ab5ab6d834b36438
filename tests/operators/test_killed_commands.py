"""kill -9 of `drain` and `scale` at each step: what is wanted is what is assigned, as it was before or as it was to be."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker import roster
from broker.arrangement import arrange
from broker.connection import Link
from broker.packed import packed
from broker.roster import Assignment
from broker.settings import Settings
from broker.settings_tables import ModelSettings, PoolSettings, RedisSettings
from operators import pool
from operators.desk.draining import drain
from operators.desk.targets import Target

GIVEN = Assignment("tiny", "/tiny")


class Steps:
    """Counts what a process tells others, and ends it by SIGKILL at one: before a word of it, or in the middle."""

    def __init__(self, last: int, *, is_halfway: bool) -> None:
        self.left = last
        self.is_halfway = is_halfway

    def take(self, halfway: Callable[[], None]) -> None:
        self.left -= 1
        if self.left < 0:
            if self.is_halfway:
                halfway()
            os.kill(os.getpid(), signal.SIGKILL)


class Programs:
    """Stands for supervisord; each thing asked of it is a step."""

    steps: Steps

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def require(self) -> None: ...

    def start_slots(self, numbers: Iterable[int]) -> None:
        self.steps.take(lambda: None)

    stop_slots = start_slots


@pytest.fixture
def link(redis_url: str) -> Iterator[Link]:
    link = Link(redis_url)
    link.connect()
    yield link
    link.call("FLUSHALL")
    link.close()


@pytest.fixture
def settings(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(pool, "Supervisor", Programs)
    monkeypatch.setattr(pool, "check_artifact", lambda *_: None)
    return Settings(
        redis=RedisSettings(url=redis_url), pool=PoolSettings(var_dir=str(tmp_path), host="box", most_slots=6),
        models={"tiny": ModelSettings("/tiny", slots=3), "other": ModelSettings("/other")},
    )  # fmt: skip


def drained(settings: Settings) -> None:
    link = Link(settings.redis_url)
    link.connect()
    targets = [Target(number, "tiny", 7, True) for number in (0, 2)]
    supervisor: Any = Programs(settings)
    drain(settings, link, supervisor, targets, say=lambda _: None)


COMMANDS: dict[str, tuple[Callable[[Settings], Any], set[int]]] = {
    "drain": (drained, {1, 3}),
    "scale down": (lambda settings: pool.scale(settings, "tiny", 1), {0, 3}),
    "scale up": (lambda settings: pool.scale(settings, "tiny", 5), {0, 1, 2, 3, 4, 5}),
}


def is_killed(act: Callable[[Settings], Any], settings: Settings, steps: Steps) -> bool:
    """Runs it in a process of its own; whether that was killed at the step."""
    pid = os.fork()
    if not pid:
        send = Link.send

        def counted(self: Link, *commands: Any) -> None:
            sock = self._socket
            assert sock is not None
            steps.take(lambda: sock.sendall(packed(commands)[: len(packed(commands)) // 2]))
            send(self, *commands)

        code = 1
        try:
            Link.send = counted  # type: ignore[method-assign]
            Programs.steps = steps
            act(settings)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    ended = os.waitstatus_to_exitcode(status)
    assert ended in (0, -signal.SIGKILL)
    return ended != 0


@pytest.mark.parametrize("is_halfway", [False, True])
@pytest.mark.parametrize("name", COMMANDS)
def test_wanted_and_assigned_agree_wherever_a_command_is_killed(
    link: Link, settings: Settings, name: str, is_halfway: bool
) -> None:
    act, after = COMMANDS[name]
    seen: list[set[int]] = []
    step, goes_on = 0, True
    while goes_on:
        # given
        link.call("FLUSHALL")
        given = dict.fromkeys((0, 1, 2), GIVEN)
        arrange(link, "box", wanted={"tiny": 3, "other": 1}, assigned={**given, 3: Assignment("other", "/other")})
        # when
        goes_on = is_killed(act, settings, Steps(step, is_halfway=is_halfway))
        # then
        found = roster.assignments(link, "box")
        own = sum(one.model == "tiny" for one in found.values())
        assert (roster.wanted(link, "tiny"), roster.wanted(link, "other")) == ({"box": own}, {"box": 1}), f"at {step}"
        seen.append(set(found))
        step += 1
    turn = seen.index(after)
    assert seen == [{0, 1, 2, 3}] * turn + [after] * (len(seen) - turn), "one step, and no way back"
    assert 0 < turn < len(seen) - 1
