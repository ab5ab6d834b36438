"""`make demo`: a pool under supervisord classifies real files of this machine while one slot is killed and another retires.

Starts the embedded Redis and two slots on the magika model as `penstock up` does, sends every file's bytes through a Producer,
and checks what the pool promises. Exits non-zero when a figure is wrong; leaves the model and var/demo.json in var/.

    lost            files whose job brought no answer
    answered twice  results written after a job's first, as the Redis server announced them, and answers given again
    accuracy        answers whose label is one of those right for the file's extension (see `files`), of all files
    mean batch      files by distinct forward passes: all jobs of one pass carry its very duration; what the killed slot held
                    carries a crash mark and runs alone, one file a pass
    p50, p99        from submit to outcome, with at most WINDOW files queued or unread
    restarts        ends of slots by reason, as the slots themselves noted them
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from statistics import quantiles
from typing import Any

from benchmarks import files, magika, report
from benchmarks.ledger import Ledger
from benchmarks.pools import Pool, running
from benchmarks.stand import ROOT
from broker import keys
from broker.errors import JobFailed, PenstockError, ResultTimeout
from producer import Producer

FILES = 2200
LEAST_FILES = 2000
LEAST_ACCURACY = 0.9
WINDOW = 256
# Each of two slots is to run about 1 100 files: both reach this well before the end, killed or not.
RETIRE = {"max_jobs": 450, "jitter": 0.1, "min_life_s": 0.0, "min_life_loads": 0.0}
ANSWER_WITHIN_S = 45.0
RESTART_WITHIN_S = 20.0
TOML = ROOT / "var" / "demo.toml"
JSON = ROOT / "var" / "demo.json"


class Answers:
    """What came back, by the file's place; counted as it comes."""

    def __init__(self, samples: list[files.Sample]) -> None:
        self.samples = samples
        self.seen: Counter[int] = Counter()
        self.right = self.failed = 0
        self.total_ms: list[float] = []
        self.passes: set[float] = set()
        self.errors: Counter[str] = Counter()

    def add(self, answer: Any) -> None:
        """A Result, or the JobFailed in its place."""
        self.seen[answer.index] += 1
        if isinstance(answer, JobFailed):
            self.failed += 1
            self.errors[answer.reason] += 1
            return
        self.right += self.samples[answer.index].is_labelled(answer.value["label"])
        self.total_ms.append(answer.timings.total_ms)
        self.passes.add(answer.timings.forward_ms)


def classify(pool: Pool, samples: list[files.Sample]) -> tuple[Answers, float]:
    """All files through the pool, one slot killed after a third of the answers; the answers and the seconds it took."""
    answers = Answers(samples)
    has_killed = False
    started = time.monotonic()
    with Producer(pool.settings.redis_url) as producer:
        results = producer.map(
            pool.model, (sample.content for sample in samples), window=WINDOW, ordered=False,
            timeout=ANSWER_WITHIN_S, return_errors=True,
        )  # fmt: skip
        try:
            for answer in results:
                answers.add(answer)
                count = len(answers.seen)
                if count % 100 == 0:
                    pool.states()
                    progress(f"{count} of {len(samples)} files, {count / (time.monotonic() - started):.0f}/s")
                if not has_killed and count >= len(samples) // 3:
                    has_killed = kill_one(pool)
        except ResultTimeout as error:
            print(f"demo: {error}", file=sys.stderr)
    return answers, time.monotonic() - started


def kill_one(pool: Pool) -> bool:
    """SIGKILL to a slot that works and holds jobs; whether there was one."""
    for name, state in sorted(pool.states().items()):
        if state["state"] == "ready" and int(state["held"]):
            progress(f"kill -9 of slot {name} (pid {state['pid']}), which holds {state['held']} jobs")
            os.kill(int(state["pid"]), signal.SIGKILL)
            return True
    return False


def await_restarts(pool: Pool) -> dict[str, int]:
    """Restarts by reason, once those the demo causes are noted: a killed slot's is by its next incarnation."""
    deadline = time.monotonic() + RESTART_WITHIN_S
    while not {"killed", "max_jobs"} <= (restarts := pool.restarts()).keys() and time.monotonic() < deadline:
        time.sleep(0.1)
    return restarts


