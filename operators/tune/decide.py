"""From what was measured to max_rows, row buckets, slots and wait. Pure: values in, values and their reasons out.

A job that comes at the wrong moment waits for the batch in progress, then for its own: 2 T(n) and the queue's own time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

NEAR_PEAK = 0.97  # of the best rows/s; what the last 3 % cost is latency
CHEAP = 1.10  # a bucket goes where padding to the next one takes at most this much longer
STEEP = 1.25  # a size in between is tried where the next bucket takes more than this
MOST_ROW_BUCKETS = 12  # each is warmed at every start
WORTH_A_SLOT = 1.10  # what one slot more must gain
QUEUE_MS = 2.0  # p99 of what submit, claim, settle and the way back take on one host


class Step(msgspec.Struct, frozen=True):
    """One batch size. `ms` over the data's shapes, `slowest_ms` p99 of the slowest shape that counts, `bytes` of one slot."""

    rows: int
    ms: float
    slowest_ms: float
    bytes: int = 0
    problem: str = ""

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.ms * 1e3 if self.ms else 0.0


class Target(msgspec.Struct, frozen=True):
    """What is asked for; None is no limit. `memory_bytes` of all slots together."""

    latency_ms: float | None = None
    memory_bytes: int | None = None

    def is_too_slow(self, slowest_ms: float) -> bool:
        return self.latency_ms is not None and p99_of(slowest_ms) > self.latency_ms

    def is_too_large(self, size: int) -> bool:
        return self.memory_bytes is not None and size > self.memory_bytes


class Choice(msgspec.Struct, frozen=True):
    """`step` is None when nothing fits the target; `reason` then says what is nearest. A word for each size in `verdicts`."""

    step: Step | None
    reason: str
    verdicts: dict[int, str]


class Heat(msgspec.Struct, frozen=True):
    """So many slots at once: rows/s of all, p99 of a batch, bytes of all."""

    slots: int
    rows_per_s: float
    slowest_ms: float
    bytes: int = 0
    problem: str = ""


def p99_of(slowest_ms: float) -> float:
    """What 99 of 100 jobs stay under when a batch takes at most `slowest_ms`, below saturation."""
    return 2 * slowest_ms + QUEUE_MS


def choose(steps: Sequence[Step], target: Target) -> Choice:
    """The smallest size with 97 % of the best rows/s among those that fit the target. `steps` ascend."""
    verdicts: dict[int, str] = {}
    fit: list[Step] = []
    for step in steps:
        if step.problem:
            verdicts[step.rows] = step.problem
        elif target.is_too_large(step.bytes):
            verdicts[step.rows] = f"over the {(target.memory_bytes or 0) / 1e6:.0f} MB there are"
        elif target.is_too_slow(step.slowest_ms):
            verdicts[step.rows] = f"p99 {p99_of(step.slowest_ms):.1f} ms, over --latency-ms"
        else:
            fit.append(step)
    if not fit:
        return Choice(None, _nearest(steps, target), verdicts)
    peak = max(fit, key=lambda step: step.rows_per_s)
    chosen = next(step for step in fit if step.rows_per_s >= NEAR_PEAK * peak.rows_per_s)
    for step in fit:
        gained = step.rows_per_s / chosen.rows_per_s - 1
        if step is chosen:
            verdicts[step.rows] = "the knee" if len(fit) == len(steps) else "the largest worth it within the target"
        elif step.rows > chosen.rows:
            verdicts[step.rows] = (
                f"past the knee: {100 * gained:+.0f} % rows/s, {step.ms / chosen.ms:.1f} times the latency"
            )
        else:
            verdicts[step.rows] = f"{-100 * gained:.0f} % fewer rows/s"
    of_peak = 100 * chosen.rows_per_s / peak.rows_per_s
    best = f"{of_peak:.0f} % of the best, that of {peak.rows}" if chosen is not peak else "the best"
    reason = (
        f"{chosen.rows_per_s:,.0f} rows/s, {best}; a batch takes {chosen.ms:.1f} ms, "
        f"so p99 is about {p99_of(chosen.slowest_ms):.1f} ms below saturation"
    )
    return Choice(chosen, reason, verdicts)


def _nearest(steps: Sequence[Step], target: Target) -> str:
    """One line on what could be had, with the mend."""
    ran = [step for step in steps if not step.problem]
    if not ran:
        return f"no batch size runs: {steps[0].problem if steps else 'nothing was measured'}"
    least = min(ran, key=lambda step: step.bytes)
    if target.is_too_large(least.bytes):
        return (
            f"{(target.memory_bytes or 0) / 1e6:.0f} MB are out of reach: one slot with {least.rows} "
            f"row{'s' if least.rows > 1 else ''} a batch takes {least.bytes / 1e6:.0f} MB; give --memory-mb that much, or serve a smaller model"
        )
    best = min(ran, key=lambda step: step.slowest_ms)
    return (
        f"--latency-ms {target.latency_ms:g} is out of reach: the best is {p99_of(best.slowest_ms):.1f} ms, with {best.rows} "
        f"row{'s' if best.rows > 1 else ''} a batch (a batch in progress, its own, {QUEUE_MS:g} ms of queue); ask for that, "
        "or take a faster device or a smaller model"
    )


