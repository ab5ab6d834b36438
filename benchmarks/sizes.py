"""How much a run of the bench measures: the full one in about seven minutes, the quick one within one."""

from __future__ import annotations

import msgspec


class Size(msgspec.Struct, frozen=True):
    """Rounds and jobs of each part; 0 rounds leave a part out. `peer_share` is taken of the jobs a peer gets."""

    rounds: int
    flood_jobs: int
    latency_jobs: int
    in_flight_jobs: int
    memory_jobs: int
    peer_share: float
    idle_s: float
    open_rounds: int
    open_s: float
    lane_jobs: int
    magika_rounds: int
    magika_files: int
    minilm_rounds: int
    minilm_rows: int


FULL = Size(
    rounds=5, flood_jobs=40_000, latency_jobs=2_000, in_flight_jobs=12_800, memory_jobs=40_000, peer_share=1.0, idle_s=5.0,
    open_rounds=5, open_s=3.0, lane_jobs=200, magika_rounds=5, magika_files=384, minilm_rounds=5, minilm_rows=96,
)  # fmt: skip
QUICK = Size(
    rounds=3, flood_jobs=40_000, latency_jobs=1_000, in_flight_jobs=6_400, memory_jobs=20_000, peer_share=0.25, idle_s=2.0,
    open_rounds=1, open_s=1.5, lane_jobs=0, magika_rounds=0, magika_files=0, minilm_rounds=0, minilm_rows=0,
)  # fmt: skip
SMOKE = Size(
    rounds=1, flood_jobs=2_000, latency_jobs=100, in_flight_jobs=640, memory_jobs=1_000, peer_share=0.05, idle_s=0.5,
    open_rounds=1, open_s=0.5, lane_jobs=20, magika_rounds=1, magika_files=32, minilm_rounds=1, minilm_rows=32,
)  # fmt: skip
