"""Jobs in hand whose leases Redis no longer knows as this slot's: their outcomes must not be sent. Pure.

A server that came back with a shorter history (a failover, a crash of its machine) may give an entry's id to another job;
XACK by that id would then end a job that never ran. So after each reconnect, what is not ours there is ours no more.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.ends import Ended, Fault


class Forgotten:
    """Remembers which job held a lease, so that a late outcome is told from that of the next job of its entry's id."""

    def __init__(self) -> None:
        self._ids: dict[bytes, str] = {}
        self._gone: set[tuple[bytes, str]] = set()

    def took(self, lease: bytes, job_id: str) -> None:
        self._ids[lease] = job_id
        if self._gone:
            self._gone.discard((lease, job_id))

    def is_held(self, lease: bytes, job_id: str) -> bool:
        """Whether the lease in hand is this very job's. Where it is not, the id has become another job's: ours is gone."""
        held = self._ids.get(lease)
        if held is not None and held != job_id:
            self._gone.add((lease, held))
        return held == job_id

    def let_go(self, lease: bytes) -> None:
        self._ids.pop(lease, None)

    def compare(self, held: Iterable[bytes], pending: Iterable[bytes]) -> list[bytes]:
        """Leases held that are not among those Redis calls ours; they are gone from now on."""
        ours = set(pending)
        gone = [lease for lease in held if lease not in ours]
        self._gone.update((lease, self._ids[lease]) for lease in gone if lease in self._ids)
        return gone

    def ended(self, ended: list[Ended]) -> list[Ended]:
        """Those that may be settled."""
        return [one for one in ended if (one.job.lease, one.job.id) not in self._gone] if self._gone else ended

    def faults(self, faults: list[Fault]) -> list[Fault]:
        """Those that may be told."""
        return [one for one in faults if (one.lease, one.id) not in self._gone] if self._gone else faults
