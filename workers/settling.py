"""Jobs whose end was sent to Redis and is not answered yet: sent again after a loss, for a settle that counted answers 0.

Not here: what a slot claims and returns (leases), what Redis forgot meanwhile (forgotten).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from broker.ends import Ended, Fault
from broker.queue import Queue
from workers.board import Board
from workers.forgotten import Forgotten
from workers.wire import Pair


class Settling:
    """Of one slot. `let_go` hears of each lease that is ended, `is_refused` looks at error replies."""

    def __init__(
        self,
        *,
        queue: Queue,
        board: Board,
        forgotten: Forgotten,
        let_go: Callable[[bytes], None],
        is_refused: Callable[[Any], bool],
        on_settled: Callable[[list[Ended]], None],
    ) -> None:
        self._queue = queue
        self._board = board
        self._forgotten = forgotten
        self._let_go = let_go
        self._is_refused = is_refused
        self._on_settled = on_settled
        self._sent: dict[int, tuple[list[Ended], list[Fault]]] = {}
        self._sends = 0

    def __len__(self) -> int:
        return len(self._sent)

    def pairs(self, ended: list[Ended], faults: list[Fault]) -> list[Pair]:
        """The commands that end jobs, one at least."""
        self._sends += 1
        self._sent[self._sends] = (ended, faults)
        pairs: list[Pair] = [(command, self._is_refused) for command in self._queue.settles(ended)]
        if faults:
            pairs.append((self._queue.fail(faults), self._is_refused))
        pairs[-1] = (pairs[-1][0], partial(self._answered, self._sends))
        return pairs

    def again(self) -> list[Pair]:
        """After a loss: the commands for all that is still to be ended."""
        pairs: list[Pair] = []
        for number, (ended, faults) in list(self._sent.items()):
            left = self._forgotten.ended(ended), self._forgotten.faults(faults)
            if any(left):
                del self._sent[number]
                pairs += self.pairs(*left)
            else:  # all of it had arrived, or was forgotten
                self._answered(number, 0)
        return pairs

    def _answered(self, number: int, reply: Any) -> None:
        self._is_refused(reply)
        ended, faults = self._sent.pop(number)
        for one in ended:
            self._let_go(one.job.lease)
        for fault in faults:
            self._let_go(fault.lease)
        self._board.jobs += len(ended) + len(faults)
        self._on_settled(ended)  # faults too: what many jobs did to themselves is no reason to keep the model waiting
