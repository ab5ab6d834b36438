"""The tables of pool.toml: every key with its type and default. What may stand in them is `settings_values` and `settings_together`."""

from __future__ import annotations

from typing import Literal

import msgspec


class RedisSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`url` empty means the embedded server: started by `penstock up` in var/, on a unix socket."""

    url: str = ""
    connect_s: float = 10.0
    max_memory_mb: int = 4096  # of the embedded server; noeviction always
    fsync: Literal["everysec", "always"] = "everysec"  # of the embedded server's append-only file


class PoolSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`most_slots` bounds what `scale` may start on this host; supervisord holds one place more, for the spare."""

    var_dir: str = "var"
    most_slots: int = 8
    host: str = ""  # empty: the machine's hostname
    trusted: str = "configs/trusted.txt"  # digests of artifacts that may run code when they are loaded


class SlotSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one slot works. Times in the unit their name says."""

    lease_s: float = 15.0
    beat_s: float = 1.0
    block_ms: int = 1000  # Redis reads wait at most this long; stays under the socket timeout
    drain_s: float = 30.0
    load_timeout_s: float = 600.0
    hang_floor_s: float = 60.0  # an engine silent for longer, and for hang_factor times its usual time, is killed
    hang_factor: float = 20.0  # times the p99 of the batch's size
    read_ahead_max_ms: float = 500.0  # a slot whose batches take longer claims nothing ahead
    max_wait_ms: float = 5.0  # upper bound of waiting for more jobs while the engine is free; 0: never wait
    low_batch_ms: float = 20.0  # a batch of the low lane takes no longer: higher ones need not wait; 0: any size
    threads: int = 1


class RetireSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a slot retires. 0 switches a limit off; growth is measured against the baseline after warm-up."""

    max_jobs: int = 50_000
    jitter: float = 0.1
    max_age_s: float = 0.0
    host_growth_mb: float = 512.0
    host_hard_growth_mb: float = 4096.0
    device_growth_mb: float = 1024.0
    device_hard_growth_mb: float = 0.0
    min_life_s: float = 60.0
    min_life_loads: float = 20.0  # and at least so many times the load time; 0 switches it off
    sample_every_s: float = 10.0
    samples: int = 3  # growth must hold over so many samples
    overlap: bool = False  # a spare slot is warm before the one that retires stops claiming


class AutoscaleSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Between how many slots a model is scaled on this host, and within how long they shall clear its queue. `most` 0: not at all."""

    least: int = 1
    most: int = 0
    target_s: float = 1.0


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One served model. `max_rows` 0 and `row_buckets` () take the manifest's; `retire` overrides single keys of [retire]."""

    artifact: str
    slots: int = 1
    device: str = "cpu"
    max_rows: int = 0
    row_buckets: tuple[int, ...] = ()
    memory_fraction: float = 0.0  # of the device's memory, for each of its slots; 0: no bound
    retire: dict[str, int | float | bool] = {}  # int among them: a whole number stays one
    autoscale: AutoscaleSettings = AutoscaleSettings()


class RunsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bulk scoring runs of this host. `workers` 0: it works none."""

    workers: int = 1
    slice_s: float = 30.0  # a run that has worked for so long lets others go on first
    window_bytes: int = 64 << 20  # of rows submitted whose outcomes have not come, for each run
    error_limit: int = 1000  # failed rows that end a run, unless the run says otherwise
    keep_days: float = 14.0  # how long a run that ended is remembered
    roots: tuple[str, ...] = ()  # where runs may read and write; (): wherever the program's user may


class ScheduleSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run that is submitted again and again. `input` and `output` may hold {date} and {time} of the moment, in UTC."""

    cron: str
    input: str
    model: str
    output: str
    mapping: str = ""  # a TOML file with the mapping, as `penstock run submit --mapping` takes it
