"""The end of a life as others read it: the exit and the slot's last state in Redis, the note for the next life on disk.

Redis may be away: then only the note says it.
"""

from __future__ import annotations

import structlog

from broker import roster
from broker.connection import LOST, Link, NoPermissionError
from broker.errors import RedisUnavailable
from broker.queue import Queue
from workers.beat import FAILING_MS, Beat
from workers.blame import Blame
from workers.board import Board
from workers.custody import Custody
from workers.exits import BLAMING, Exit
from workers.incarnation import Incarnation
from workers.retire import Verdict

log = structlog.get_logger()

FAULTS = (
    Exit.LOAD_FAILED, Exit.ENGINE_DIED, Exit.HANG, Exit.CRASHED, Exit.MISCONFIGURED, Exit.DEVICE_FAULT,
)  # fmt: skip


def leave_word(
    link: Link,
    verdict: Verdict,
    *,
    board: Board,
    incarnation: Incarnation,
    custody: Custody,
    blame: Blame,
    beat: Beat | None,
) -> None:
    """Ends engine and beat, then says why the slot goes."""
    held = custody.end(verdict.detail)
    detail = held.text if held is not None else verdict.detail
    if verdict.exit not in BLAMING and blame.is_ours:
        blame.clear()  # what the engine had was returned unharmed, or is to be
    board.is_failing = verdict.exit is Exit.LOAD_FAILED or held is not None
    board.state = "failing" if board.is_failing else "exiting"
    board.reason = detail
    board.is_ready = False
    is_fault = verdict.exit in FAULTS
    (log.error if is_fault else log.info)(
        "slot exits", slot=board.name, reason=verdict.exit.reason, detail=detail, jobs=board.jobs
    )
    if beat is not None:
        beat.hurry()
        beat.stop()
    try:
        if link.fileno() < 0:
            link.connect()
        roster.record_exit(link, board.name, verdict.exit.reason, detail, board.jobs)
        commands = [roster.announce(board.name, board.fields())]
        if board.model:
            queue = Queue(board.model, f"{board.name}.{incarnation.id}")
            commands.append(
                queue.pulse(board.name, [], ready_ms=0, failing_ms=FAILING_MS * is_fault, frees_place=False)
            )
        link.run_all(commands)
    except (*LOST, RedisUnavailable, NoPermissionError) as error:
        log.warning("redis lost at the end", error=str(error), next="the exit stays in the slot's note only")
    incarnation.end(verdict.exit.reason, is_fault=is_fault)
