"""A bulk run that keeps the pool busy while something else is measured: submitted as a user would, looked at, cancelled afterwards.

What is measured beside it is worth something only if the run was at work all the time: `require_at_work` says so or raises.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from benchmarks.forwards import Forward, longest_gap_s, within
from benchmarks.pools import Pool
from broker import runs
from broker.connection import Link

BEGINS_WITHIN_S, ENDS_WITHIN_S, POLL_S = 30.0, 30.0, 0.05
LOOK_EVERY_S = 0.25
LONGEST_GAP_S = 0.25  # without a row of the run in a forward; what the machine stalls for is less
FED_SHARE = 0.8  # of the forwards carry rows of the run; after a stall the high lane fills some by itself


class Look(msgspec.Struct, frozen=True):
    """What Redis said of the run at a monotonic time."""

    at: float
    state: str
    rows_done: int


class Work(msgspec.Struct, frozen=True):
    """What the run did in the measured time. `low_ms`: of each forward that held its rows and no others."""

    rows_per_s: float
    written_per_s: float
    low_ms: list[float]
    fed_share: float
    longest_gap_s: float


@contextlib.contextmanager
def at_work(pool: Pool, source: Path, target: Path) -> Iterator[str]:
    """The id of a run that has written its first part; cancelled after the block. Raises RuntimeError."""
    request = runs.Request(
        input=str(source), output=str(target), model=pool.model, mapping={"keys": ["id"], "inputs": {"x": ["f*"]}}
    )
    id = runs.run_id(request, str(target), "")
    runs.submit(pool.link, request, id, version="", fingerprint="")
    try:
        deadline = time.monotonic() + BEGINS_WITHIN_S
        while not (view := runs.view(pool.link, id)).rows_done:
            if view.is_final or time.monotonic() > deadline:
                raise RuntimeError(f"run {id} wrote nothing in {BEGINS_WITHIN_S:g} s and is {view.state}: {view.error}")
            time.sleep(POLL_S)
        yield id
    finally:
        _cancel(pool.link, id)


def _cancel(link: Link, id: str) -> None:
    view = runs.view(link, id)
    if not view.is_final:
        runs.ask(link, id, "cancel")
    deadline = time.monotonic() + ENDS_WITHIN_S
    while not view.is_final:
        if time.monotonic() > deadline:
            raise RuntimeError(f"run {id} was cancelled and is still {view.state} after {ENDS_WITHIN_S:g} s")
        time.sleep(POLL_S)
        view = runs.view(link, id)


class Watch:
    """Looks at a run a few times a second, from a thread, for as long as its block lasts."""

    def __init__(self, url: str, id: str) -> None:
        self.looks: list[Look] = []
        self._link = Link(url)
        self._id = id
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._link.connect()
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(10)
        self._look()
        self._link.close()

    def _run(self) -> None:
        while not self._is_over.wait(LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        view = runs.view(self._link, self._id)
        self.looks.append(Look(time.monotonic(), view.state, view.rows_done))


def require_at_work(looks: Sequence[Look], noted: Sequence[Forward], *, parts: int, part_s: float) -> Work:
    """What the run did in so many parts from the first look on; what came later is not looked at. Raises RuntimeError unless it
    ran at each look, wrote rows in each part, and had its rows in the forwards all the time."""
    looks = [look for look in looks if look.at <= looks[0].at + parts * part_s]
    first, last = looks[0], looks[-1]
    others = sorted({look.state for look in looks} - {"running"})
    if others:
        raise RuntimeError(f"the run was {' and '.join(others)} while something was measured beside it")
    for number in range(parts):
        before, after = (
            max(look.rows_done for look in looks if look.at <= first.at + at * part_s) for at in (number, number + 1)
        )
        if after <= before:
            raise RuntimeError(f"the run wrote no row in part {number + 1} of {parts}, {part_s:g} s long")
    during = within(noted, first.at, last.at)
    fed = [one for one in during if one.others]
    share, gap_s = len(fed) / max(1, len(during)), longest_gap_s(fed, first.at, last.at)
    if share < FED_SHARE or gap_s > LONGEST_GAP_S:
        raise RuntimeError(
            f"the run did not keep the slot busy: its rows were in {share:.1%} of the forwards, once in none for {gap_s * 1e3:.0f} ms"
        )
    low_ms = [one.took_s * 1e3 for one in fed if not one.marked]
    if not low_ms:
        raise RuntimeError("no batch of the run alone was forwarded, so none could be timed")
    seconds = last.at - first.at
    return Work(
        rows_per_s=sum(one.others for one in fed) / seconds,
        written_per_s=(last.rows_done - first.rows_done) / seconds,
        low_ms=low_ms,
        fed_share=share,
        longest_gap_s=gap_s,
    )
