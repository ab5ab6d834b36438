"""The bare Streams loop everything is measured against: what Redis, hiredis and ONNX Runtime do with no Penstock between.

It must be the fastest honest one, so that the ratios are worth something: hiredis, one producer pipelining XADD by 256,
one worker process with XREADGROUP COUNT 256, one session.run per read, then one pipeline of XADD to a reply stream
(id and result, per job), XACK and XDEL. No model versions, limits, leases, retries, timings or stored results.

Commands are packed by hiredis and sent over one socket (broker.connection.Link). The same loop written with redis-py's client
and pipelines was tried and gives six tenths of it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.connection import Link

JOBS, REPLIES, GROUP = "bare:jobs", "bare:replies", "workers"
AT_ONCE = 256
READ_AT_ONCE = 1000
PATIENCE_S = 60.0


def session(graph: bytes) -> Any:
    """An ONNX Runtime session as the slot's engine makes it: CPU, one thread, no spinning."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def work(url: str, graph: Path, features: int) -> None:
    """The worker: until SIGTERM. Reads, runs, answers; the next read waits for the answers' replies."""
    run = session(graph.read_bytes()).run
    for rows in (1, AT_ONCE):
        run(["logits"], {"x": np.zeros((rows, features), np.float32)})
    link = Link(url)
    link.connect()
    link.call("XGROUP", "CREATE", JOBS, GROUP, "0", "MKSTREAM")
    read = ("XREADGROUP", "GROUP", GROUP, "w", "COUNT", AT_ONCE, "BLOCK", 1000, "STREAMS", JOBS, ">")
    while True:
        reply = link.call(*read)
        if not reply:
            continue
        entries = reply[0][1]
        ids = [entry for entry, _ in entries]
        x = np.frombuffer(b"".join([fields[1] for _, fields in entries]), np.float32).reshape(len(ids), features)
        (logits,) = run(["logits"], {"x": x})
        raw, width = logits.tobytes(), logits.shape[1] * 4
        commands = [
            ("XADD", REPLIES, "*", "i", entry, "r", raw[at * width : at * width + width])
            for at, entry in enumerate(ids)
        ]
        link.send(*commands, ("XACK", JOBS, GROUP, *ids), ("XDEL", JOBS, *ids))
        for _ in range(len(ids) + 2):
            link.read()


class Producer:
    """The producing side: raw rows in, raw replies out."""

    def __init__(self, url: str) -> None:
        self.link = Link(url)
        self.link.connect()
        self.last = "0"

    def submit(self, rows: NDArray[np.float32]) -> None:
        """XADD of every row, 256 in a pipeline."""
        link = self.link
        for at in range(0, len(rows), AT_ONCE):
            part = rows[at : at + AT_ONCE]
            link.send(*[("XADD", JOBS, "*", "x", row.tobytes()) for row in part])
            for _ in range(len(part)):
                link.read()

    def collect(self, count: int) -> list[bytes]:
        """`count` raw results. Raises TimeoutError when the worker stays away."""
        results: list[bytes] = []
        deadline = time.monotonic() + PATIENCE_S
        while len(results) < count:
            reply = self.link.call("XREAD", "COUNT", READ_AT_ONCE, "BLOCK", 1000, "STREAMS", REPLIES, self.last)
            if reply:
                entries = reply[0][1]
                results += [fields[3] for _, fields in entries]
                self.last = entries[-1][0]
            elif time.monotonic() > deadline:
                raise TimeoutError(f"the bare worker answered {len(results)} of {count} jobs")
        return results

    def one(self, row: NDArray[np.float32]) -> bytes:
        """One job in flight: XADD, then a blocking read of its reply."""
        link = self.link
        link.call("XADD", JOBS, "*", "x", row.tobytes())
        reply = link.call("XREAD", "COUNT", 1, "BLOCK", 1000, "STREAMS", REPLIES, self.last)
        self.last, fields = reply[0][1][0]
        return bytes(fields[3])

    def forget(self) -> None:
        """Drops the replies, between measurements; a longer stream would only cost memory."""
        self.link.call("DEL", REPLIES)
        self.last = "0"


@contextlib.contextmanager
def worker(url: str, graph: Path, features: int) -> Iterator[int]:
    """A running worker process; its pid."""
    command = [sys.executable, "-m", "benchmarks.bare", url, str(graph), str(features)]
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
    work(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
