"""A tuning as a terminal shows it: the table of sizes, what is recommended and why. Text out; colours are the caller's."""

from __future__ import annotations

from collections.abc import Iterator

from operators import table
from operators.tune import edit
from operators.tune.conduct import Tuned
from operators.tune.edit import Value

QUEUE_JOBS_PER_S = (
    45_000  # about what one slot took from Redis in `make bench` on a machine of two cores; others differ
)


def head(tuned: Tuned) -> Iterator[str]:
    """What was measured, and what the figures do not see."""
    model = tuned.model
    rows = f"{table.count_of(model.rows, 'row')} of the data" if model.has_data else "zeros"
    yield f"{model.name} {model.version} on {model.device}, {rows}, {tuned.seconds:.0f} s"
    if not model.has_data:
        yield "warning: without --data the model saw zeros: what its time owes to the data is not in these figures"
    if len(model.shares) > len(tuned.shapes):
        yield f"warning: {len(model.shares) - len(tuned.shapes)} rarer shapes were not measured"
    yield from (f"warning: {text}" for text in model.skipped)


def neighbours(load_1m: float, cores: int) -> Iterator[str]:
    """A line where the machine was busy before it began."""
    if load_1m > cores:
        yield (
            f"warning: the load average was {load_1m:.1f} on {table.count_of(cores, 'core')}: these figures are the "
            "neighbours' too; measure again when the machine is quiet"
        )


def steps(tuned: Tuned) -> list[str]:
    """A line per batch size, headed."""
    rows = [
        (str(step.rows), _ms(step.ms), _ms(step.slowest_ms), f"{step.rows_per_s:,.0f}" if step.ms else "-",
         table.size(step.bytes or None), tuned.choice.verdicts.get(step.rows, ""))
        for step in tuned.steps
    ]  # fmt: skip
    return table.align([("ROWS", "T ms", "p99 ms", "ROWS/S", "MEMORY", "VERDICT"), *rows], right=range(5))


def cells(tuned: Tuned) -> list[str]:
    """A line per batch size and shape, headed; nothing where the model has one shape only."""
    if len(tuned.shapes) < 2:
        return []
    share = {one.dims: one.rows / tuned.model.rows for one in tuned.shapes}
    rows = [
        (str(cell.rows), " x ".join(map(str, cell.dims)), _percent(share[cell.dims]), _ms(cell.ms), _ms(cell.p99_ms), cell.problem)
        for cell in sorted(tuned.cells, key=lambda cell: (cell.dims, cell.rows))
    ]  # fmt: skip
    return table.align([("ROWS", "SHAPE", "SHARE", "T ms", "p99 ms", ""), *rows], right=range(5))


def advice(tuned: Tuned, values: dict[str, Value]) -> Iterator[str]:
    """A line per key with its reason, then what only the manifest can say."""
    said = {key: f"{key} = {edit.written(value)}" for key, value in values.items()}
    wait_ms = tuned.max_wait_ms
    said["max_wait_ms"] = "max_wait_ms stays" if wait_ms is None else f"max_wait_ms = {edit.written(wait_ms)}"
    width = max(map(len, said.values()))
    for key, text in said.items():
        yield f"{text.ljust(width)}  {tuned.reasons.get(key, '')}".rstrip()
    step = tuned.choice.step
    if step is not None and step.rows_per_s > QUEUE_JOBS_PER_S:
        yield (
            "for jobs of one row the queue may be the limit, not the model: one slot on two cores moved some "
            f"{QUEUE_JOBS_PER_S:,} a second; `make bench` measures it here; send many rows in one job"
        )
    for one in tuned.padding:
        if one.best == one.now or one.now_share - one.best_share < 0.01:
            yield f'shape buckets of "{one.dim}" are good: {_percent(one.now_share)} of the cells are padding'
        else:
            yield (
                f'shape buckets of "{one.dim}": {_percent(one.now_share)} of the cells are padding, {_percent(one.best_share)} with '
                f'"buckets": {{"{one.dim}": {list(one.best)}}} in manifest.json, then `penstock models seal`'
            )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _ms(milliseconds: float) -> str:
    if not milliseconds:
        return "-"
    return f"{milliseconds:.2f}" if milliseconds < 10 else f"{milliseconds:.1f}"
