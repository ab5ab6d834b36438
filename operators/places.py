"""What the agent sees of this host at one moment, and what it may do about it. Plain values: no I/O, no decisions."""

from __future__ import annotations

from typing import Literal

import msgspec

from broker.autoscale import Override
from broker.overlap import Request
from broker.roster import Assignment

AT_REST = frozenset({"STOPPED", "EXITED", "FATAL"})
UP = frozenset({"RUNNING", "STARTING"})


class Place(msgspec.Struct, frozen=True):
    """One slot number: supervisord's word on its program, the assignment, and the slot's own words in Redis."""

    number: int
    state: str  # supervisord's
    pid: int = 0
    up_s: float = 0.0  # age of the process, by the kernel's clock
    assignment: Assignment | None = None
    beat_age_s: float | None = None  # since any announcement under this number, by Redis' time; None: none is known
    is_current: bool = False  # what follows was said by this very pid
    is_ready: bool = False
    word: str = ""
    silent_s: float = 0.0  # for how long its loop made no progress
    host_bytes: int = 0  # of its engine; 0: not known
    device_bytes: int | None = None
    held: int | None = None  # leases; None: it has not said
    jobs: int = 0  # settled in this life, and the rows in them
    rows: int = 0
    load_s: float | None = None

    @property
    def is_at_rest(self) -> bool:
        return self.state in AT_REST

    @property
    def is_up(self) -> bool:
        return self.state in UP


class Seen(msgspec.Struct, frozen=True):
    """One look at this host. The free bytes are measured only where a request waits for an answer; None: not known.

    `is_meant`: nothing is assigned, and that was said, by a command that took all slots away; else Redis was emptied.
    """

    now_ms: int  # Redis' time
    places: dict[int, Place]
    requests: dict[int, Request] = {}
    free_host_bytes: int | None = None
    free_device_bytes: dict[str, int | None] = {}
    overrides: dict[str, Override] = {}  # what an operator said of autoscaling
    is_meant: bool = False


class Action(msgspec.Struct, frozen=True):
    """One thing to do; they are done in order, and the first that fails ends the pass. `why` is for the record.

    kill: SIGKILL to `pid`.  start, stop: over supervisord, stop drains.  assign: gives `assignment` or, with None, takes it
    away.  answer: writes `request` or, with None, removes it.  forget: takes the slot's name out of Redis' lists.  want: says that
    this host wants `count` slots of `model`.
    """

    verb: Literal["kill", "start", "stop", "assign", "answer", "forget", "want"]
    number: int
    kind: str = ""  # of the event to record; empty: none
    why: str = ""
    pid: int = 0
    assignment: Assignment | None = None
    request: Request | None = None
    model: str = ""
    count: int = 0
