"""The course of a tuning, with a measuring program that answers from a table and a clock that it moves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from operators.tune import paper
from operators.tune.conduct import Conductor, Tuned, Wishes
from operators.tune.decide import Target
from workers.tune.words import Cell, Open, Opened, Race, Raced, Share, Time, Warm, Warmed

NO_LIMIT = Target()
QUESTION = Open("model", "trusted.txt", "data", "cpu", 1, 0.0, 1 << 20, 10.0, 10.0)


class FakeProgram:
    """T is `ms(rows, dims)`; from `too_large` rows on there is no memory. Each forward moves the clock."""

    def __init__(
        self, ms: Callable[[int, tuple[int, ...]], float], *, device: str = "cpu", max_rows: int = 64,
        shares: list[Share] | None = None, too_large: int = 1 << 20, gain: float = 0.5, sizes: dict[int, int] | None = None,
        noise: Iterable[float] = (),
    ) -> None:  # fmt: skip
        self.now = 0.0
        self.asked: list[Any] = []
        self._ms, self._max_rows, self._too_large, self._gain = ms, max_rows, too_large, gain
        self._device, self._shares = device, shares or [Share((), 10)]
        self._sizes = {"seq": sizes} if sizes else {}
        self._noise = iter(noise)  # by race: the share of the rows/s that neighbours leave

    def clock(self) -> float:
        return self.now

    def ask(self, question: Any, kind: Any) -> Any:
        self.asked.append(question)
        match question:
            case Open():
                return Opened(
                    "m", "1", "digest", self._device, "tensors", self._max_rows, {"seq": (512,)}, 10, True, self._shares,
                    self._sizes, [], 0.1,
                )  # fmt: skip
            case Time(rows, dims):
                if rows >= self._too_large:
                    return Cell(rows, dims, problem="out of memory")
                ms = self._ms(rows, dims)
                self.now += max(3 * ms / 1e3, question.budget_s)
                device_bytes = rows * 1_000_000 if self._device != "cpu" else None
                return Cell(rows, dims, ms, ms, ms, 10, rows * 1000, device_bytes)
            case Warm():
                return Warmed(0.1)
            case Race(engines, row_buckets, seconds):
                self.now += seconds
                rate = 1000 * (1 + (engines - 1) * self._gain) * next(self._noise, 1.0)
                return Raced(engines, row_buckets[-1], rate, 1.0, 1.0, engines * 1000)

    def asked_for(self, kind: Any) -> list[Any]:
        return [one for one in self.asked if isinstance(one, kind)]


def tuned(program: FakeProgram, *, target: Target = NO_LIMIT, budget_s: float = 45.0, most_slots: int = 4) -> Tuned:
    wishes = Wishes(target, budget_s, most_slots, 5.0)
    return Conductor(program, wishes, say=lambda _: None, clock=program.clock).tune(QUESTION)  # type: ignore[arg-type]


def saturating(rows: int, dims: tuple[int, ...]) -> float:
    return max(5.0, rows * 1.0) * (dims[0] / 100 if dims else 1)


def test_the_walk_ends_when_nothing_is_gained_any_more() -> None:
    program = FakeProgram(saturating, max_rows=1024)
    found = tuned(program)
    assert max(one.rows for one in program.asked_for(Time)) == 32  # 8 is the knee; 16 and 32 gained nothing
    assert found.choice.step is not None
    assert found.choice.step.rows == 8
    assert found.row_buckets[-1] == 8
    assert found.choice.verdicts[2].startswith("no bucket")


def test_out_of_memory_caps_the_batch_and_ends_the_walk() -> None:
    program = FakeProgram(lambda rows, dims: 5.0, too_large=16)
    found = tuned(program)
    assert found.choice.step is not None
    assert found.choice.step.rows == 8
    assert found.choice.verdicts[16] == "out of memory"


def test_a_slow_model_is_measured_as_far_as_the_time_goes() -> None:
    program = FakeProgram(lambda rows, dims: 300.0 * rows**0.5)
    found = tuned(program, budget_s=45.0)
    assert program.now < 60
    assert found.choice.step is not None
    assert found.slots >= 1


def test_shapes_weigh_as_often_as_they_come_and_the_slowest_decides_over_the_latency() -> None:
    shares = [Share((100,), 90), Share((400,), 10)]
    program = FakeProgram(saturating, shares=shares, sizes={90: 90, 400: 10})
    found = tuned(program, target=Target(latency_ms=50.0))
    first = found.steps[0]
    assert first.ms == 0.9 * 5 + 0.1 * 20
    assert first.slowest_ms == 20.0
    assert found.choice.step is not None
    assert found.choice.step.rows <= 5  # at 8 rows the long ones take 32 ms: twice that is over
    assert found.padding[0].best[0] == 96
    assert found.padding[0].best_share < found.padding[0].now_share


def test_slots_are_added_while_each_gains() -> None:
    assert tuned(FakeProgram(saturating, gain=0.5)).slots == 4
    program = FakeProgram(saturating, gain=0.05)
    assert tuned(program).slots == 1
    assert [one.engines for one in program.asked_for(Race)] == [1, 1, 2, 2]
    assert tuned(FakeProgram(saturating), most_slots=1).slots == 1


def test_a_race_that_neighbours_disturbed_decides_nothing() -> None:
    assert tuned(FakeProgram(saturating, gain=0.05, noise=(0.6, 1.0, 1.0, 0.7))).slots == 1
    disturbed = FakeProgram(saturating, gain=0.5, noise=(1.0, 0.8, 0.5, 1.0))
    found = tuned(disturbed, most_slots=2)
    assert found.slots == 2
    assert [heat.rows_per_s for heat in found.heats] == [1000, 1500]


def test_a_tuning_without_a_target_leaves_the_wait_as_it_is() -> None:
    assert tuned(FakeProgram(saturating)).max_wait_ms is None
    found = tuned(FakeProgram(saturating), target=Target(latency_ms=20.0))
    assert found.max_wait_ms == 2.0  # 8 rows take 8 ms: 20 - (2 * 8 + 2)
    assert "max_wait_ms = 2.0" in "\n".join(paper.advice(found, {}))
    assert "max_wait_ms stays" in "\n".join(paper.advice(tuned(FakeProgram(saturating)), {}))


def test_a_busy_machine_is_told_and_a_quiet_one_is_not() -> None:
    (line,) = paper.neighbours(3.4, 2)
    assert line.startswith("warning: the load average was 3.4 on 2 cores")
    assert list(paper.neighbours(1.9, 2)) == []


def test_on_a_gpu_memory_is_taken_first_and_times_from_a_warm_engine() -> None:
    program = FakeProgram(saturating, device="cuda:0", too_large=32)
    found = tuned(program, target=Target(memory_bytes=4_000_000))
    assert program.asked_for(Warm) == [Warm((1, 2, 4, 8))]  # 8 was the first over the limit
    assert [step.bytes for step in found.steps] == [1_000_000, 2_000_000, 4_000_000, 8_000_000]
    assert found.choice.step is not None
    assert found.choice.step.rows == 4
