"""The pool at one moment, as `penstock status` shows it and --json prints it: structs only."""

from __future__ import annotations

import msgspec

from broker.autoscale import State
from broker.paused import Pause
from operators.hardware import Hardware


class Problem(msgspec.Struct, frozen=True):
    """What is wrong, and the command that mends it. `level` is `error` or `warning`."""

    level: str
    text: str
    mend: str


class RedisStatus(msgspec.Struct, frozen=True):
    """The server behind the pool. `max_bytes` 0 is no limit."""

    url: str
    version: str
    policy: str
    used_bytes: int
    max_bytes: int


class ModelStatus(msgspec.Struct, frozen=True):
    """One model's queue. `oldest_age_ms` is of the oldest job not ended, claimed ones included; None without any."""

    name: str
    version: str
    wanted: int
    ready: int
    depth: dict[str, int]
    delayed: int
    claimed: int
    dead: int
    oldest_age_ms: int | None
    bytes: int
    stored_bytes: int
    max_jobs: int
    max_bytes: int
    ended: dict[str, int]
    max_rows: int = 0  # of a batch; 0: not known
    jobs_per_s: float = 0.0  # done, over the last second or more
    paused: dict[str, Pause] = {}  # by lane; empty where all are claimed from

    @property
    def jobs(self) -> int:
        """Jobs that count toward the limit: waiting, claimed and delayed."""
        return sum(self.depth.values()) + self.delayed


class SlotStatus(msgspec.Struct, frozen=True):
    """One slot as it describes itself, with what its host's supervisord and the log of exits say. None: not known."""

    name: str
    number: int
    model: str
    state: str
    is_ready: bool
    reason: str = ""
    version: str = ""
    device: str = ""
    gpu: str = ""  # the uuid it is assigned to, where it is
    pid: int | None = None
    engine_pid: int | None = None
    jobs: int = 0
    batches: int = 0
    rows: int = 0
    mean_batch: float = 0.0
    held: int = 0
    host_bytes: int | None = None
    host_baseline_bytes: int | None = None
    device_bytes: int | None = None
    device_baseline_bytes: int | None = None
    load_s: float = 0.0
    since_ms: int | None = None
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    last_exit: str = ""
    last_exit_detail: str = ""
    restarts: dict[str, int] = {}
    program: str = ""  # supervisord's state of it, on this host
    silent_s: float | None = None  # since its last word, on this host; None: its process has not said one


class AgentStatus(msgspec.Struct, frozen=True):
    """This host's agent as it beats."""

    pid: int
    since_ms: int
    beat_ms: int
    devices: Hardware | None = None  # the host's GPUs; None where no driver answers
    autoscale: dict[str, State] = {}  # what it decided last, by model


class Snapshot(msgspec.Struct, frozen=True):
    """The pool at one moment (Redis' clock); without Redis only the problems say something."""

    host: str
    at_ms: int
    is_up: bool
    redis: RedisStatus | None
    problems: tuple[Problem, ...]
    models: tuple[ModelStatus, ...] = ()
    slots: tuple[SlotStatus, ...] = ()
    agent: AgentStatus | None = None
