"""Some producers in one process, each a thread with a `Producer` of its own: its own client id, connections and reply list.

Started by `producers` as `python -m benchmarks.scale.crowd URL MODEL PRODUCERS JOBS_EACH CHUNK`. Says `ready` once all are connected and
have had an answer, floods when a line comes in, prints what it saw as JSON, and hangs up when its input ends.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from benchmarks import flood, sleeper
from producer import Producer

TIMEOUT_S = 120.0


def main(url: str, model: str, count: int, jobs_each: int, chunk: int) -> None:
    """The process."""
    x = flood.rows(chunk, sleeper.FEATURES)
    producers = [Producer(url) for _ in range(count)]
    for producer in producers:
        producer.infer(model, x[0], TIMEOUT_S)
    submit_ms: list[float] = []
    failures: list[str] = []
    start = threading.Event()

    def flood_once(producer: Producer) -> None:
        start.wait()
        handles = []
        try:
            for at in range(0, jobs_each, chunk):
                before = time.perf_counter()
                handles += producer.submit_many(model, x[: min(chunk, jobs_each - at)])
                submit_ms.append((time.perf_counter() - before) * 1e3)
            for handle in handles:
                handle.result(TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 - the edge of a thread: told to whoever started this process
            failures.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=flood_once, args=(producer,)) for producer in producers]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    sys.stdin.readline()
    cpu_before = time.process_time()
    start.set()
    for thread in threads:
        thread.join()
    print(
        json.dumps({"submit_ms": submit_ms, "failures": failures, "cpu_s": time.process_time() - cpu_before}),
        flush=True,
    )
    sys.stdin.read()
    for producer in producers:
        producer.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
