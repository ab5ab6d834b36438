"""`python -m tests.chaos.slot --slot N`: a real slot whose engine runs the fake model, and which dies where it is told to.

A file in CHAOS_FAULTS named after a point of the loop is the order; whoever removes it carries it out, once, by SIGKILL.
"""

from __future__ import annotations

POINTS = ("after_read", "before_forward", "after_forward", "inside_settle", "after_reply")
ENV_FAULTS = "CHAOS_FAULTS"
ENV_CLOCK_STEP = "CHAOS_CLOCK_STEP"  # a file; while it exists the wall clock of this process is so many seconds ahead


def prepare() -> None:
    """Replaces the engine's entry, and puts the fault points and the clock in place."""
    from tests.chaos import fake
    from workers import engine_client

    engine_client._enter = fake.enter  # type: ignore[assignment]
    _arm()
    _bend_clock()


def _arm() -> None:
    import os
    import signal
    from pathlib import Path
    from typing import Any

    from workers.engine_client import EngineProcess
    from workers.exchange import Run
    from workers.leases import Leases
    from workers.runner import Runner
    from workers.settling import Settling

    folder = os.environ.get(ENV_FAULTS)
    if not folder:
        return
    orders = {point: Path(folder) / point for point in POINTS}

    def reached(point: str) -> None:
        try:
            orders[point].unlink()
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    take, settled, settle_pairs, talk = Leases._take, Settling._answered, Settling.pairs, Leases.talk
    collect, send = Runner.collect, EngineProcess.send
    is_settling = False

    def after_read(self: Leases, claimed: Any) -> None:
        take(self, claimed)
        if claimed.jobs:
            reached("after_read")

    def before_forward(self: EngineProcess, message: Any) -> None:
        if isinstance(message, Run):
            reached("before_forward")
        send(self, message)

    def after_forward(self: Runner) -> None:
        collect(self)
        if self._finished is not None:
            reached("after_forward")

    def note_settling(self: Settling, *args: Any) -> Any:
        nonlocal is_settling
        is_settling = True
        return settle_pairs(self, *args)

    def inside_settle(self: Leases, *args: Any, **options: Any) -> bool:
        nonlocal is_settling
        is_settling = False
        is_taken = talk(self, *args, **options)
        if is_settling:
            reached("inside_settle")
        return is_taken

    def after_reply(self: Settling, *args: Any) -> None:
        settled(self, *args)
        reached("after_reply")

    Leases._take, Settling._answered, Settling.pairs = after_read, after_reply, note_settling  # type: ignore[method-assign]
    Leases.talk, Runner.collect, EngineProcess.send = inside_settle, after_forward, before_forward  # type: ignore[method-assign]


def _bend_clock() -> None:
    import os
    import time

    path = os.environ.get(ENV_CLOCK_STEP)
    if not path:
        return
    real, real_ns = time.time, time.time_ns

    def ahead_s() -> float:
        try:
            with open(path) as file:
                return float(file.read() or 0)
        except OSError:
            return 0.0

    time.time = lambda: real() + ahead_s()
    time.time_ns = lambda: real_ns() + round(ahead_s() * 1e9)


if __name__ == "__main__":
    import os

    from workers.main import main

    prepare()
    os._exit(main())
