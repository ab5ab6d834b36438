"""`python -m benchmarks.autoscale`: every policy over every scenario -> benchmarks/results/autoscale.{txt,png}. A minute."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.autoscale.policies import BESIDE, LEAST, LOOK_S, MOST, QUEUE_LENGTH, T_IS_FAST, TARGET_S, Ours
from benchmarks.autoscale.traffic import ONE_SLOT, SCENARIOS, Scenario
from benchmarks.autoscale.world import LOAD_S, Course, simulate

RESULTS = Path(__file__).parent.parent / "results"
OTHER_LOADS_S = (5.0, 60.0)
OURS_COLOUR, FIXED_COLOUR = "#1f6fb2", "#8c949e"
QUEUE_COLOURS = ("#c2453d", "#f0a33f", "#a86cc1")


def main() -> int:
    """The command."""
    courses = {one.name: run(one) for one in SCENARIOS}
    text = "\n".join(told(courses)) + "\n"
    (RESULTS / "autoscale.txt").write_text(text)
    print(text, end="")
    draw(courses, RESULTS / "autoscale.png")
    return 0


def run(scenario: Scenario) -> list[Course]:
    """Ours first; all see the same arrivals."""
    came = scenario.arrivals()
    return [simulate(scenario, policy(), came=came) for policy in (Ours, *BESIDE)]


def told(courses: dict[str, list[Course]]) -> Iterator[str]:
    """The table, and what it stands for."""
    yield "Autoscaling, simulated: operators/autoscale/decide.py over synthetic traffic, beside queue-length scaling and fixed pools."
    yield (
        f"One slot does {ONE_SLOT:g} jobs/s (T claims {T_IS_FAST * ONE_SLOT:g}) and loads for {LOAD_S:g} s; {LEAST} to {MOST} slots; "
        f"target {TARGET_S:g} s; a look every {LOOK_S:g} s."
    )
    yield "over: how long the oldest job was older than the target. slot-hours: of all slots, while they load too. No slot is real."
    for scenario in SCENARIOS:
        yield ""
        yield f"{scenario.title} ({scenario.lasts_s / 3600:g} h, {courses[scenario.name][0].jobs} jobs)"
        yield from table(courses[scenario.name], scenario.lasts_s)
    for load_s in OTHER_LOADS_S:
        yield ""
        yield f"the same with slots that load for {load_s:g} s: ours, and queue length as KEDA"
        for scenario in SCENARIOS:
            came = scenario.arrivals()
            ours, theirs = (simulate(scenario, one(), load_s=load_s, came=came) for one in (Ours, QUEUE_LENGTH))
            yield (
                f"  {scenario.name:8} over {ours.over_s:6.0f} s, {ours.slot_hours:6.2f} slot-hours | "
                f"over {theirs.over_s:6.0f} s, {theirs.slot_hours:6.2f} slot-hours"
            )


def table(courses: Sequence[Course], lasts_s: float) -> Iterator[str]:
    """A line per policy."""
    yield f"  {'policy':38} {'over':>8} {'share':>6} {'worst':>8} {'slot-hours':>10} {'changes':>8}"
    for one in courses:
        yield (
            f"  {one.policy:38} {one.over_s:6.0f} s {one.over_s / lasts_s:6.1%} {one.worst_s:6.1f} s "
            f"{one.slot_hours:10.2f} {one.changes:8d}"
        )


def draw(courses: dict[str, list[Course]], file: Path) -> None:
    """Above time over target against slot-hours, below how many slots there were."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        print("autoscale: no plot: matplotlib is missing; pip install -e '.[bench]'", file=sys.stderr)
        return
    picture = Figure(figsize=(17, 8), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.subplots(2, len(SCENARIOS))
    for column, scenario in enumerate(SCENARIOS):
        _scatter(axes[0][column], scenario, courses[scenario.name])
        _slots(axes[1][column], scenario, courses[scenario.name])
    axes[0][0].legend(fontsize=7, loc="lower left")
    axes[1][2].legend(fontsize=7, loc="upper left")
    picture.suptitle(
        "Autoscaling, simulated: time over target against slot-hours (left and low is better)", fontsize=11
    )
    picture.savefig(file, dpi=100)


def _scatter(axis: Any, scenario: Scenario, courses: Sequence[Course]) -> None:
    ours, *queue, fixed = courses[0], *courses[1:4], courses[4:]
    axis.plot(
        [one.slot_hours for one in fixed],
        [one.over_s for one in fixed],
        "o-",
        color=FIXED_COLOUR,
        label="fixed pool of 1 to 6",
    )
    for one, colour in zip(queue, QUEUE_COLOURS, strict=True):
        axis.plot([one.slot_hours], [one.over_s], "s", color=colour, markersize=8, label=one.policy)
    axis.plot([ours.slot_hours], [ours.over_s], "*", color=OURS_COLOUR, markersize=16, label=ours.policy)
    axis.set_yscale("symlog", linthresh=10)
    axis.set_ylim(bottom=-3)
    axis.set_title(scenario.title, fontsize=9)
    axis.set_xlabel("slot-hours")
    axis.set_ylabel("s over target")


def _slots(axis: Any, scenario: Scenario, courses: Sequence[Course]) -> None:
    minutes = [at * LOOK_S / 60 for at in range(len(courses[0].slots))]
    load = [scenario.rate(at * 60) for at in minutes]
    axis.plot(minutes, load, color=FIXED_COLOUR, linewidth=0.8, label="load, in slots")
    for one, colour in ((courses[1], QUEUE_COLOURS[0]), (courses[0], OURS_COLOUR)):
        axis.step(minutes, one.slots, color=colour, linewidth=1.2, where="post", label=one.policy)
    axis.set_xlabel("minutes")
    axis.set_ylabel("slots")


if __name__ == "__main__":
    sys.exit(main())
