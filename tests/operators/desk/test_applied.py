"""The copy of pool.toml that programs run with: a file somebody is editing reaches nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker import settings
from broker.errors import ConfigError
from broker.settings import ENV_APPLIED, ENV_CONFIG, load
from operators import applied
from operators.desk import unapplied

GOOD = '[pool]\nhost = "box"\n[slot]\nlease_s = 7.0\n[models.tiny]\nartifact = "tiny"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "var").mkdir()
    (tmp_path / "pool.toml").write_text(GOOD)
    chosen = settings.load(str(tmp_path / "pool.toml"), environ={})
    applied.write(chosen, applied.file_text(chosen))
    return tmp_path / "pool.toml"


def as_a_slot(file: Path) -> settings.Settings:
    return load(environ={ENV_CONFIG: str(file), ENV_APPLIED: str(file.parent / "var" / "applied.toml")})


@pytest.mark.parametrize("edited", ["not toml [", GOOD.replace("7.0", "0.1"), "", GOOD.replace("lease_s", "lease")])
def test_a_slot_that_restarts_while_the_file_is_edited_gets_what_was_applied(file: Path, edited: str) -> None:
    file.write_text(edited)
    found = as_a_slot(file)
    assert found.slot.lease_s == 7.0
    assert (found.path, found.root) == (str(file), str(file.parent)), "relative paths and messages are the file's"


def test_a_copy_that_was_deleted_falls_back_to_the_file(file: Path) -> None:
    (file.parent / "var" / "applied.toml").unlink()
    file.write_text(GOOD.replace("7.0", "8.0"))
    assert as_a_slot(file).slot.lease_s == 8.0


def test_a_file_named_by_a_flag_is_read_itself(file: Path) -> None:
    other = file.with_name("other.toml")
    other.write_text(GOOD.replace("7.0", "9.0"))
    environ = {ENV_CONFIG: str(file), ENV_APPLIED: str(file.parent / "var" / "applied.toml")}
    assert load(str(other), environ=environ).slot.lease_s == 9.0


def test_the_copy_is_for_its_owner_alone(file: Path) -> None:
    assert (file.parent / "var" / "applied.toml").stat().st_mode & 0o777 == 0o600
    assert [one.name for one in (file.parent / "var").iterdir()] == ["applied.toml"]


def test_a_file_that_turned_bad_since_it_was_loaded_is_not_applied(file: Path) -> None:
    chosen = settings.load(str(file), environ={})
    file.write_text(GOOD.replace("lease_s = 7.0", "lease_s = -1"))
    with pytest.raises(ConfigError, match="lease_s"):
        applied.file_text(chosen)


def test_a_reload_that_died_halfway_is_still_seen_and_can_be_done_again_or_taken_back(file: Path) -> None:
    # given
    chosen = settings.load(str(file), environ={})
    new, newer = GOOD.replace("7.0", "8.0"), GOOD.replace("7.0", "9.0")
    applied.begin(chosen, new)
    # then
    assert as_a_slot(file).slot.lease_s == 8.0
    for text in (GOOD, new):  # slots may run with either: neither is what the pool as a whole runs with
        file.write_text(text)
        assert [one.key for one in unapplied.compare(settings.load(str(file), environ={}))] == ["slot.lease_s"]
    # when
    applied.begin(chosen, newer)
    applied.give_up(chosen)
    assert as_a_slot(file).slot.lease_s == 7.0
    applied.begin(chosen, newer)
    applied.finish(chosen)
    # then
    file.write_text(newer)
    assert unapplied.compare(settings.load(str(file), environ={})) == ()


@pytest.mark.parametrize("found", [b"\xff", b"[slot]\nlease_of_before = 1\n"])
def test_a_copy_that_cannot_be_read_is_named_and_not_taken_for_none(file: Path, found: bytes) -> None:
    copy = file.parent / "var" / "applied.toml"
    copy.write_bytes(found)
    chosen = settings.load(str(file), environ={})
    for reading in (lambda: as_a_slot(file), lambda: applied.in_force(chosen), lambda: applied.carried_out(chosen)):
        with pytest.raises(ConfigError, match=f"{copy}, (what|the copy) the pool was given: "):
            reading()
