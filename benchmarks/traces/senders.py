"""Real clients of a real slot, written down as they send: Poisson, 64 that wait for their answers, a pipeline's bursts. Linux' clock.

Every function gives the senders of one trace. `rows` are what the jobs carry, used again and again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import arrivals
from benchmarks.traces.arrivals import HIGH, LOW, NORMAL
from benchmarks.traces.recorded import Seen, Sender, sender, stamped_ms
from broker.errors import JobExpired
from broker.messages import LANES
from producer import AsyncHandle, AsyncProducer

RESULT_WITHIN_S = 60.0
HEAD_START_S = 0.05


class Clients:
    """Of one asyncio client process, connected, with the model's spec learned."""

    def __init__(self, producer: AsyncProducer, model: str, rows: Sequence[Any]) -> None:
        self._producer = producer
        self._model = model
        self._rows = rows

    async def open(self, due_s: Sequence[float], *, lane: int = NORMAL, deadline_ms: float = 0.0) -> Sender:
        """A job at each due time, whatever became of the others."""
        began = time.time() + HEAD_START_S
        tasks = []
        for number, at_s in enumerate(due_s):
            await asyncio.sleep(max(0.0, began + at_s - time.time()))
            tasks.append(asyncio.create_task(self._one(number, lane, deadline_ms)))
        return sender(await asyncio.gather(*tasks), began * 1e3, lane=lane, is_closed=False, deadline_ms=deadline_ms)

    async def closed(self, clients: int, seconds: float, most: int) -> list[Sender]:
        """`clients` that each send their next job when they have the last one's result; `most` jobs in all."""
        began = time.time()

        async def client(first: int) -> Sender:
            seen: list[Seen] = []
            while time.time() < began + seconds and len(seen) < most // clients:
                seen.append(await self._one(first + len(seen)))
            return sender(seen, began * 1e3, lane=NORMAL, is_closed=True)

        return list(await asyncio.gather(*(client(number * (most // clients)) for number in range(clients))))

    async def bursts(self, jobs: int, every_s: float, seconds: float) -> Sender:
        """A batch pipeline: `jobs` low-lane jobs in one call, again and again."""
        began = time.time() + HEAD_START_S
        tasks = []
        for number in range(max(1, int(seconds / every_s))):
            await asyncio.sleep(max(0.0, began + number * every_s - time.time()))
            tasks.append(asyncio.create_task(self._burst(jobs)))
        seen = [one for burst in await asyncio.gather(*tasks) for one in burst]
        return sender(seen, began * 1e3, lane=LOW, is_closed=False)

    async def _one(self, number: int, lane: int = NORMAL, deadline_ms: float = 0.0) -> Seen:
        row = self._rows[number % len(self._rows)]
        before_ms = time.time() * 1e3
        handle = await self._producer.submit(
            self._model, row, lane=LANES[lane], deadline_s=deadline_ms / 1e3 if deadline_ms else None
        )
        return await _seen(handle, before_ms, time.time() * 1e3)

    async def _burst(self, jobs: int) -> list[Seen]:
        before_ms = time.time() * 1e3
        many = [self._rows[number % len(self._rows)] for number in range(jobs)]
        handles = await self._producer.submit_many(self._model, many, lane=LANES[LOW])
        after_ms = time.time() * 1e3
        return [await _seen(handle, before_ms, after_ms) for handle in handles]


async def _seen(handle: AsyncHandle, before_ms: float, after_ms: float) -> Seen:
    entry = handle._place[1]  # the job's entry id, which only its own client knows
    try:
        await handle.result(RESULT_WITHIN_S)
    except JobExpired:
        return Seen(stamped_ms(entry, before_ms, after_ms), time.time() * 1e3, False)
    return Seen(stamped_ms(entry, before_ms, after_ms), time.time() * 1e3, True)


async def beside(clients: Clients, *, low_jobs: int, every_s: float, high_per_s: float, seconds: float) -> list[Sender]:
    """A pipeline's bursts on the low lane and single high requests, independent of each other."""
    due_s = arrivals.schedule(high_per_s, seconds, seed=5).tolist()
    high, low = await asyncio.gather(clients.open(due_s, lane=HIGH), clients.bursts(low_jobs, every_s, seconds))
    return [high, low]
