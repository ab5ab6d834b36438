"""A program takes a run: its lease, a turn, and the word it leaves behind, so that anybody can go on."""

from __future__ import annotations

import structlog

from broker import run_lease, runs
from broker.connection import Link
from broker.errors import LeaseLost, PenstockError, RedisRefused, RedisUnavailable, RunError
from operators.runs.courier import VersionChanged
from operators.runs.lease import Lease
from operators.runs.program_context import ProgramContext
from operators.runs.turn import Stop, Turn

log = structlog.get_logger()


def take_turn(run: str, context: ProgramContext) -> str:
    """Works the run if it is free; what came of it. Raises RunError when it failed."""
    link = Link(context.url)
    link.connect_within(context.settings.redis.connect_s)
    try:
        if not run_lease.take(link, run, context.owner, is_tidying=True):
            return "nothing to do: it has ended, is paused, or is worked by another program"
        context.works(run)
        view = runs.view(link, run)
        keep_ms = round(context.settings.runs.keep_days * 24 * 3_600_000)
        lease = Lease(link, run, context.owner, keep_ms=keep_ms)
        log.info("run taken", run=run, model=view.request.model, rows_done=view.rows_done)
        return _told(Turn(view, lease, link, context))
    finally:
        context.works("")
        link.close()


def _told(turn: Turn) -> str:
    """Works the turn and leaves the run in the state that follows. An error that is ours is the run's; any other the program's."""
    run, why, state = turn.view.id, "", "failed"
    try:
        state = turn.work()
    except Stop as stop:
        state, why = stop.stopped.state, stop.stopped.why
    except LeaseLost as error:
        log.warning("run lost", run=run, error=str(error), next="whoever has it goes on from its last part")
        return "lost to another program"
    except VersionChanged as error:
        state, why = "paused", str(error)
    except RedisRefused as error:
        why = str(error)
    except RedisUnavailable as error:
        state, why = "queued", str(error)
    except (PenstockError, OSError) as error:
        why = str(error)
    except Exception as error:  # the turn's edge: a run that ends its program each time must not be taken up for ever
        log.exception("turn failed", run=run, next="the run is failed; resume it after the mend")
        why = f"an error of the runs program itself ({type(error).__name__}: {error}); see its log, then resume the run"
    left = turn.leave(state, error=why if state in ("paused", "failed") else "")
    if left == "failed":
        raise RunError(why)
    return f"{left}: {turn.count.rows} rows, {turn.count.failed} failed" + (f"; {why}" if why else "")
