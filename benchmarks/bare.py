"""The bare Streams loop everything is measured against: what Redis, hiredis and ONNX Runtime do with no Penstock between.

It must be the fastest honest one, so that the ratios are worth something: one producer pipelining XADD by 256, one worker
process with XREADGROUP COUNT 256, one session.run per read, then one pipeline of XADD to a reply stream (id and result,
per job), XACK and XDEL. No model versions, limits, leases, retries, timings or stored results.

Two of the same loop: `redis-py` sends through redis-py's client and pipelines with hiredis, as one would write it, and is the
yardstick of the ratios; `raw` sends hiredis-packed bytes over one socket (broker.connection.Link), which nobody writes for
an app, and shows where the floor is.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray

from broker.connection import Link

JOBS, REPLIES, GROUP = "bare:jobs", "bare:replies", "workers"
AT_ONCE = 256
READ_AT_ONCE = 1000
PATIENCE_S = 60.0


def session(graph: bytes) -> Any:
    """An ONNX Runtime session as the slot's engine makes it: CPU, one thread, no spinning."""
    import workers  # noqa: F401 - switches ONNX Runtime's telemetry off, as in the engine

    import onnxruntime  # isort: skip

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class RedisPy:
    """The loop's commands through redis-py."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url, protocol=2)

    def create(self) -> None:
        self._redis.xgroup_create(JOBS, GROUP, "0", mkstream=True)

    def submit(self, rows: Sequence[bytes]) -> None:
        pipe = self._redis.pipeline(transaction=False)
        for row in rows:
            pipe.xadd(JOBS, {"x": row})
        pipe.execute()

    def jobs(self) -> tuple[list[bytes], list[bytes]]:
        """(entry ids, rows) of up to AT_ONCE jobs."""
        reply: Any = self._redis.xreadgroup(GROUP, "w", {JOBS: ">"}, count=AT_ONCE, block=1000)
        entries = reply[0][1] if reply else []
        return [entry for entry, _ in entries], [fields[b"x"] for _, fields in entries]

    def answer(self, entries: list[bytes], raw: bytes, width: int) -> None:
        pipe = self._redis.pipeline(transaction=False)
        for at, entry in enumerate(entries):
            pipe.xadd(REPLIES, {"i": entry, "r": raw[at * width : at * width + width]})
        pipe.xack(JOBS, GROUP, *entries)
        pipe.xdel(JOBS, *entries)
        pipe.execute()

    def replies(self, last: bytes, count: int) -> tuple[list[bytes], bytes]:
        """(raw results, the last entry's id) of up to `count` replies after `last`."""
        reply: Any = self._redis.xread({REPLIES: last}, count=count, block=1000)
        entries = reply[0][1] if reply else []
        return [fields[b"r"] for _, fields in entries], (entries[-1][0] if entries else last)

    def drop_replies(self) -> None:
        self._redis.delete(REPLIES)

    def add(self, row: bytes) -> None:
        self._redis.xadd(JOBS, {"x": row})


class Raw:
    """The loop's commands over a bare socket."""

    def __init__(self, url: str) -> None:
        self._link = Link(url)
        self._link.connect()

    def create(self) -> None:
        self._link.call("XGROUP", "CREATE", JOBS, GROUP, "0", "MKSTREAM")

    def submit(self, rows: Sequence[bytes]) -> None:
        self._many([("XADD", JOBS, "*", "x", row) for row in rows])

    def jobs(self) -> tuple[list[bytes], list[bytes]]:
        reply = self._link.call(
            "XREADGROUP", "GROUP", GROUP, "w", "COUNT", AT_ONCE, "BLOCK", 1000, "STREAMS", JOBS, ">"
        )
        entries = reply[0][1] if reply else []
        return [entry for entry, _ in entries], [fields[1] for _, fields in entries]

    def answer(self, entries: list[bytes], raw: bytes, width: int) -> None:
        added = [
            ("XADD", REPLIES, "*", "i", entry, "r", raw[at * width : at * width + width])
            for at, entry in enumerate(entries)
        ]
        self._many([*added, ("XACK", JOBS, GROUP, *entries), ("XDEL", JOBS, *entries)])

    def replies(self, last: bytes, count: int) -> tuple[list[bytes], bytes]:
        reply = self._link.call("XREAD", "COUNT", count, "BLOCK", 1000, "STREAMS", REPLIES, last)
        entries = reply[0][1] if reply else []
        return [fields[3] for _, fields in entries], (entries[-1][0] if entries else last)

    def drop_replies(self) -> None:
        self._link.call("DEL", REPLIES)

    def add(self, row: bytes) -> None:
        self._link.call("XADD", JOBS, "*", "x", row)

    def _many(self, commands: list[Any]) -> None:
        self._link.send(*commands)
        for _ in commands:
            self._link.read()


CLIENTS: dict[str, type[RedisPy] | type[Raw]] = {"redis-py": RedisPy, "raw": Raw}


def work(client: RedisPy | Raw, graph: Path, features: int) -> None:
    """The worker: until SIGTERM. Reads, runs, answers; the next read waits for the answers' replies."""
    run = session(graph.read_bytes()).run
    for rows in (1, AT_ONCE):
        run(["logits"], {"x": np.zeros((rows, features), np.float32)})
    client.create()
    while True:
        entries, rows_ = client.jobs()
        if entries:
            x = np.frombuffer(b"".join(rows_), np.float32).reshape(len(entries), features)
            (logits,) = run(["logits"], {"x": x})
            client.answer(entries, logits.tobytes(), logits.shape[1] * 4)


class Producer:
    """The producing side: rows in, raw replies out. `link` is for looking at the server."""

    def __init__(self, url: str, kind: str) -> None:
        self.link = Link(url)
        self.link.connect()
        self._client = CLIENTS[kind](url)
        self._last = b"0"

    def submit(self, rows: NDArray[np.float32]) -> None:
        """XADD of every row, 256 in a pipeline."""
        for at in range(0, len(rows), AT_ONCE):
            self._client.submit([row.tobytes() for row in rows[at : at + AT_ONCE]])

    def collect(self, count: int) -> list[bytes]:
        """`count` raw results. Raises TimeoutError when the worker stays away."""
        results: list[bytes] = []
        deadline = time.monotonic() + PATIENCE_S
        while len(results) < count:
            raw, self._last = self._client.replies(self._last, READ_AT_ONCE)
            results += raw
            if not raw and time.monotonic() > deadline:
                raise TimeoutError(f"the bare worker answered {len(results)} of {count} jobs")
        return results

    def one(self, row: NDArray[np.float32]) -> bytes:
        """One job in flight: XADD, then a blocking read of its reply."""
        self._client.add(row.tobytes())
        (raw,), self._last = self._client.replies(self._last, 1)
        return raw

    def forget(self) -> None:
        """Drops the replies, between measurements; a longer stream would only cost memory."""
        self._client.drop_replies()
        self._last = b"0"


@contextlib.contextmanager
def worker(url: str, kind: str, graph: Path, features: int) -> Iterator[int]:
    """A running worker process; its pid."""
    command = [sys.executable, "-m", "benchmarks.bare", url, kind, str(graph), str(features)]
    process = subprocess.Popen(command, cwd=Path(__file__).resolve().parent.parent)
    try:
        link = Link(url)
        link.connect()
        deadline = time.monotonic() + PATIENCE_S
        while not link.call("EXISTS", JOBS):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the bare worker did not start; its error is above")
            time.sleep(0.02)
        link.close()
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)


if __name__ == "__main__":
    work(CLIENTS[sys.argv[2]](sys.argv[1]), Path(sys.argv[3]), int(sys.argv[4]))
