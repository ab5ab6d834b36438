"""What `penstock tune` and the measuring program say to each other: a JSON line each way, one answer per question.

Data only; the operators' side reads it too, so nothing is imported here.
"""

from __future__ import annotations

import msgspec

Dims = tuple[int, ...]


class Open(msgspec.Struct, frozen=True, tag="open"):
    """Reads artifact and data and loads the model. `data` is a file, a folder, or empty for zeros."""

    folder: str
    trusted: str
    data: str
    device: str
    threads: int
    memory_fraction: float  # of the device, for one engine; 0: no bound
    payload_limit_bytes: int
    load_timeout_s: float
    silent_s: float  # an engine that says nothing for so long is given up


class Time(msgspec.Struct, frozen=True, tag="time"):
    """Forwards of `rows` rows at `dims`, at most `budget_s` long (three at least, with budget 0 only one)."""

    rows: int
    dims: Dims
    budget_s: float


class Warm(msgspec.Struct, frozen=True, tag="warm"):
    """Starts the engine anew, warmed for these row buckets, as a slot's would be."""

    row_buckets: tuple[int, ...]


class Race(msgspec.Struct, frozen=True, tag="race"):
    """So many engines at once, each warmed for `row_buckets` and never without work, for `seconds`."""

    engines: int
    row_buckets: tuple[int, ...]  # batches have the last one's rows
    seconds: float


Question = Open | Time | Warm | Race


class Share(msgspec.Struct, frozen=True):
    """How many rows of the data fall into one shape bucket."""

    dims: Dims
    rows: int


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """The model and the data. `sizes`: varying dimension -> size -> rows that have it. `skipped`: why rows are not used."""

    name: str
    version: str
    digest: str
    device: str
    takes: str
    max_rows: int
    buckets: dict[str, tuple[int, ...]]
    rows: int
    has_data: bool
    shares: list[Share]
    sizes: dict[str, dict[int, int]]
    skipped: list[str]
    load_s: float


class Cell(msgspec.Struct, frozen=True, tag="cell"):
    """One cell of T. `ms` from handing a batch over to its answer, `forward_ms` as the engine tells it; both medians.

    `host_bytes`: the engine's own memory once this size has run, and its slabs. `problem` says why there are no times.
    """

    rows: int
    dims: Dims
    ms: float = 0.0
    p99_ms: float = 0.0
    forward_ms: float = 0.0
    runs: int = 0
    host_bytes: int = 0
    device_bytes: int | None = None
    problem: str = ""


class Warmed(msgspec.Struct, frozen=True, tag="warmed"):
    """The engine runs again."""

    load_s: float


class Raced(msgspec.Struct, frozen=True, tag="raced"):
    """Rows per second of all engines together, one batch's times among them, the memory of all. `problem` as in Cell."""

    engines: int
    rows: int
    rows_per_s: float = 0.0
    ms: float = 0.0
    p99_ms: float = 0.0
    host_bytes: int = 0
    device_bytes: int | None = None
    problem: str = ""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """It cannot go on; one line with the mend."""

    text: str


Answer = Opened | Cell | Warmed | Raced | Failed
