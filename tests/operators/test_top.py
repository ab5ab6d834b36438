"""`penstock top`: what two looks make, how it fits a screen, and the screen itself on a terminal of the test's own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import msgspec
import pytest

from broker import keys, roster, spec
from broker.connection import Link
from operators.snapshot import ModelStatus, Problem, RedisStatus, SlotStatus, Snapshot
from operators.top import lines
from operators.top.frame import make
from tests.operators.conftest import ROOT, penstock

MODEL = ModelStatus(
    name="tiny", version="1", wanted=2, ready=2, depth={"high": 1, "normal": 20, "low": 0}, delayed=0, claimed=8,
    dead=0, oldest_age_ms=3400, bytes=500, stored_bytes=0, max_jobs=1000, max_bytes=1000, ended={"done": 100}, max_rows=64,
    jobs_per_s=7.0,
)  # fmt: skip
SLOT = SlotStatus(
    "box/0", 0, "tiny", "ready", True, pid=9, jobs=100, batches=10, rows=320, mean_batch=32.0, host_bytes=1_200_000_000,
    host_baseline_bytes=1_188_000_000, since_ms=1000, p50_ms=3.2, p99_ms=9.87, restarts={"max_jobs": 2, "hang": 1},
)  # fmt: skip
SERVER = RedisStatus(url="", version="6.2.14", policy="noeviction", used_bytes=1_000_000, max_bytes=0)
BEFORE = Snapshot("box", 10_000, True, SERVER, (), (MODEL,), (SLOT,))


def text_of(found: list[lines.Text]) -> list[str]:
    return [one.text for one in found]


def test_rates_and_fill_are_of_the_time_between_two_looks() -> None:
    later = msgspec.structs.replace(
        BEFORE, at_ms=14_000, models=(msgspec.structs.replace(MODEL, ended={"done": 180}),),
        slots=(msgspec.structs.replace(SLOT, jobs=180, batches=15, rows=560),),
    )  # fmt: skip
    frame = make(later, BEFORE)
    assert (frame.models[0].jobs_per_s, frame.jobs_per_s, frame.models[0].full) == (20.0, 20.0, 0.5)
    (slot,) = frame.slots
    assert (slot.jobs_per_s, slot.rows_per_batch, slot.fill, slot.host_growth_bytes) == (20.0, 48.0, 0.75, 12_000_000)


def test_the_first_look_tells_what_slots_measured_and_a_new_incarnation_no_rate() -> None:
    frame = make(BEFORE)
    assert (frame.models[0].jobs_per_s, frame.slots[0].jobs_per_s, frame.slots[0].fill) == (7.0, 0.0, 0.5)
    anew = msgspec.structs.replace(
        BEFORE, at_ms=14_000, slots=(msgspec.structs.replace(SLOT, pid=10, jobs=300, batches=0, mean_batch=0.0),)
    )
    (slot,) = make(anew, BEFORE).slots
    assert (slot.jobs_per_s, slot.rows_per_batch, slot.fill) == (0.0, None, None)


def test_what_is_not_known_is_a_dash_and_never_zero() -> None:
    (slot,) = make(msgspec.structs.replace(BEFORE, slots=(SlotStatus("box/0", 0, "tiny", "loading", False),))).slots
    assert (slot.host_bytes, slot.device_bytes, slot.p99_ms, slot.up_ms, slot.fill) == (None, None, None, None, None)
    assert " 0 MB" not in text_of(lines.draw(make(BEFORE)))[-1]


def pool(models: int, slots: int) -> Snapshot:
    return msgspec.structs.replace(
        BEFORE,
        models=tuple(
            msgspec.structs.replace(MODEL, name=f"a-model-with-a-long-name-{at}", oldest_age_ms=at)
            for at in range(models)
        ),
        slots=tuple(
            msgspec.structs.replace(
                SLOT, name=f"a-long-host/{at}", number=at, state="failing" if at == 40 else "ready", is_ready=at != 40
            )
            for at in range(slots)
        ),
        problems=tuple(Problem("error", f"problem {at} " + "long " * 30, "penstock doctor") for at in range(9)),
    )


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (40, 10), (10, 3)])
@pytest.mark.parametrize("size", [(0, 0), (1, 1), (20, 64)])
def test_a_frame_fits_its_screen(width: int, height: int, size: tuple[int, int]) -> None:
    found = text_of(lines.draw(make(pool(*size)), width=width, height=height))
    assert len(found) <= height
    assert max(map(len, found)) <= width


def test_problems_stand_on_top_and_what_does_not_fit_is_counted_worst_first() -> None:
    found = text_of(lines.draw(make(pool(20, 64)), width=80, height=40))
    assert found[1].startswith("error: problem 0")
    assert found[6] == "and 4 more: `penstock status`"
    assert any(line.startswith("and ") and "more models with younger jobs" in line for line in found)
    slots = found[next(at for at, line in enumerate(found) if line.startswith("SLOT")) :]
    assert "failing" in slots[1]
    assert any(re.match(r"and \d+ more slots, \d+ ready", line) for line in slots)
    assert found[-1] == "restarts max_jobs 128 hang 64"


def test_everything_an_operator_watches_is_there_in_80_columns() -> None:
    wide = msgspec.structs.replace(SLOT, device_bytes=14_500_000_000, device_baseline_bytes=14_400_000_000)
    found = text_of(lines.draw(make(msgspec.structs.replace(BEFORE, slots=(wide,))), width=80))
    (head,) = [line for line in found if line.startswith("SLOT")]
    assert head.split() == [
        "SLOT",
        "MODEL",
        "STATE",
        "ROWS",
        "FILL",
        "JOBS/S",
        "p50",
        "p99",
        "MEMORY",
        "DEVICE",
        "UP",
        "RESTARTS",
    ]
    (row,) = [line for line in found if line.startswith("0 ")]
    assert row.split()[:9] == ["0", "tiny", "ready", "32", "50%", "0", "3.2", "9.9", "1.2"]
    assert "14.5 GB +100" in row


# --- the command ---------------------------------------------------------------------------


@pytest.fixture
def pool_toml(redis_url: str, tmp_path: Path) -> Path:
    link = Link(redis_url)
    link.connect()
    link.call("FLUSHALL")
    spec.publish(link, spec.ModelSpec("tiny", "7", "bytes", (), (), 8), spec.Limits())
    link.call("XADD", keys.lane("tiny", "low"), "*", "b", "job")
    link.call(*roster.announce("box/0", {"model": "tiny", "state": "ready", "mean_batch": 4}))
    link.close()
    path = tmp_path / "pool.toml"
    path.write_text(f'[redis]\nurl = "{redis_url}"\n[pool]\nhost = "box"\n')
    return path


def test_once_prints_a_plain_table_or_json(pool_toml: Path) -> None:
    answer = penstock("top", "--once", config=pool_toml)
    assert (answer.returncode, "\x1b" in answer.stdout) == (0, False)
    assert "error: the pool is not up on this host -> penstock up" in answer.stdout
    found = json.loads(penstock("top", "--once", "--json", config=pool_toml).stdout)
    assert (found["models"][0]["depth"]["low"], found["slots"][0]["fill"]) == (1, 0.5)


class Terminal:
    """A process on a terminal of 80 x 24."""

    def __init__(self, *arguments: str, config: Path) -> None:
        self.ours, self.its = pty.openpty()
        fcntl.ioctl(self.its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self.its)
        self.seen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "operators.cli", *arguments], cwd=ROOT, stdin=self.its, stdout=self.its, stderr=self.its,
            env={**os.environ, "PENSTOCK_CONFIG": str(config), "TERM": "xterm"},
        )  # fmt: skip

    def read_until(self, *texts: bytes, timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not all(text in self.seen for text in texts):
            assert time.monotonic() < deadline, self.seen
            if select.select([self.ours], [], [], 0.1)[0]:
                self.seen += os.read(self.ours, 1 << 16)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self.its)


@pytest.mark.parametrize(("way", "code"), [("q", 0), ("ctrl-c", 0), ("term", 143)])
def test_the_screen_is_given_back_however_it_ends(pool_toml: Path, way: str, code: int) -> None:
    terminal = Terminal("top", "--interval", "0.2", config=pool_toml)
    try:
        terminal.read_until(b"\x1b[?1049h", b"tiny", b"SLOT")
        marks = termios.tcgetattr(terminal.its)[6]
        assert marks[termios.VSUSP] == marks[termios.VQUIT] == b"\x00", "they would leave the shell on our screen"
        if way == "q":
            os.write(terminal.ours, b"q")
        else:
            terminal.process.send_signal(signal.SIGINT if way == "ctrl-c" else signal.SIGTERM)
        terminal.read_until(b"\x1b[?1049l")
        assert terminal.process.wait(5) == code
        assert termios.tcgetattr(terminal.its) == terminal.before
        assert b"Traceback" not in terminal.seen
    finally:
        terminal.close()


def test_an_interval_that_is_no_number_is_refused(pool_toml: Path) -> None:
    answer = penstock("top", "--interval", "nan", config=pool_toml)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert (
        answer.stderr
        == "error: invalid value for '--interval': nan is no number of seconds; see `penstock top --help`\n"
    )
