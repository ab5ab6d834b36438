"""A model that cannot be loaded any more, under a real supervisord: it says why, it is not spun, and it comes back by itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from broker import roster
from broker.connection import Link
from broker.settings import Settings
from operators import status
from operators.supervisor import Supervisor
from tests.wait import wait_until


def test_a_model_that_cannot_load_says_why_backs_off_and_never_ends_fatal(
    pooled: Callable[..., Settings], pool_link: Callable[[Settings], Link]
) -> None:
    # given
    chosen = pooled(slots=1)
    link, supervisor = pool_link(chosen), Supervisor(chosen)
    file = Path(chosen.root) / "mlp" / "model.onnx"
    good = file.read_bytes()
    # when
    file.write_bytes(b"altered")
    os.kill(supervisor.slots()[0].pid, signal.SIGKILL)

    def backing_off() -> str:
        texts = [one.text for one in status.snapshot(chosen).problems]
        return next((text for text in texts if text.startswith("slot 0 (mlp) backing off: ") and "seal" in text), "")

    # then
    text = wait_until(backing_off, "status says why", timeout=20)
    assert "lives in a row settled nothing (last: load_failed)" in text
    assert "FATAL" not in {program.state for program in supervisor.slots().values()}
    assert {one.kind for one in roster.events(link)} <= {"start", "exit"}, "supervisord restarts it, the agent need not"
    file.write_bytes(good)
    wait_until(lambda: roster.ready(link, "mlp"), "the slot is ready again", timeout=20)
