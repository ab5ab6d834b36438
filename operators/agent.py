"""`python -m operators.agent`: the event listener supervisord runs beside the slots. Threads that do not hold each other up.

This one speaks supervisord's protocol on stdin and stdout and hands events on; the other (rounds) looks and acts by level
every second, so that a lost event costs a second and nothing else. A third (deaths) has a dead slot restarted at once.
It ends with supervisord: when stdin does.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import structlog

from broker import logs
from broker.connection import Link
from broker.errors import PenstockError
from broker.settings import Settings, load
from operators import reconcile
from operators.autoscale.loop import Autoscale
from operators.deaths import Deaths
from operators.device_watch import DeviceWatch
from operators.hardware import Hardware
from operators.journal import Journal
from operators.listener import Garbled, listen
from operators.reconcile import Reconciler
from operators.record import Record
from operators.rounds import Rounds
from operators.supervisor import Supervisor

RPC_TIMEOUT_S = 3.0

log = structlog.get_logger()


def main() -> int:
    """The command. Its exit code says nothing: supervisord starts it again whatever it is."""
    logs.to_stderr()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # stdout is the protocol's alone: whatever prints, prints to the log
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        settings = load()
        deaths = Deaths(wake=Supervisor(settings, timeout_s=RPC_TIMEOUT_S).is_running)
        watch = DeviceWatch()
        rounds, record = build(settings, deaths, gpus=watch.latest)
    except PenstockError as error:
        log.error("agent cannot start", error=str(error), next="supervisord starts it again")
        return 1
    deaths.start()
    watch.start()
    rounds.start()
    log.info("agent started", host=settings.host, pid=os.getpid())
    try:
        for event in listen(sys.stdin.buffer, answers):
            record.note(event)
            rounds.hasten()
    except (Garbled, OSError) as error:
        log.error("listener ended", error=str(error), next="supervisord starts it again and sends its events once more")
        return 1
    log.info("agent ended", why="supervisord closed its stdin")
    return 0


def build(
    settings: Settings,
    deaths: Deaths,
    *,
    gpus: Callable[[], Hardware | None] = lambda: None,
    silent_limit_s: float | None = None,
) -> tuple[Rounds, Record]:
    """The parts of one agent, not started. `silent_limit_s` is for tests that cannot wait."""
    slot = settings.slot
    if silent_limit_s is None:
        silent_limit_s = reconcile.silent_limit_s(slot)
    record = Record(settings.host, Journal(settings.var / "log" / "supervisord.log"))
    rounds = Rounds(
        settings,
        supervisor=Supervisor(settings, timeout_s=RPC_TIMEOUT_S),
        link=Link(settings.redis_url_as("operator")),
        record=record,
        deaths=deaths,
        scaling=Autoscale(settings, hardware=gpus),
        gpus=gpus,
        reconciler=Reconciler(silent_limit_s=silent_limit_s, hang_limit_s=slot.lease_s + slot.hang_floor_s),
    )
    return rounds, record


if __name__ == "__main__":
    sys.exit(main())
