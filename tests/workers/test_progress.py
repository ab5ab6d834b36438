"""The page on which an engine stamps that it gets on."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from workers.progress import Progress


def test_a_stamp_of_another_process_is_seen_on_our_clock() -> None:
    # given
    page = Progress()
    os.set_inheritable(page.fd, True)
    began = time.monotonic()
    assert page.at_s == 0.0
    # when
    code = f"from workers.progress import Progress; page = Progress({page.fd}); page.stamp(); page.stamp()"
    subprocess.run([sys.executable, "-c", code], check=True, pass_fds=[page.fd], timeout=20)
    # then
    assert page.count == 2
    assert began < page.at_s < time.monotonic()
    page.close()


def test_the_slot_sees_which_batch_the_engine_turned_to() -> None:
    page = Progress()
    assert page.number == 0
    page.turn_to(7)
    assert (page.number, page.count) == (7, 1)
    page.close()
