"""One life of a slot: its lock, its note, its back-off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker.errors import ConfigError
from workers import incarnation
from workers.incarnation import Incarnation


def live(folder: Path, *, ends: str | None, settles: bool = False, is_fault: bool = False) -> Incarnation:
    """A life that is over: with its last word, or killed."""
    one = Incarnation(folder, 0)
    if settles:
        one.settled()
    if ends is not None:
        one.end(ends, is_fault=is_fault)
    os.close(one._lock)
    return one


def test_the_first_life_neither_backs_off_nor_reports_a_death(tmp_path: Path) -> None:
    one = live(tmp_path, ends="drained")
    assert not one.was_killed
    assert one.back_off_s() == 0.0


def test_a_life_that_left_no_word_was_killed(tmp_path: Path) -> None:
    live(tmp_path, ends=None, settles=True)
    after = live(tmp_path, ends="drained")
    assert after.was_killed
    assert after.back_off_s() == 0.0, "it had settled jobs, so nothing speaks against loading at once"


def test_only_deaths_with_nothing_settled_count_toward_the_back_off(tmp_path: Path) -> None:
    waits = [live(tmp_path, ends="load_failed", is_fault=True).back_off_s() for _ in range(9)]
    assert waits == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    live(tmp_path, ends="engine_died", settles=True, is_fault=True)
    assert live(tmp_path, ends="drained").back_off_s() == 0.0
    assert live(tmp_path, ends="max_jobs").back_off_s() == 0.0


def test_two_processes_cannot_live_the_same_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incarnation, "LOCK_WAIT_S", 0.1)
    code = f"from workers.incarnation import Incarnation; Incarnation(__import__('pathlib').Path({str(tmp_path)!r}), 3); print('held', flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="slot 3 already runs on this host"):
            Incarnation(tmp_path, 3)
    finally:
        holder.kill()
        holder.communicate()
    Incarnation(tmp_path, 3)  # the kernel freed the lock with the process


def test_a_garbled_note_counts_as_no_life_before(tmp_path: Path) -> None:
    (tmp_path / "slot-0.json").write_text("{half")
    assert not live(tmp_path, ends="drained").was_killed


def test_a_note_that_cannot_be_written_ends_no_life_and_the_next_takes_it_for_killed(tmp_path: Path) -> None:
    one = Incarnation(tmp_path, 0)
    (tmp_path / "slot-0.new").mkdir()  # stands for a full disk: no new note can be written
    one.settled()
    one.end("drained", is_fault=False)
    os.close(one._lock)
    (tmp_path / "slot-0.new").rmdir()
    assert live(tmp_path, ends="drained").was_killed


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file")
    with pytest.raises(ConfigError, match=r"cannot write .*/var/slot-0\.lock: .*; set pool\.var_dir to a folder"):
        Incarnation(tmp_path / "var", 0)


def test_deaths_of_one_model_are_no_reason_to_keep_the_next_one_waiting(tmp_path: Path) -> None:
    for model in ("one", "one", "one"):
        before = Incarnation(tmp_path, 0)
        before.begin(model)
        before.close()
    after = Incarnation(tmp_path, 0)
    assert after.back_off_s() > 0
    after.begin("another")
    assert after.back_off_s() == 0.0
    after.close()


def test_what_is_owed_to_the_lives_before_is_handed_on_by_a_life_too_short_to_pay_it(tmp_path: Path) -> None:
    # given: a life that was killed, and left an engine
    killed = Incarnation(tmp_path, 0)
    killed.begin("mlp")
    killed.start_engine("cpu", 4711, "boot+1")
    killed.settled()
    killed.close()
    # when: one that never came to its engine
    live(tmp_path, ends="redis_lost")
    # then
    after = Incarnation(tmp_path, 0)
    before = after.before
    assert (before.model, before.device, before.engine_pid, before.engine_started) == ("mlp", "cpu", 4711, "boot+1")
    # and once the engine is gone nobody looks for it again
    after.forget_engine()
    after.close()
    assert live(tmp_path, ends="drained").note.engine_pid == 0
