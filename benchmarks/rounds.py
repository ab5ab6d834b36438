"""One round of everybody in turn, and what many rounds come to: medians, spreads, ratios of the same round. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from benchmarks import spread
from benchmarks.flood import Flood
from benchmarks.latency import Latency, Timed
from benchmarks.spread import Figures

OURS, BARE, RAW = "ours", "redis-py", "raw"
PREFIXES = {BARE: "bare_", RAW: "raw_bare_", OURS: ""}  # of the keys in latest.json


class PeerRound(msgspec.Struct, frozen=True):
    """A peer's part of a round."""

    flood_jobs_per_s: float
    one: Latency
    in_flight_64_jobs_per_s: float
    in_flight_64: Latency


class Round(msgspec.Struct, frozen=True):
    """Floods by side, one in flight and 64 in flight, and the peers that were there."""

    floods: dict[str, Flood]
    bare_ones: dict[str, Latency]
    one: Timed
    many: Timed
    peers: dict[str, PeerRound]


def figures(rounds: Sequence[Round], *, flood_jobs: int) -> Figures:
    """The flat keys. A ratio is taken within each round, so that a slow moment of the machine is in both its sides."""

    def each(name: str, digits: int, value: Callable[[Round], float]) -> Figures:
        return spread.of(name, map(value, rounds), digits)

    def speed(side: str) -> Callable[[Round], float]:
        return lambda one: one.floods[side].jobs_per_s

    return {
        "flood_jobs": flood_jobs,
        **each("flood_jobs_per_s", 0, speed(OURS)),
        **each("bare_jobs_per_s", 0, speed(BARE)),
        **each("raw_bare_jobs_per_s", 0, speed(RAW)),
        **each("flood_ratio", 3, lambda one: speed(OURS)(one) / speed(BARE)(one)),
        **each("flood_ratio_to_raw", 3, lambda one: speed(OURS)(one) / speed(RAW)(one)),
        **each("flood_submit_jobs_per_s", 0, lambda one: flood_jobs / one.floods[OURS].submit_s),
        **each("decode_us_per_job", 2, lambda one: one.floods[OURS].decode_s / flood_jobs * 1e6),
        **each("redis_commands_per_job", 2, lambda one: one.floods[OURS].commands),
        **each("bare_redis_commands_per_job", 2, lambda one: one.floods[BARE].commands),
        **each("redis_bytes_per_job", 0, lambda one: one.floods[OURS].redis_bytes),
        **each("bare_redis_bytes_per_job", 0, lambda one: one.floods[BARE].redis_bytes),
        **_cpu(rounds),
        **each("one_in_flight_p50_ms", 4, lambda one: one.one.latency.p50_ms),
        **each("one_in_flight_p99_ms", 4, lambda one: one.one.latency.p99_ms),
        **each("bare_one_in_flight_p50_ms", 4, lambda one: one.bare_ones[BARE].p50_ms),
        **each("bare_one_in_flight_p99_ms", 4, lambda one: one.bare_ones[BARE].p99_ms),
        **each("raw_bare_one_in_flight_p50_ms", 4, lambda one: one.bare_ones[RAW].p50_ms),
        **each("one_in_flight_p50_ratio", 3, lambda one: one.one.latency.p50_ms / one.bare_ones[BARE].p50_ms),
        **each("one_in_flight_p50_ratio_to_raw", 3, lambda one: one.one.latency.p50_ms / one.bare_ones[RAW].p50_ms),
        **each("one_in_flight_p99_ratio", 3, lambda one: one.one.latency.p99_ms / one.bare_ones[BARE].p99_ms),
        **each("in_flight_64_jobs_per_s", 0, lambda one: one.many.jobs_per_s),
        **each("in_flight_64_p50_ms", 3, lambda one: one.many.latency.p50_ms),
        **each("in_flight_64_p99_ms", 3, lambda one: one.many.latency.p99_ms),
        **_splits(rounds),
        **_peers(rounds),
    }


def _cpu(rounds: Sequence[Round]) -> Figures:
    found: Figures = {}
    for side, prefix in PREFIXES.items():
        totals = [sum(one.floods[side].cpu_us.values()) for one in rounds]
        found |= spread.of(f"{prefix}cpu_us_per_job", totals)
        for process in rounds[0].floods[side].cpu_us:
            used = [one.floods[side].cpu_us[process] for one in rounds]
            found |= spread.of(f"{prefix}cpu_us_per_job_{process}", used)
    return found


def _splits(rounds: Sequence[Round]) -> Figures:
    found: Figures = {}
    for name, timed in (("split_one", [one.one for one in rounds]), ("split_64", [one.many for one in rounds])):
        for part in timed[0].split.__struct_fields__:
            found |= spread.of(f"{name}_{part}", [getattr(one.split, part) for one in timed], 4)
    return found


def _peers(rounds: Sequence[Round]) -> Figures:
    """Each peer's figures, and how many times as fast we are."""
    found: Figures = {}
    for name in rounds[0].peers:
        both = [(one, one.peers[name]) for one in rounds]
        found |= {
            **spread.of(f"{name}_jobs_per_s", [peer.flood_jobs_per_s for _, peer in both], 0),
            **spread.of(f"{name}_in_flight_64_jobs_per_s", [peer.in_flight_64_jobs_per_s for _, peer in both], 0),
            **spread.of(f"{name}_in_flight_64_p50_ms", [peer.in_flight_64.p50_ms for _, peer in both], 3),
            **spread.of(f"{name}_in_flight_64_p99_ms", [peer.in_flight_64.p99_ms for _, peer in both], 3),
            **spread.of(f"{name}_one_in_flight_p50_ms", [peer.one.p50_ms for _, peer in both], 3),
            **spread.of(f"{name}_one_in_flight_p99_ms", [peer.one.p99_ms for _, peer in both], 3),
            **spread.of(f"vs_{name}", [one.floods[OURS].jobs_per_s / peer.flood_jobs_per_s for one, peer in both]),
            **spread.of(
                f"vs_{name}_64_in_flight", [one.many.jobs_per_s / peer.in_flight_64_jobs_per_s for one, peer in both]
            ),
        }
    if rounds[0].peers:
        fastest = [min(peer.one.p50_ms for peer in one.peers.values()) for one in rounds]
        ratios = [one.one.latency.p50_ms / peer for one, peer in zip(rounds, fastest, strict=True)]
        found |= spread.of("one_in_flight_p50_to_fastest_peer", ratios, 3)
    return found
