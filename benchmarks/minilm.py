"""A sentence encoder of all-MiniLM's size: one slot against the same module called in a bare loop. Token ids in, vectors out.

All sentences have 64 tokens. The bare loop has no Redis and no second process: it stacks full batches of 16, or of 32, the
slot's largest, and calls the module under torch.inference_mode with the threads the engine has, on the core the engine has. The
ratio is to the faster.
Weights are random from a seed; real ones take the same time.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import machine, report, spread
from benchmarks.sizes import Size
from benchmarks.spread import Figures
from benchmarks.stand import Stand, slot
from broker.embedded import temporary_server
from examples.minilm import build as minilm
from producer import Producer

TOKENS, MAX_ROWS = 64, 32
BATCHES = (16, 32)
THREADS = 1  # [slot] threads' default
TIMEOUT_S = 120.0
ATOL = 1e-4
Row = dict[str, NDArray[np.int64]]


def measure(folder: Path, size: Size, raw: Figures) -> Figures:
    """Bare and ours in turns. Raises RuntimeError when their vectors differ."""
    weights = minilm.random_weights(seed=0)
    artifact = minilm.build(folder / "minilm", weights, tokens=(TOKENS,), max_rows=MAX_ROWS).folder
    rows = sentences(size.minilm_rows)
    loop = BareLoop(weights)
    speeds: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    ours: list[float] = []
    with (
        temporary_server(folder / "encoder") as url,
        slot(folder / "encoder", url, "minilm", artifact) as stand,
        Producer(url) as producer,
        machine.on_last_core(stand.engine_pid),
    ):
        through_penstock(stand, producer, rows[:MAX_ROWS])  # warm-up
        loop.run(rows[:MAX_ROWS], MAX_ROWS)
        before = stand.work()
        for _ in range(size.minilm_rounds):
            for batch, found in speeds.items():
                with machine.on_last_core():
                    rate, wanted = loop.run(rows, batch)
                found.append(rate)
            rate, vectors = through_penstock(stand, producer, rows)
            ours.append(rate)
        after = stand.work()
        about = report.about(stand.link)
    if not np.allclose(wanted, vectors, atol=ATOL):
        raise RuntimeError(f"minilm: vectors differ by {np.abs(wanted - vectors).max():.2g} from the bare loop's")
    raw["minilm"] = {"bare": {str(batch): found for batch, found in speeds.items()}, "ours": ours}
    fastest = max(speeds, key=lambda batch: median(speeds[batch]))
    ratios = [mine / bare for mine, bare in zip(ours, speeds[fastest], strict=True)]
    figures = spread.of("minilm_ratio", ratios, 3) | spread.of("minilm_rows_per_s", ours, 1)
    for batch, found in speeds.items():
        figures |= spread.of(f"bare_minilm_{batch}_rows_per_s", found, 1)
    return figures | about | {"minilm_tokens": TOKENS, "minilm_mean_batch": round(before.mean_batch(after), 1)}


def sentences(count: int) -> list[Row]:
    """Random ids, every place used."""
    ids = np.random.default_rng(1).integers(0, minilm.VOCABULARY, (count, TOKENS))
    return [{"input_ids": row, "attention_mask": np.ones(TOKENS, np.int64)} for row in ids]


class BareLoop:
    """The module, called on full batches in this process."""

    def __init__(self, weights: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(THREADS)
        self._torch: Any = torch
        self._encoder = minilm.encoder()
        self._encoder.load_state_dict(weights)
        self._encoder.eval().requires_grad_(False)

    def run(self, rows: list[Row], size: int) -> tuple[float, NDArray[np.float32]]:
        """(rows a second, all vectors)."""
        torch = self._torch
        vectors = []
        began = time.perf_counter()
        for at in range(0, len(rows), size):
            part = rows[at : at + size]
            given = [torch.from_numpy(np.stack([row[name] for row in part])) for name in part[0]]
            with torch.inference_mode():
                vectors.append(self._encoder(*given).numpy())
        return len(rows) / (time.perf_counter() - began), np.concatenate(vectors)


def through_penstock(stand: Stand, producer: Producer, rows: list[Row]) -> tuple[float, NDArray[np.float32]]:
    """Ours: from the first submit to the last vector."""
    began = time.perf_counter()
    handles = producer.submit_many(stand.model, rows)
    vectors = [handle.result(TIMEOUT_S)["embedding"] for handle in handles]
    return len(rows) / (time.perf_counter() - began), np.stack(vectors)
