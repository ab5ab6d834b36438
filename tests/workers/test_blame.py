"""The page that tells the next life which jobs were in the engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from broker.errors import ConfigError
from broker.lease import lease_of
from broker.messages import Job, Signature
from workers.blame import PLACE_BYTES, Blame

JOB = Job(
    id="a-1", lane=0, entry=b"", lease=b"0", kind=0, rows=1, is_one_row=True, signature=Signature(b"", ()), data=b"", offset=0,
    result_ttl_s=0, is_stored=False, retries=0, attempt=1, deliveries=1, size=0, submitted_ms=0, deadline_ms=0,
)  # fmt: skip


def jobs(*leases: tuple[int, bytes]) -> list[Job]:
    return [msgspec.structs.replace(JOB, lane=lane, entry=entry, lease=lease_of(lane, entry)) for lane, entry in leases]


@pytest.fixture
def blame(tmp_path: Path) -> Blame:
    blame = Blame(tmp_path, 0)
    blame.begin("life-1")
    return blame


def test_what_is_in_the_engine_is_read_back_until_it_is_cleared(blame: Blame, tmp_path: Path) -> None:
    leases = [(0, b"17-0"), (2, b"17-0"), (1, b"17-1")]
    blame.note(1, jobs(*leases))
    assert Blame(tmp_path, 0).read() == ("life-1", set(leases)), "two lanes may hold the same entry id"
    blame.note(1, jobs((1, b"18-0")))
    assert blame.read()[1] == {(1, b"18-0")}
    blame.clear()
    assert Blame(tmp_path, 0).read() == ("life-1", set())


def test_a_batch_sent_ahead_is_not_blamed_until_the_one_before_it_is_answered(blame: Blame, tmp_path: Path) -> None:
    for number in (7, 8):  # either place may hold the one that runs
        blame.note(number, jobs((1, b"18-0")))
        blame.note(number + 1, jobs((0, b"19-0"), (2, b"20-0")))
        assert Blame(tmp_path, 0).read()[1] == {(1, b"18-0")}
        blame.clear(number)
        assert Blame(tmp_path, 0).read()[1] == {(0, b"19-0"), (2, b"20-0")}
        blame.clear(number + 1)
        assert blame.read()[1] == set()


def test_a_new_life_begins_with_an_empty_page(blame: Blame) -> None:
    blame.note(1, jobs((1, b"18-0")))
    blame.begin("life-2")
    assert blame.read() == ("life-2", set())


def test_a_kill_while_the_batch_is_written_leaves_an_empty_page_and_no_mixture(blame: Blame, tmp_path: Path) -> None:
    # given a page that is caught between its payload and its length
    blame.note(1, jobs((1, b"18-0")))
    blame._heads[1][0] = 0
    blame._page[blame._payloads[1] : blame._payloads[1] + 6] = b"\1 19-0"
    assert Blame(tmp_path, 0).read()[1] == set()


def test_a_batch_past_the_page_is_noted_as_far_as_it_goes(blame: Blame) -> None:
    many = [(1, b"1700000000000-%d" % number) for number in range(40_000)]
    blame.note(1, jobs(*many))
    noted = blame.read()[1]
    assert 10_000 < len(noted) < PLACE_BYTES
    assert len(noted - set(many)) <= 1, "the last entry may be cut"


def test_the_page_outlives_a_kill_9(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.workers.test_blame import jobs; from workers.blame import Blame\n"
        f"page = Blame(Path({str(tmp_path)!r}), 3); page.begin('life-9'); page.note(1, jobs((2, b'5-0')))\n"
        "print('noted', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"noted\n"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert Blame(tmp_path, 3).read() == ("life-9", {(2, b"5-0")})


def test_a_page_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "slot-0.batch").mkdir()
    with pytest.raises(
        ConfigError, match=r"cannot write .*/slot-0\.batch: .*; free 512 KB there, or set pool\.var_dir"
    ):
        Blame(tmp_path, 0)
