"""What a slot must tell Redis until it is answered: sent again after each loss of the connection. Sends nothing itself.

Only what may be repeated: a lease that went back is not this slot's any more, so that a second return changes nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from broker.connection import Command
from workers.wire import Handler, Pair


class Owed:
    """Commands with their handlers, in order."""

    def __init__(self) -> None:
        self._commands: dict[int, tuple[Command, Handler, frozenset[bytes]]] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._commands)

    def add(self, command: Command, handler: Handler, leases: frozenset[bytes] = frozenset()) -> Pair:
        """What to send now; `leases` go back by it."""
        self._number += 1
        self._commands[self._number] = command, handler, leases
        return command, partial(self._heard, self._number)

    def pairs(self) -> list[Pair]:
        """What to send again."""
        return [(command, partial(self._heard, number)) for number, (command, _, _) in self._commands.items()]

    def returning(self) -> set[bytes]:
        """Leases that are on their way back: Redis may call them ours still."""
        return {lease for _, _, leases in self._commands.values() for lease in leases}

    def _heard(self, number: int, reply: Any) -> None:
        _, handler, _ = self._commands.pop(number)
        handler(reply)
