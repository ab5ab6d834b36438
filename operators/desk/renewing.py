"""Programs of the pool that read their settings when they start: told to end after a reload, supervisord starts them again.

Slots are not among them: they serve, and restart one at a time (rolling).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence

from broker import roster
from broker.connection import Link
from operators.desk.differences import Difference
from operators.supervisor import Supervisor

AGENT_BACK_WITHIN_S = 10.0
POLL_S = 0.05


def renew_agent(differences: Sequence[Difference], link: Link, supervisor: Supervisor) -> None:
    """Returns when the next agent lives, or does not in time. To be called under the pool's lock, which the agent needs for all it
    does: with the settings of before it would place slots by them, or bring back a model that was taken out."""
    pid = supervisor.agent().pid
    if not pid or not {one.effect for one in differences} - {"later", "runs"}:
        return
    _end(pid)
    deadline = time.monotonic() + AGENT_BACK_WITHIN_S
    host = supervisor.settings.host
    while roster.agent(link, host).get("pid", str(pid)) == str(pid) and time.monotonic() < deadline:
        time.sleep(POLL_S)


def end_runs(differences: Sequence[Difference], supervisor: Supervisor) -> None:
    """As `renew_agent`, those that work runs; nobody waits for them."""
    if any(one.effect == "runs" or one.key.startswith("queue.") for one in differences):
        for program in supervisor.programs("runs"):
            _end(program.pid)


def _end(pid: int) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
