"""A death is told at once, whose child it ever was, and only those asked for."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator

import pytest

from broker.errors import SupervisorError
from operators.deaths import Deaths


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def told() -> threading.Event:
    return threading.Event()


@pytest.fixture
def deaths(told: threading.Event) -> Iterator[Deaths]:
    deaths = Deaths(wake=told.set)
    deaths.start()
    yield deaths
    deaths.stop()
    assert not deaths.is_alive()


def test_a_death_wakes_though_it_is_watched_only_while_the_thread_waits(
    deaths: Deaths, told: threading.Event, sleeper: subprocess.Popen[bytes]
) -> None:
    deaths.watch([sleeper.pid])
    assert not told.wait(0.05)
    sleeper.kill()
    assert told.wait(5)


def test_a_process_no_longer_asked_for_wakes_nobody(
    deaths: Deaths, told: threading.Event, sleeper: subprocess.Popen[bytes]
) -> None:
    deaths.watch([sleeper.pid])
    deaths.watch([])
    sleeper.kill()
    sleeper.wait()
    assert not told.wait(0.1)


@pytest.mark.parametrize("error", [SupervisorError("away"), KeyError("nobody foresaw this")])
def test_a_process_that_has_gone_and_a_supervisord_that_does_not_answer_end_nothing(
    sleeper: subprocess.Popen[bytes], error: Exception
) -> None:
    tried = threading.Event()

    def wake() -> None:
        tried.set()
        raise error

    deaths = Deaths(wake=wake)
    deaths.start()
    deaths.watch([sleeper.pid, 2**22 + 1])
    sleeper.kill()
    assert tried.wait(5)
    deaths.join(0.05)
    assert deaths.is_alive()
    deaths.stop()
