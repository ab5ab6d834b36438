"""The MLP through the bare loops, one slot and every peer, in turns: a flood, one in flight, 64 in flight; then the idle slot."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bare, flood, latency, memory, report, rounds, spread
from benchmarks.peers import stand as peers
from benchmarks.peers.venvs import Missing
from benchmarks.rounds import OURS, PeerRound, Round
from benchmarks.sizes import Size
from benchmarks.spread import Figures
from benchmarks.stand import Stand, slot
from broker.embedded import temporary_server
from examples.mlp.build import build
from producer import Producer

FEATURES, HIDDEN = 64, 128
WIDTH = 64


def measure(folder: Path, size: Size, raw: Figures) -> Figures:
    """All of it; the rounds themselves go into `raw`."""
    artifact = folder / "mlp"
    build(artifact, features=FEATURES, hidden=HIDDEN)
    with temporary_server(folder / "memory") as url:
        held = memory.measure(folder / "memory", url, artifact, size.memory_jobs)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(temporary_server(folder / "ours"))
        loops = {kind: _loop(stack, folder, kind, artifact) for kind in bare.CLIENTS}
        stand = stack.enter_context(slot(folder / "ours", url, "mlp", artifact))
        producer = stack.enter_context(Producer(url))
        others = _peers(stack, folder, artifact)
        about = report.about(loops["raw"][0].link)
        _round(stand, producer, loops, (), size)  # warm-up
        found = [_round(stand, producer, loops, others, size) for _ in range(size.rounds)]
        batches = _batches(stand, producer, size)
        idle = _idle(stand, size.idle_s)
    raw["rounds"] = found
    return {
        **rounds.figures(found, flood_jobs=size.flood_jobs),
        **batches,
        **idle,
        "queued_overhead_bytes": round(held.queued_overhead_bytes, 1),
        "finished_overhead_bytes": round(held.finished_overhead_bytes, 1),
        "peers": [client.title for peer in others for client in peer.kind.clients],
        **about,
    }


def _loop(stack: contextlib.ExitStack, folder: Path, kind: str, artifact: Path) -> tuple[bare.Producer, int]:
    """A bare loop on a server of its own, and its worker's pid."""
    url = stack.enter_context(temporary_server(folder / kind))
    pid = stack.enter_context(bare.worker(url, kind, artifact / "model.onnx", FEATURES))
    return bare.Producer(url, kind), pid


def _peers(stack: contextlib.ExitStack, folder: Path, artifact: Path) -> list[peers.Peer]:
    """Those that can be had; a line for each that cannot."""
    found = []
    for kind in peers.KINDS:
        try:
            found.append(stack.enter_context(peers.running(kind, folder / kind.name, artifact / "model.onnx")))
        except Missing as missing:
            print(f"bench: {missing}", file=sys.stderr)
    return found


def _round(
    stand: Stand,
    producer: Producer,
    loops: dict[str, tuple[bare.Producer, int]],
    others: Sequence[peers.Peer],
    size: Size,
) -> Round:
    """Everybody once, one after another."""
    x = flood.rows(size.flood_jobs, FEATURES)
    few, many = x[: size.latency_jobs], x[: size.in_flight_jobs]
    floods = {kind: flood.through_the_bare_loop(loop, pid, x) for kind, (loop, pid) in loops.items()}
    floods[OURS] = flood.through_penstock(stand, producer, x)
    ones = {kind: latency.through_the_bare_loop(loop, few) for kind, (loop, _) in loops.items()}
    return Round(
        floods=floods,
        bare_ones=ones,
        one=latency.through_penstock(producer, stand.model, few),
        many=latency.many_through_penstock(stand.url, stand.model, many, WIDTH),
        peers={
            client.name: _peer_round(peer, client, size.peer_share) for peer in others for client in peer.kind.clients
        },
    )


def _peer_round(peer: peers.Peer, client: peers.Client, share: float) -> PeerRound:
    in_flight = max(2 * WIDTH, int(client.in_flight_jobs * share))
    one = peer.one_in_flight(client, max(50, int(client.latency_jobs * share)))
    jobs_per_s, many = peer.in_flight(client, in_flight, WIDTH)
    return PeerRound(peer.flood(client, max(2 * WIDTH, int(client.flood_jobs * share))), one, jobs_per_s, many)


def _batches(stand: Stand, producer: Producer, size: Size) -> Figures:
    """Batch sizes and padding of one more flood and one more run of 64 in flight: a slot tells them only with its beat."""
    x = flood.rows(size.flood_jobs, FEATURES)
    seen = [stand.work()]
    flood.through_penstock(stand, producer, x)
    seen.append(stand.work())
    latency.many_through_penstock(stand.url, stand.model, x[: size.in_flight_jobs], WIDTH)
    seen.append(stand.work())
    found: Figures = {}
    for name, before, after in zip(("flood", "in_flight_64"), seen, seen[1:], strict=False):
        found[f"{name}_mean_batch"] = round(before.mean_batch(after), 1)
        found[f"{name}_padding_percent"] = round(before.waste(after), 1)
    return found


def _idle(stand: Stand, seconds: float) -> Figures:
    """The share of one core that slot and engine use with nothing to do."""
    time.sleep(0.2)
    meter = flood.Meter({"slot": stand.slot_pid, "engine": stand.engine_pid})
    began = time.perf_counter()
    time.sleep(seconds)
    used_us = meter.per_job(1)
    took_us = (time.perf_counter() - began) * 1e6
    return {"idle_core_percent_per_slot": spread.rounded(100 * sum(used_us.values()) / took_us, 3)}
