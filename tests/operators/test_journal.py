"""How programs ended, out of supervisord's log."""

from __future__ import annotations

from pathlib import Path

from operators.journal import Journal


def spawned(name: str, pid: int) -> str:
    return f"2026-11-22 00:27:34,888 INFO spawned: '{name}' with pid {pid}\n"


def test_codes_have_names_signals_theirs_and_a_running_process_none(tmp_path: Path) -> None:
    log = tmp_path / "supervisord.log"
    log.write_text(
        spawned("slot_00", 10) + "x INFO exited: slot_00 (exit status 64; not expected)\n"
        + spawned("slot_00", 11) + "x WARN exited: slot_00 (terminated by SIGSEGV (core dumped); not expected)\n"
        + spawned("slot_00", 12) + "x INFO stopped: slot_00 (exit status 0)\n"
        + spawned("slot_00", 13) + "x INFO exited: slot_00 (exit status 3; not expected)\n"
        + spawned("slot_00", 14)
    )  # fmt: skip
    journal = Journal(log)
    assert [journal.end_of(pid) for pid in range(10, 15)] == [
        "exit 64 max_jobs", "SIGSEGV", "exit 0 drained", "exit 3 unknown", "",
    ]  # fmt: skip


def test_it_follows_the_log_over_half_lines_and_rotation(tmp_path: Path) -> None:
    log = tmp_path / "supervisord.log"
    journal = Journal(log)
    assert journal.end_of(1) == "", "no log yet"
    with log.open("w") as file:
        file.write(spawned("slot_01", 1) + "x INFO exited: slot_01 (exit sta")
        file.flush()
        assert journal.end_of(1) == ""
        file.write("tus 71; not expected)\n" + spawned("slot_01", 2))
    assert journal.end_of(1) == "exit 71 hang"
    log.rename(tmp_path / "supervisord.log.1")
    log.write_text("x WARN stopped: slot_01 (terminated by SIGKILL)\n")
    assert journal.end_of(2) == "SIGKILL"
