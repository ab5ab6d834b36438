"""What waits for this pool, for who is about to take it down: nothing of it is lost, and nobody serves it meanwhile."""

from __future__ import annotations

from broker.connection import LOST, ResponseError
from broker.errors import PenstockError
from broker.look import look
from broker.run_look import Runs
from broker.settings import Settings
from operators import applied
from operators.reach import reached
from operators.table import count_of


def left_behind(settings: Settings) -> str:
    """`3 jobs wait, 1 bulk run is under way`; "" where nothing does, and where Redis does not say: a pool whose Redis is away
    must go down all the same."""
    try:
        given = applied.in_force(settings)
        with reached(given, is_reading=True) as link:
            seen = look(link, given.host, given.models)
    except (*LOST, PenstockError, ResponseError):
        return ""
    jobs = sum(sum(one.depth.values()) + one.delayed for one in seen.models)
    parts = [f"{count_of(jobs, 'job')} {'waits' if jobs == 1 else 'wait'}"] if jobs else []
    return ", ".join([*parts, *_runs(seen.runs)])


def _runs(runs: Runs) -> list[str]:
    count = len(runs.open)
    return [f"{count_of(count, 'bulk run')} {'is' if count == 1 else 'are'} not done"] if count else []
