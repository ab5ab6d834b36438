"""One life of a slot on its host: the lock that proves the one before dead, and the note it leaves for the next.

The lock is held for life by flock, so the kernel frees it however the process ends. The note says how the life went; a
life that left no word was killed.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
import time
from pathlib import Path

import msgspec
import structlog

from broker.errors import ConfigError

log = structlog.get_logger()

LOCK_WAIT_S = 10.0
BACK_OFF_MOST_S = 60.0


class Note(msgspec.Struct):
    """What stands in var/slot-N.json. `fruitless` counts deaths in a row with nothing settled since ready."""

    incarnation: str = ""
    pid: int = 0
    model: str = ""
    exit: str = ""
    was_ready: bool = False
    has_settled: bool = False
    fruitless: int = 0
    device: str = ""
    engine_pid: int = 0
    engine_started: str = ""  # tells the engine from a later process of that pid
    suspects: list[str] = []  # leases the kill before held; a second kill that holds them may mark them


class Incarnation:
    """Holds the slot's lock. Raises ConfigError when another process holds it for longer than LOCK_WAIT_S."""

    def __init__(self, folder: Path, number: int) -> None:
        self.id = f"{os.getpid():x}-{secrets.token_hex(3)}"
        self._path = folder / f"slot-{number}.json"
        self._lock = _open(folder / f"slot-{number}.lock")
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"slot {number} already runs on this host ({folder}/slot-{number}.lock is held); "
                        "one supervisor per var folder: see `penstock status`"
                    ) from None
                time.sleep(0.05)
        self.before = self._read()
        suspects = self.before.suspects if self.was_killed else []
        self._mutex = threading.Lock()  # the loop and the beat write
        # What must be made good of the lives before stays noted until this one has done it: it may be short as well.
        self.note = msgspec.structs.replace(
            self.before, incarnation=self.id, pid=os.getpid(), exit="", was_ready=False, has_settled=False,
            fruitless=self._fruitless(), suspects=suspects,
        )  # fmt: skip
        self._write()

    @property
    def was_killed(self) -> bool:
        """Whether the life before left no word."""
        return bool(self.before.incarnation) and not self.before.exit

    def back_off_s(self) -> float:
        """How long to wait before loading: 0 after a good life, doubling with each fruitless death."""
        return min(BACK_OFF_MOST_S, 2.0 ** min(self.note.fruitless - 1, 10)) if self.note.fruitless else 0.0

    def begin(self, model: str) -> None:
        """Notes what this life serves, once the leases of the model before are returned; that one's deaths count no more."""
        if self.before.model not in ("", model):
            self.note.fruitless = 0
        self.note.model = model
        self._write()

    def pardon(self) -> None:
        """The life before was killed while it was ready and idle: nothing it served is to blame."""
        self.note.fruitless = self.before.fruitless
        self._write()

    def ready(self) -> None:
        """Notes that the model is served."""
        self.note.was_ready = True
        self._write()

    def suspect(self, leases: list[str]) -> None:
        """Notes whom the next take-over marks, should this life be killed with them in hand."""
        self.note.suspects = leases
        self._write()

    def start_engine(self, device: str, pid: int, started: str) -> None:
        """Notes the engine, so that the next life finds it should it not die."""
        self.note.device, self.note.engine_pid, self.note.engine_started = device, pid, started
        self._write()

    def forget_engine(self) -> None:
        """The engine before is gone."""
        self.start_engine("", 0, "")

    def settled(self) -> None:
        """Notes once that something was settled, or that it was ready for long: a later death is no reason to back off."""
        if not self.note.has_settled:
            self.note.has_settled = True
            self.note.fruitless = 0
            self._write()

    def end(self, reason: str, *, is_fault: bool) -> None:
        """Leaves the last word."""
        self.note.exit = reason
        if not is_fault:
            self.note.fruitless = 0
            self.note.has_settled = True
        self._write()

    def close(self) -> None:
        """Lets the lock go; the process's end does the same."""
        os.close(self._lock)

    def _fruitless(self) -> int:
        is_new = not self.before.incarnation
        return 0 if is_new or self.before.has_settled else self.before.fruitless + 1

    def _read(self) -> Note:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Note)
        except (OSError, msgspec.DecodeError):
            return Note()

    def _write(self) -> None:
        """A full disk ends no slot: the note stays as it was, so that the next life may take this one for killed."""
        fresh = self._path.with_suffix(".new")
        try:
            with self._mutex:
                fresh.write_bytes(msgspec.json.encode(self.note))
                fresh.replace(self._path)
        except OSError as error:
            log.warning("note not written", path=str(self._path), error=str(error), next="the slot goes on without it")


def _open(path: Path) -> int:
    """The lock's descriptor. Raises ConfigError where the file cannot be made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; set pool.var_dir to a folder of yours") from None
