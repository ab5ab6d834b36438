"""`penstock logs`: several programs as one, over the files that supervisord moves them to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import ConfigError
from operators.logs import files, lines, tail
from operators.logs.follower import Follower
from operators.logs.tail import Tail
from tests.operators.conftest import ROOT, Run
from tests.wait import wait_until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "var" / "log"
    found.mkdir(parents=True)
    return found


@pytest.fixture
def penstock(folder: Path, typed: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("PENSTOCK_VAR_DIR", str(folder.parent))
    return typed


def ours(event: str, at: str, **fields: object) -> str:
    return json.dumps({**fields, "event": event, "timestamp": f"2026-11-21T{at}Z", "level": "info"}) + "\n"


def local(at: str) -> datetime:
    """A time of that day in UTC, as programs on this machine write it."""
    return datetime.fromisoformat(f"2026-11-21T{at}+00:00").astimezone()


def move(path: Path) -> None:
    """As supervisord does with a full log."""
    for number in (2, 1):
        if (old := path.with_name(f"{path.name}.{number}")).exists():
            old.rename(path.with_name(f"{path.name}.{number + 1}"))
    path.rename(path.with_name(path.name + ".1"))
    path.touch()


# --- what a line says ----------------------------------------------------------------------


def test_lines_of_ours_of_redis_and_of_supervisord_are_understood() -> None:
    one = lines.parse("slot_00", ours("slot exits", "10:00:00.500000", reason="hang", jobs=3).encode())
    assert (one.at, one.text, one.level, one.fields) == (
        local("10:00:00.5"),
        "slot exits",
        "info",
        {"reason": "hang", "jobs": 3},
    )
    at = local("10:00:01.230")
    redis = lines.parse("redis", f"308:M {at:%d} Nov {at:%Y %H:%M:%S}.230 # Can't save".encode())
    assert (redis.at, redis.level, redis.text) == (at, "warning", "Can't save")
    super_ = lines.parse("supervisord", f"{at:%Y-%m-%d %H:%M:%S},230 WARN stopped: slot_01".encode())
    assert (super_.at, super_.level, super_.text) == (at, "warning", "stopped: slot_01")
    for other in (
        b"",
        b"Traceback (most recent call last):",
        b'{"event": 3}',
        b'{"timestamp": "x", "event": "y"}',
        b"\xff{",
        b"1:M 99 Xyz 2026 x",
    ):
        assert lines.parse("slot_00", other).at is None


def test_a_line_without_a_time_stays_behind_the_one_before() -> None:
    slot = list(
        lines.dated("slot_00", [ours("broke", "10:00:00").encode(), b"Traceback", ours("exits", "10:00:05").encode()])
    )
    agent = list(lines.dated("agent", [ours("kill", "10:00:01").encode()]))
    assert [one.text for one in lines.merged([slot, agent])] == ["broke", "Traceback", "kill", "exits"]


def test_what_a_terminal_would_obey_is_not_printed() -> None:
    told = lines.told(lines.parse("redis", b"\x1b[2Jgone\x07 \xc2\x9b1m"))
    assert told.isprintable()
    assert "gone" in told


@pytest.mark.parametrize(
    ("text", "before"), [("90s", timedelta(seconds=90)), ("10m", timedelta(minutes=10)), ("1.5h", timedelta(hours=1.5)), ("2d", timedelta(days=2))]
)  # fmt: skip
def test_since_takes_a_span(text: str, before: timedelta) -> None:
    now = datetime.now().astimezone()
    assert lines.since(text, now) == now - before


def test_since_takes_a_time_and_refuses_nonsense() -> None:
    now = datetime.fromisoformat("2026-11-21T12:00:00").astimezone()
    assert lines.since("07:30", now) == datetime.fromisoformat("2026-11-21T07:30").astimezone()
    assert lines.since("2026-11-20T07:30:00+00:00", now) == datetime(2026, 11, 20, 7, 30, tzinfo=UTC)
    with pytest.raises(ConfigError, match="write 10m, 2h"):
        lines.since("yesterday", now)


# --- files and their ends ------------------------------------------------------------------


@given(
    st.lists(st.binary(max_size=9).map(lambda raw: raw.replace(b"\n", b"") or b"x"), max_size=20),
    st.integers(1, 30),
    st.booleans(),
)
def test_lines_read_backwards_are_the_lines(written: list[bytes], block: int, is_ended: bool) -> None:
    import tempfile

    raw = b"\n".join(written) + (b"\n" if is_ended and written else b"")
    with tempfile.TemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        file.write(raw)
        patch.setattr(tail, "BLOCK", block)
        assert list(tail._backwards(file, len(raw))) == written[::-1]


def test_the_last_lines_go_back_over_the_moved_files(folder: Path) -> None:
    path = folder / "slot_00.log"
    for part in range(4):
        path.write_text("".join(f"{part}-{at}\n" for at in range(3)))
        if part < 3:
            move(path)
    log = Tail(files.Log("slot_00", path))
    read = [raw.decode() for raw in log.backwards()]
    log.close()
    assert read[::-1] == [f"{part}-{at}" for part in range(4) for at in range(3)]


def test_what_is_written_while_the_log_is_moved_twice_is_followed_without_loss(folder: Path) -> None:
    path = folder / "agent.log"
    path.write_text("before\nhalf a")
    follower = Follower(folder, "agent", is_following=True)
    assert [one.text for one in follower.last(10)] == ["before"]
    with path.open("a") as file:
        file.write(" line\nto the old file\n")
    move(path)
    path.write_text("to the second\n")
    move(path)
    path.write_text("to the third\n")
    assert [one.text for one in follower.fresh()] == ["half a line", "to the old file", "to the second", "to the third"]
    with path.open("a") as file:
        file.write("and on\n")
    assert [one.text for one in follower.fresh()] == ["and on"]
    path.write_text("")  # emptied in place
    assert follower.fresh() == []
    path.write_text("anew\n")
    assert [one.text for one in follower.fresh()] == ["anew"]
    follower.close()


def test_a_program_that_comes_later_is_followed_from_its_first_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("operators.logs.follower.LOOK_S", 0.0)
    (folder / "slot_00.log").write_text("there\n")
    follower = Follower(folder, "slot", is_following=True)
    follower.last(0)
    (folder / "slot_01.log").write_text("new\n")
    (folder / "agent.log").write_text("of no slot\n")
    assert [(one.program, one.text) for one in follower.fresh()] == [("slot_01", "new")]
    follower.close()


# --- the command ---------------------------------------------------------------------------


def test_programs_are_shown_by_time_and_the_last_lines_only(penstock: Run, folder: Path) -> None:
    (folder / "slot_00.log").write_text(ours("loads", "10:00:00") + ours("ready", "10:00:02", load_s=1.5))
    (folder / "agent.log").write_text(ours("start", "10:00:01"))
    code, out, _ = penstock("logs", "-n", "2")
    assert code == 0
    shown = [line.split()[0::3] for line in out.splitlines()]
    assert shown == [["agent", "start"], ["slot_00", "ready"]]
    assert out.endswith("load_s=1.5\n")
    code, out, _ = penstock("logs", "0", "--json")
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["loads", "ready"]
    assert json.loads(out.splitlines()[1])["fields"] == {"load_s": 1.5}
    assert penstock("logs", "slot_00", "--raw", "-n", "1")[1] == ours("ready", "10:00:02", load_s=1.5)
    since = f"{local('10:00:01'):%Y-%m-%dT%H:%M:%S}"
    assert len(penstock("logs", "--since", since)[1].splitlines()) == 2


def test_a_log_that_is_not_there_names_the_nearest(penstock: Run, folder: Path) -> None:
    code, _, err = penstock("logs")
    assert (code, err) == (
        1,
        f"error: there are no logs in {folder}; `penstock up` starts the programs that write them\n",
    )
    (folder / "agent.log").write_text("x\n")
    assert penstock("logs", "agnt")[2] == 'error: unknown log "agnt"; did you mean "agent"?\n'
    assert penstock("logs", "3")[2] == 'error: unknown log "slot_03"; known: agent\n'


def test_following_prints_what_comes_and_ends_quietly_when_interrupted(folder: Path) -> None:
    path = folder / "slot_00.log"
    path.write_text("first\n")
    out = folder / "out"
    with out.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "operators.cli", "logs", "0", "-f"], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT,
            env={**os.environ, "PENSTOCK_VAR_DIR": str(folder.parent)},
        )  # fmt: skip
    try:
        wait_until(lambda: "first" in out.read_text(), "the last lines are there")
        move(path)
        path.write_text("second\n")
        wait_until(lambda: "second" in out.read_text(), "the new file is followed")
        process.send_signal(2)
        assert process.wait(5) == 0
        assert "Traceback" not in out.read_text()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("year", ["0001-01-01T00:00:00", "9999-12-31T23:59:59"])
@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
def test_a_time_that_no_local_clock_has_is_none(monkeypatch: pytest.MonkeyPatch, year: str, zone: str) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        raw = f'{{"event": "seen", "timestamp": "{year}Z", "level": "info"}}'
        assert "seen" in lines.told(lines.parse("slot_00", raw.encode()))
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_log_that_may_not_be_read_is_one_line(penstock: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "agent.log").touch()
    real: Callable[..., IO[Any]] = Path.open

    def refuse(path: Path, *mode: str, **rest: str) -> IO[Any]:
        if path.suffix == ".log":
            raise PermissionError(13, "Permission denied")
        return real(path, *mode, **rest)

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    code, _, error = penstock("logs")
    assert (code, error) == (
        1, f"error: {folder}/agent.log is for its owner to read; ask as the user that started the pool, or as root\n",
    )  # fmt: skip