def demo() -> dict[str, Any]:
    """Everything; the figures. Raises PenstockError, magika.Missing."""
    progress("looking for files")
    samples = files.find(FILES)
    progress("building the magika model")
    artifact = magika.build()
    progress("starting Redis and two slots")
    with running(TOML, model="magika", artifact=artifact, slots=2, retire=RETIRE) as pool:
        ledger = Ledger(pool.settings.redis_url_as("admin"), pool.model)
        ledger.start()
        answers, took_s = classify(pool, samples)
        restarts = await_restarts(pool)
        ledger.stop()
        raw = pool.link.call("HGETALL", keys.counters(pool.model))
        counters = {name.decode(): value.decode() for name, value in zip(raw[::2], raw[1::2], strict=True)}
        about = report.about(pool.link)
        progress("draining the pool")
    again = sum(count - 1 for count in answers.seen.values())
    centiles = quantiles(answers.total_ms, n=100) if len(answers.total_ms) > 1 else [0.0] * 99
    return {
        "files": len(samples),
        "lost": len(samples) - len(answers.seen),
        "twice": ledger.twice() + again,
        "failed": answers.failed,
        "accuracy": round(answers.right / max(1, len(samples)), 4),
        "files_per_s": round(len(answers.seen) / took_s, 1),
        "mean_batch": round(len(answers.total_ms) / max(1, len(answers.passes)), 1),
        "p50_ms": round(centiles[49], 1),
        "p99_ms": round(centiles[98], 1),
        "restarts": restarts,
        "results_written": len(ledger.writes),
        "counted_done": int(counters.get("done", 0)),
        "is_ledger_whole": not ledger.is_broken,
        "errors": dict(answers.errors),
        **about,
    }


def wrong(figures: dict[str, Any]) -> list[str]:
    """A sentence for every figure that is not as promised."""
    found = []
    if figures["files"] < LEAST_FILES:
        looked = ", ".join(str(root) for root in files.roots())
        found.append(f"only {figures['files']} files of known kinds in {looked}; {LEAST_FILES} are needed")
    found += [
        f"{figures[name]} {text}" for name, text in (("lost", "lost"), ("twice", "answered twice")) if figures[name]
    ]
    found += [f"{figures['failed']} failed: {figures['errors']}"] if figures["failed"] else []
    if figures["accuracy"] < LEAST_ACCURACY:
        found.append(f"accuracy {figures['accuracy']:.3f} is under {LEAST_ACCURACY}")
    found += [f"no slot ended by `{name}`" for name in ("killed", "max_jobs") if not figures["restarts"].get(name)]
    ends = figures["counted_done"] + figures["failed"]
    if not figures["is_ledger_whole"] or not figures["results_written"] == ends == figures["files"]:
        found.append(
            f"{figures['files']} files, but {figures['results_written']} results written and {ends} jobs ended by the "
            "pool's own count"
        )
    return found


def table(figures: dict[str, Any]) -> str:
    """The figures as they are printed."""
    restarts = ", ".join(f"{reason} {count}" for reason, count in figures["restarts"].items()) or "none"
    rows = [
        ("figure", "value"),
        ("files", str(figures["files"])),
        ("lost", str(figures["lost"])),
        ("answered twice", str(figures["twice"])),
        ("accuracy by extension", f"{figures['accuracy']:.1%}"),
        ("files/s", f"{figures['files_per_s']:.0f}"),
        ("mean batch", f"{figures['mean_batch']:.1f}"),
        (f"p50 / p99, {WINDOW} in flight", f"{figures['p50_ms']:.0f} / {figures['p99_ms']:.0f} ms"),
        ("slots ended", restarts),
    ]
    return f"{report.table(rows, right=())}\n\n{figures['machine']}, {figures['cores']} cores; {figures['server']}"


def progress(text: str) -> None:
    """One line that renews itself; nothing where nobody watches."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 when every figure is as promised."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.demo", description=(__doc__ or "").partition("\n")[0]
    ).parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the pool is taken down then, too
    JSON.unlink(missing_ok=True)
    try:
        figures = demo()
    except (PenstockError, magika.Missing) as error:
        progress("")
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        progress("")
        print("demo: stopped; the pool is down", file=sys.stderr)
        return 130
    progress("")
    JSON.write_text(json.dumps(figures, indent=2) + "\n")
    print(table(figures))
    troubles = wrong(figures)
    for trouble in troubles:
        print(f"demo: {trouble}", file=sys.stderr)
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
