"""What a run looks at beside its rows."""

from __future__ import annotations

from typing import Any

from broker import keys
from broker.connection import Link
from operators.runs.watch import Watch

NO_CONTEXT: Any = None


def test_the_number_of_ready_slots_is_that_of_now_and_while_redis_is_away_the_last_one(link: Link) -> None:
    watch = Watch(link, NO_CONTEXT, model="m", priority="normal")
    assert watch.slots() == 1, "a run waits for its first one"
    link.call("ZADD", keys.ready("m"), 1 << 52, "h/0", 1 << 52, "h/1", 1, "h/gone")
    assert watch.slots() == 2
    link.close()
    assert watch.slots() == 2
    link.connect()
