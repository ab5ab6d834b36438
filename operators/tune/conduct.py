"""The course of one tuning: what is asked of the measuring program, in which order, and how long it may take.

Sizes ascend until one does not fit, breaks the target, gains nothing, or would take more time than there is; what follows from
the figures decide `decide` and `dims`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from operators.tune import decide, dims
from operators.tune.decide import Choice, Heat, Step, Target
from operators.tune.program import Program
from operators.tune.steps import sizes, step_of
from workers.tune.words import Cell, Open, Opened, Race, Raced, Share, Time, Warm, Warmed

MOST_SHAPES = 8  # measured; the rarer ones count as none
CELL_S = 3.0  # at most, however long one has
WALK_SHARE = 0.55  # of the time that is left after loading; the rest is for sizes in between and for slots
FLAT = 1.03  # a size that gains less than this over the best so far is one of two that end the walk
LEAST_RACE_S, MOST_RACE_S = 1.0, 4.0


class Wishes(msgspec.Struct, frozen=True):
    """What is asked for. `most_slots` bounds how many are tried, `max_wait_ms` is what slots have now."""

    target: Target
    budget_s: float
    most_slots: int
    max_wait_ms: float


class Tuned(msgspec.Struct, frozen=True):
    """What came out. Without `choice.step` nothing fits, and `choice.reason` says what is nearest."""

    model: Opened
    target: Target
    shapes: list[Share]  # those measured
    cells: list[Cell]
    steps: list[Step]
    choice: Choice
    row_buckets: tuple[int, ...]
    padding_share: float
    padding_before: float  # with powers of two
    slots: int
    heats: list[Heat]
    max_wait_ms: float | None  # None: as it is
    reasons: dict[str, str]
    padding: list[dims.Padding]
    seconds: float


class Conductor:
    """One tuning of one model."""

    def __init__(
        self,
        program: Program,
        wishes: Wishes,
        *,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._program = program
        self._wishes = wishes
        self._say = say
        self._clock = clock
        self._began = clock()
        self._cells: list[Cell] = []
        self._weights: dict[tuple[int, ...], float] = {}

    def tune(self, question: Open) -> Tuned:
        """Raises ArtifactError when the model or the data cannot be used."""
        opened = self._program.ask(question, Opened)
        self._say(f"loaded {opened.name} {opened.version} on {opened.device} in {opened.load_s:.1f} s")
        shapes = opened.shares[:MOST_SHAPES]
        self._weights = {share.dims: share.rows for share in shapes}
        tried = sizes(opened.max_rows)
        if opened.device != "cpu":  # there a warm-up changes the times: graphs are captured for each bucket
            fit = [step.rows for step in self._walk(tried, is_quick=True) if not step.problem]
            tried = fit or tried[:1]
            self._program.ask(Warm(tuple(tried)), Warmed)
        memory = {cell.rows: cell for cell in self._cells}
        self._cells = []
        steps = self._walk(tried)
        if memory:  # taken while they ascended; a warm engine holds that of all sizes
            steps = [msgspec.structs.replace(step, bytes=_bytes(memory[step.rows])) for step in steps]
        choice = decide.choose(steps, self._wishes.target)
        return self._finish(opened, shapes, steps, choice)

    # --- batch sizes ----------------------------------------------------------------------------

    def _walk(self, tried: list[int], *, is_quick: bool = False) -> list[Step]:
        """Steps in ascending order, until going on is pointless."""
        steps: list[Step] = []
        until = self._clock() + WALK_SHARE * self._left_s()
        for place, rows in enumerate(tried):
            left_s = until - self._clock()
            if steps and 2 * 4 * len(self._weights) * steps[-1].ms / 1e3 > left_s:
                self._say(f"{rows} rows and more: no time left within --budget-s")
                break
            cell_s = 0.0 if is_quick else min(CELL_S, left_s / (len(tried) - place) / len(self._weights))
            steps.append(self._step(rows, cell_s))
            if self._is_over(steps, is_quick=is_quick):
                break
        return steps

    def _step(self, rows: int, cell_s: float) -> Step:
        cells = []
        for shape in self._weights:
            cells.append(self._program.ask(Time(rows, shape, max(0.0, cell_s)), Cell))
            if cells[-1].problem:
                break
        self._cells += cells
        step = step_of(cells, self._weights)
        if cell_s > 0 or step.problem:
            self._say(f"{rows} rows: {step.problem or f'{step.ms:.2f} ms, {step.rows_per_s:,.0f} rows/s'}")
        return step

    def _is_over(self, steps: list[Step], *, is_quick: bool) -> bool:
        last, target = steps[-1], self._wishes.target
        if last.problem or target.is_too_large(last.bytes):
            return True
        if is_quick:
            return False
        if target.is_too_slow(last.slowest_ms):
            return True
        before = max((step.rows_per_s for step in steps[:-2]), default=0.0)
        return before > 0 and all(step.rows_per_s < FLAT * before for step in steps[-2:])

    # --- what follows ---------------------------------------------------------------------------

    def _finish(self, opened: Opened, shapes: list[Share], steps: list[Step], choice: Choice) -> Tuned:
        chosen = choice.step
        buckets: tuple[int, ...] = ()
        before = after = 0.0
        wait_ms: float | None = None
        heats: list[Heat] = []
        slots, reasons = 0, {"max_rows": choice.reason}
        verdicts = dict(choice.verdicts)
        if chosen is not None:
            before = decide.padding(steps, [step.rows for step in steps if step.rows <= chosen.rows])
            if opened.device == "cpu":  # elsewhere a size that was not warmed takes longer than it would in a slot
                steps = self._refined(steps, chosen)
            buckets, dropped = decide.thin(steps, chosen.rows)
            after = decide.padding(steps, buckets)
            verdicts |= {rows: "a bucket" for rows in buckets if rows not in verdicts} | dropped
            reasons["row_buckets"] = f"batches of all sizes spend {100 * after:.0f} % of their time on padding" + (
                f", {100 * before:.0f} % with powers of two" if before - after >= 0.01 else ""
            )
            wait_ms, reasons["max_wait_ms"] = decide.wait(chosen, self._wishes.target, self._wishes.max_wait_ms)
            heats = self._race(buckets, chosen)
            slots, reasons["slots"] = decide.slots(heats, self._wishes.target)
        padding = [
            dims.propose(dim, found, opened.buckets[dim]) for dim, found in opened.sizes.items() if opened.has_data
        ]
        return Tuned(
            opened, self._wishes.target, shapes, self._cells, steps,
            msgspec.structs.replace(choice, verdicts=verdicts), buckets, after, before, slots, heats, wait_ms, reasons,
            padding, self._clock() - self._began,
        )  # fmt: skip

    def _refined(self, steps: list[Step], chosen: Step) -> list[Step]:
        """With sizes in between, where padding up to the next one is dear and time is left."""
        missing = decide.between(steps, chosen.rows)
        spare_s = 0.5 * self._left_s() / max(1, len(missing) * len(self._weights))
        more = []
        for rows in missing:
            if 4 * len(self._weights) * chosen.ms / 1e3 > 0.5 * self._left_s():
                break
            step = self._step(rows, min(CELL_S / 2, spare_s))
            if not step.problem:
                more.append(step)
        return sorted([*steps, *more], key=lambda step: step.rows)

    def _race(self, buckets: tuple[int, ...], chosen: Step) -> list[Heat]:
        """One slot, two, and so on, as long as each gains and there is time."""
        heats: list[Heat] = []
        load_s = 0.0
        while len(heats) < self._wishes.most_slots:
            enough_s = max(LEAST_RACE_S, 20 * chosen.ms / 1e3)
            seconds = min(MOST_RACE_S, enough_s, max(0.2, 0.5 * self._left_s()))
            if heats and load_s + seconds > self._left_s():
                self._say(f"{len(heats) + 1} slots: no time left within --budget-s")
                break
            began = self._clock()
            heat = self._heat(len(heats) + 1, buckets, seconds)
            load_s = max(0.0, self._clock() - began - seconds)
            if not heat.problem and seconds <= self._left_s():  # what else the machine did meanwhile only slows it down
                again = self._heat(heat.slots, buckets, seconds)
                heat = again if again.problem or again.rows_per_s > heat.rows_per_s else heat
            heats.append(heat)
            self._say(f"{_engines(heat.slots)}: {heat.problem or f'{heat.rows_per_s:,.0f} rows/s'}")
            if heat.problem or decide.slots(heats, self._wishes.target)[0] < len(heats):
                break
        return heats

    def _heat(self, engines: int, buckets: tuple[int, ...], seconds: float) -> Heat:
        raced = self._program.ask(Race(engines, buckets, seconds), Raced)
        return Heat(raced.engines, raced.rows_per_s, raced.p99_ms, _bytes(raced), raced.problem)

    def _left_s(self) -> float:
        return max(0.0, self._wishes.budget_s - (self._clock() - self._began))


def _bytes(one: Cell | Raced) -> int:
    return one.host_bytes if one.device_bytes is None else one.device_bytes


def _engines(count: int) -> str:
    return f"{count} engine" + ("s at once" if count > 1 else "")
