"""What a job costs in Redis: queued, above its payload; finished, above its result. Differences of used_memory.

Taken with no client's buffers about: the producer has hung up, its reply list is gone. Keys of the model and of the slot that
do not grow with the jobs are spread over all of them, as is what Redis' tables have grown by.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from benchmarks import flood, machine
from benchmarks.stand import slot
from broker import keys, spec
from broker.connection import Link
from broker.queue import Queue
from broker.spec import Limits
from producer import Producer
from workers.artifact import open_artifact

DONE_WITHIN_S = 60.0
STEADY_S = 0.3


class Memory(msgspec.Struct, frozen=True):
    """Bytes a job, above its payload (the tensor's bytes) and above its result (the same)."""

    queued_overhead_bytes: float
    finished_overhead_bytes: float


def measure(folder: Path, url: str, artifact_folder: Path, jobs: int) -> Memory:
    """Queues `jobs` with no slot there, then lets one finish them. Raises RuntimeError when it does not."""
    artifact = open_artifact(artifact_folder)
    model = artifact.spec.name
    features = int(artifact.spec.inputs[0].shape[0])
    link = Link(url)
    link.connect()
    spec.publish(link, artifact.spec, Limits())
    Queue(model, "bench/0.none").ensure_groups(link)
    empty = used(link)
    with Producer(url) as producer:
        producer.submit_many(model, flood.rows(jobs, features))
        client = producer.client
    queued = used(link)
    with slot(folder, url, model, artifact_folder):
        deadline = time.monotonic() + DONE_WITHIN_S
        while int(link.call("HGET", keys.counters(model), "done") or 0) < jobs:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the slot did not finish {jobs} jobs within {DONE_WITHIN_S:g} s")
            time.sleep(0.05)
    link.call("DEL", keys.reply(model, client))
    finished = used(link)
    result_bytes = 4 * int(artifact.spec.outputs[0].shape[0])
    link.close()
    return Memory((queued - empty) / jobs - 4 * features, (finished - empty) / jobs - result_bytes)


def used(link: Link) -> int:
    """used_memory once it holds still: a client's buffers go a moment after the client."""
    last, since = -1, time.monotonic()
    deadline = since + 5.0
    while time.monotonic() < deadline:
        now = int(machine.read_info(link, "memory")["used_memory"])
        if abs(now - last) > 4096:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > STEADY_S:
            break
        time.sleep(0.05)
    return last
