"""What happened to supervisord's programs, kept in Redis: every start and end with its code or signal, once.

From events where they came, from the pids seen where they did not (the agent was away). Things that happen while Redis is
away are kept and written later, the oldest are dropped first.
"""

from __future__ import annotations

from collections import deque

import structlog

from broker import roster
from broker.connection import Link, ResponseError
from operators.journal import Journal
from operators.listener import Event
from operators.places import Seen

KEPT = 1_000
LATE = "noticed late"
SLOT = "slot_"

log = structlog.get_logger()


class Record:
    """One agent's. `note` is called from the listener's thread, the rest from the other."""

    def __init__(self, host: str, journal: Journal) -> None:
        self._host = host
        self._journal = journal
        self._arrived: deque[Event] = deque(maxlen=KEPT)
        self._unwritten: deque[tuple[str, str, str, int]] = deque(maxlen=KEPT)  # slot, kind, detail, pid
        self._was_away = True
        self._started: list[int] = []
        self._pids: dict[str, int] | None = None  # slot -> pid that was told of last
        self._ended: deque[int] = deque(maxlen=KEPT)

    def note(self, event: Event) -> None:
        """Takes an event; never waits."""
        if event.name.startswith("PROCESS_STATE_"):
            self._arrived.append(event)

    def tell(self, slot: str, kind: str, detail: str, pid: int = 0) -> None:
        """Something the agent did, or found."""
        log.info("recorded", slot=slot, kind=kind, detail=detail, pid=pid)
        self._unwritten.append((slot, kind, detail, pid))

    def take_starts(self) -> list[int]:
        """Numbers of the slots that were started since this was asked, each start once."""
        started, self._started = self._started, []
        return started

    def take_events(self, link: Link) -> None:
        """Tells what arrived. To be done before a look: a look that is older than an event would contradict it."""
        self._take_events(self._known(link))

    def compare(self, link: Link, seen: Seen) -> None:
        """Tells what the events left out. Raises one of connection.LOST."""
        pids = self._known(link)
        how, self._was_away = LATE if self._was_away else "", False
        for number, place in seen.places.items():
            slot = roster.slot_name(self._host, number)
            if place.pid == pids.get(slot, 0):
                continue
            if pids.get(slot):
                self._end(pids, slot, pids[slot], how)
            if place.pid and place.pid not in self._ended:
                self._start(pids, slot, place.pid, how)

    def write(self, link: Link) -> None:
        """Writes what is not written yet. Raises one of connection.LOST; then it stays for the next time."""
        while self._unwritten:
            slot, kind, detail, pid = self._unwritten[0]
            try:
                roster.record_event(link, self._host, slot, kind, detail=detail, pid=pid)
            except ResponseError as error:
                log.warning("event not kept", slot=slot, kind=kind, error=str(error), next="it stands in this log only")
            self._unwritten.popleft()

    def _known(self, link: Link) -> dict[str, int]:
        """The pids an agent before this one told of last."""
        if self._pids is None:
            pids: dict[str, int] = {}
            for event in reversed(roster.events(link, KEPT)):
                if event.host == self._host and event.kind in ("start", "exit"):
                    pids[event.slot] = event.pid if event.kind == "start" else 0
                    if event.kind == "exit":
                        self._ended.append(event.pid)
            self._pids = pids
        return self._pids

    def _take_events(self, pids: dict[str, int]) -> None:
        while self._arrived:
            event = self._arrived.popleft()
            kind = event.name.removeprefix("PROCESS_STATE_")
            slot = self._slot(event.process)
            if kind == "RUNNING" and pids.get(slot) != event.pid and event.pid not in self._ended:
                self._start(pids, slot, event.pid, "")
            elif kind in ("EXITED", "STOPPED") and event.pid and event.pid not in self._ended:
                self._end(pids, slot, event.pid, "")
            elif kind in ("FATAL", "BACKOFF"):
                self.tell(slot, kind.lower(), f"from {event.fields.get('from_state', '')}")

    def _slot(self, process: str) -> str:
        number = process.removeprefix(SLOT)
        return roster.slot_name(self._host, int(number)) if number.isdigit() else f"{self._host}/{process}"

    def _start(self, pids: dict[str, int], slot: str, pid: int, how: str) -> None:
        pids[slot] = pid
        number = slot.rpartition("/")[2]
        if number.isdigit():
            self._started.append(int(number))
        self.tell(slot, "start", how, pid)

    def _end(self, pids: dict[str, int], slot: str, pid: int, how: str) -> None:
        pids[slot] = 0
        self._ended.append(pid)
        self.tell(
            slot, "exit", ", ".join(filter(None, (self._journal.end_of(pid) or "its code is not known", how))), pid
        )