# --- row buckets ----------------------------------------------------------------------------


def between(steps: Sequence[Step], max_rows: int) -> list[int]:
    """Sizes worth measuring besides: halfway between two where the larger one takes much longer."""
    kept = [step for step in steps if step.rows <= max_rows and not step.problem]
    return [
        (low.rows + high.rows) // 2
        for low, high in pairwise(kept)
        if high.ms > STEEP * low.ms and high.rows - low.rows > 1
    ]


def thin(steps: Sequence[Step], max_rows: int) -> tuple[tuple[int, ...], dict[int, str]]:
    """The row buckets to keep, and why others go. 1 stays: a job alone is the commonest batch of a quiet pool."""
    kept = [step for step in steps if step.rows <= max_rows and not step.problem]
    dropped: dict[int, str] = {}

    def cost(place: int) -> float:
        return kept[place + 1].ms / kept[place].ms

    while len(kept) > 2:
        place = min(range(1, len(kept) - 1), key=cost)
        if cost(place) > CHEAP and len(kept) <= MOST_ROW_BUCKETS:
            break
        gone = kept[place]
        dropped[gone.rows] = (
            f"no bucket: padding to {kept[place + 1].rows} takes {100 * (cost(place) - 1):.0f} % longer"
        )
        del kept[place]
    return tuple(step.rows for step in kept), dropped


def padding(steps: Sequence[Step], buckets: Sequence[int]) -> float:
    """Share of time spent on padding when every number of rows up to the last bucket is as likely."""
    known = [step for step in steps if step.rows <= buckets[-1] and not step.problem]
    spent = needed = 0.0
    for rows in range(1, buckets[-1] + 1):
        needed += _ms(known, rows)
        spent += _ms(known, next(bucket for bucket in buckets if bucket >= rows))
    return 1 - needed / spent if spent else 0.0


def _ms(steps: Sequence[Step], rows: int) -> float:
    """T on the straight line between its neighbours."""
    for low, high in pairwise(steps):
        if low.rows <= rows <= high.rows:
            return low.ms + (high.ms - low.ms) * (rows - low.rows) / (high.rows - low.rows)
    return steps[-1].ms


# --- wait and slots -------------------------------------------------------------------------


def wait(chosen: Step, target: Target, now_ms: float) -> tuple[float | None, str]:
    """max_wait_ms where the target leaves less than the present `now_ms`; None: it stays, and why.

    It is only an upper bound: slots learn by themselves when waiting pays, and a model that gains nothing by it is not held up.
    """
    if target.latency_ms is None:
        return None, "slots learn when waiting pays, this is their upper bound; --latency-ms may lower it"
    slack = target.latency_ms - p99_of(chosen.slowest_ms)
    if slack >= now_ms:
        return None, f"the target leaves {slack:.1f} ms, which is enough for it"
    return int(10 * slack) / 10, f"the target leaves {slack:.1f} ms: no batch may wait longer for company"


def slots(heats: Sequence[Heat], target: Target) -> tuple[int, str]:
    """How many slots on the device: each more must gain 10 % and keep within the target. `heats` ascend from one slot."""
    best = heats[0]
    if best.problem:
        return 1, f"it did not run again: {best.problem}"
    for heat in heats[1:]:
        if heat.problem:
            return best.slots, f"{heat.slots} do not run together: {heat.problem}"
        if target.is_too_large(heat.bytes):
            return (
                best.slots,
                f"{heat.slots} take {heat.bytes / 1e6:.0f} MB, over the {(target.memory_bytes or 0) / 1e6:.0f} MB there are",
            )
        if target.is_too_slow(heat.slowest_ms):
            return best.slots, f"with {heat.slots} a batch takes {heat.slowest_ms:.1f} ms: p99 would pass --latency-ms"
        gain = heat.rows_per_s / best.rows_per_s
        if gain < WORTH_A_SLOT:
            return best.slots, f"{heat.slots} engines do {gain:.2f} times the rows/s of {best.slots}: under 10 % more"
        best = heat
    if best.slots == 1:
        return 1, "a second one was not tried: no core, place (pool.most_slots) or time for it"
    gain = best.rows_per_s / heats[0].rows_per_s
    return best.slots, f"{best.slots} engines do {gain:.2f} times the rows/s of one: {best.rows_per_s:,.0f}"
