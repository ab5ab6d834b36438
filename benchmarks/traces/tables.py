"""Tables T of real models: padded rows -> ms of a forward. Data only."""

from __future__ import annotations

from collections.abc import Mapping

from workers.exchange import Timed
from workers.timetable import Timetable

# magika and mlp: the slot's own warm-up, one core, 2026-11-22. sleeper: benchmarks/sleeper.py at 5 ms.
# resnet50: A100, ONNX Runtime with TensorRT fp16, static client batches, from NVIDIA/DeepLearningExamples (2, 4: on the line).
# linear: an encoder on one core, where a row costs the same in any company; made up: 2 ms and 6 ms a row.
# transformer: a large encoder whose forward is mostly fixed cost, made up: 12 ms and 0.15 ms a row.
TABLES: dict[str, dict[int, float]] = {
    "mlp": {1: 0.009, 2: 0.009, 4: 0.009, 8: 0.01, 16: 0.012, 32: 0.016, 64: 0.024, 128: 0.042, 256: 0.079},
    "magika": {1: 4.4, 2: 9.7, 4: 20.4, 8: 41.0, 16: 83.4, 32: 208.2},
    "sleeper": dict.fromkeys((1, 2, 4, 8, 16, 32, 64), 5.0),
    "resnet50": {1: 2.1, 2: 2.4, 4: 2.9, 8: 3.9, 16: 5.8, 32: 11.2, 64: 25.3},
    "linear": {rows: 2 + 6.0 * rows for rows in (1, 2, 4, 8, 16, 32, 64)},
    "transformer": {rows: 12 + 0.15 * rows for rows in (1, 2, 4, 8, 16, 32, 64)},
}


def timetable(table: Mapping[int, float]) -> Timetable:
    """One of them as a slot knows it after its warm-up."""
    times = [Timed(rows, (), ms) for rows, ms in table.items()]
    return Timetable(times, floor_s=60.0, factor=20.0)


def most_per_s(name: str) -> float:
    """Rows a second at the best batch size."""
    return max(rows / ms for rows, ms in TABLES[name].items()) * 1e3
