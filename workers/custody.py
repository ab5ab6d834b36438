"""One life's engine, as the disk knows it: noted when it starts, ended at the end, its device quarantined when it does not die.

The engine before is looked for too: a slot killed with -9 could not see whether its engine died with it.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import structlog

from broker.errors import DeviceError
from workers.devices import parse
from workers.engine_client import Engine
from workers.incarnation import Incarnation
from workers.quarantine import Held, Quarantine, end_engine, started_at

log = structlog.get_logger()


class Custody:
    """Who may start an engine on a device, and who must end it. `incarnation` holds the notes of this life and the last."""

    def __init__(self, var: Path, number: int, incarnation: Incarnation) -> None:
        self.is_left = False  # the engine survived SIGKILL: whoever waits for it waits for ever
        self._number = number
        self._incarnation = incarnation
        self._quarantine = Quarantine(var)
        self._engine: Engine | None = None
        self._place = ""

    def check(self, device: str) -> None:
        """Raises DeviceError while an engine that cannot be killed holds the device."""
        before = self._incarnation.before
        if before.engine_pid:
            if end_engine(before.engine_pid, before.engine_started):
                self._incarnation.forget_engine()
            else:
                self._quarantine.add(before.device, before.engine_pid, "left behind by a slot that was killed")
        self._place = self._place_of(device)
        held = self._quarantine.holder(self._place)
        if held is not None:
            raise DeviceError(held.text)

    def take(self, engine: Engine) -> None:
        """Notes the engine that was started on the device asked for."""
        self._engine = engine
        if engine.pid != os.getpid():
            self._incarnation.start_engine(self._place, engine.pid, started_at(engine.pid))

    def end(self, why: str) -> Held | None:
        """Kills the engine; what it is held as when it does not die."""
        if self._engine is None or self._engine.kill():
            return None
        held = self._quarantine.add(self._place, self._engine.pid, why)
        self.is_left = held is not None
        if held is not None:
            log.error("engine survives SIGKILL", device=held.device, pid=held.pid, next=held.text)
        return held

    def signal(self) -> None:
        """Sends SIGKILL and does not wait."""
        pid = self._engine.pid if self._engine is not None else 0
        if pid not in (0, os.getpid()):
            os.kill(pid, signal.SIGKILL)

    def _place_of(self, device: str) -> str:
        """What a stuck engine blocks: its GPU for all; of the CPU only its own slot, for no driver holds that."""
        found = parse(device)
        return f"cpu of slot {self._number}" if found.kind == "cpu" else found.uuid or found.name
