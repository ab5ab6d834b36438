"""Jobs in hand whose leases Redis no longer knows as this slot's: their outcomes must not be sent. Pure.

A server that came back with a shorter history (a failover, a crash of its machine) may give an entry's id to another job;
XACK by that id would then end a job that never ran. So after each reconnect, what is not ours there is ours no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from broker.queue import Ended, Fault


class Forgotten:
    """Remembers which job held an entry's id, so that a late outcome is told from that of the id's next job."""

    def __init__(self) -> None:
        self._ids: dict[bytes, str] = {}
        self._gone: set[tuple[bytes, str]] = set()

    def took(self, entry: bytes, job_id: str) -> None:
        self._ids[entry] = job_id
        if self._gone:
            self._gone.discard((entry, job_id))

    def is_held(self, entry: bytes, job_id: str) -> bool:
        """Whether the entry in hand is this very job. Where it is not, the id has become another job's: ours is gone."""
        held = self._ids.get(entry)
        if held is not None and held != job_id:
            self._gone.add((entry, held))
        return held == job_id

    def let_go(self, entry: bytes) -> None:
        self._ids.pop(entry, None)

    def compare(self, held: Mapping[bytes, int], pending: Iterable[tuple[int, bytes]]) -> list[bytes]:
        """Entries held (entry -> lane) that are not among those Redis calls ours (lane, entry); they are gone from now on."""
        ours = set(pending)
        gone = [entry for entry, lane in held.items() if (lane, entry) not in ours]
        self._gone.update((entry, self._ids[entry]) for entry in gone if entry in self._ids)
        return gone

    def ended(self, ended: list[Ended]) -> list[Ended]:
        """Those that may be settled."""
        return [one for one in ended if (one.job.entry, one.job.id) not in self._gone] if self._gone else ended

    def faults(self, faults: list[Fault]) -> list[Fault]:
        """Those that may be told."""
        return [one for one in faults if (one.entry, one.id) not in self._gone] if self._gone else faults
