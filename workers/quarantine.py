"""Devices that no engine may be started on, because one that survived SIGKILL still holds them: var/quarantine/DEVICE.json.

A process the driver holds ends only when the driver lets go: a device reset, or a restart of the host. Another engine on
that device would hang like it, and hold more memory with each try. The note goes when the process has gone. The time of a
quarantine is the file's own.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

STAT_STATE, STAT_START = 0, 19  # fields of /proc/PID/stat after the command's name
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
KILL_WAIT_S = 5.0


class Held(msgspec.Struct, frozen=True):
    """The engine that holds a device; `started` tells it from a later process of that pid."""

    device: str
    pid: int
    started: str
    reason: str

    @property
    def text(self) -> str:
        """One line with the mend."""
        return (
            f"device {self.device} quarantined: engine PID {self.pid} survives SIGKILL ({self.reason}); "
            "reset the device or restart the host; the slot loads again once that process is gone"
        )


class Quarantine:
    """The notes of one host."""

    def __init__(self, var: Path) -> None:
        self._folder = var / "quarantine"

    def add(self, device: str, pid: int, reason: str) -> Held | None:
        """Notes an engine that does not die; None when it did after all."""
        started = started_at(pid)
        if not started:
            return None
        held = Held(device, pid, started, reason)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(device)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(msgspec.json.encode(held))
        fresh.replace(path)
        return held

    def holder(self, device: str) -> Held | None:
        """Who holds the device; a note whose process is gone is removed."""
        path = self._path(device)
        try:
            held = msgspec.json.decode(path.read_bytes(), type=Held)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:
            held = None
        if held is not None and started_at(held.pid) == held.started:
            return held
        path.unlink(missing_ok=True)
        return None

    def _path(self, device: str) -> Path:
        return self._folder / f"{re.sub('[^A-Za-z0-9-]', '_', device)}.json"


def started_at(pid: int) -> str:
    """When the process began: boot and clock ticks since; empty when there is none, or only its zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    boot = BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""
    return "" if fields[STAT_STATE] in "ZX" else f"{boot}+{fields[STAT_START]}"


def end_engine(
    pid: int, started: str, *, within_s: float = KILL_WAIT_S, kill: Callable[[int, int], None] = os.kill
) -> bool:
    """Kills what a dead slot left running; False when it survives. Nothing is killed but the process noted."""
    deadline = time.monotonic() + within_s
    while started and started_at(pid) == started:
        if time.monotonic() > deadline:
            return False
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return True
