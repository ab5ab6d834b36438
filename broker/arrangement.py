"""What a host shall run, changed in one step: how many slots of each model are wanted there, and what each slot serves.

Whoever says both says them here: a command that is killed has said all of it or nothing. What they say is read through `roster`;
starting and stopping slots is the caller's, or the agent's after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from broker import keys
from broker.connection import Command, Link, ResponseError
from broker.roster import Assignment


def arrange(
    link: Link,
    host: str,
    *,
    wanted: Mapping[str, int],
    assigned: Mapping[int, Assignment | None],
    is_anew: bool = False,
) -> None:
    """Writes model -> slots wanted and slot -> what it serves, None takes it away. `is_anew`: nothing else is assigned then.

    Raises ResponseError when Redis is full: nothing was changed.
    """
    key = keys.assignment(host)
    commands: list[Command] = [("HSET", keys.wanted(model), host, count) for model, count in wanted.items()]
    if is_anew:
        commands.append(("DEL", key))
    for number, given in assigned.items():
        commands.append(("HDEL", key, number) if given is None else ("HSET", key, number, msgspec.json.encode(given)))
    if not commands:
        return
    replies: list[Any] = link.call_all([("MULTI",), *commands, ("EXEC",)])
    for reply in (*replies, *(replies[-1] if isinstance(replies[-1], list) else ())):
        if isinstance(reply, ResponseError):  # the first is why; EXEC's only tells that nothing was done
            raise reply
