"""What `penstock tune` keeps is kept whole: the old file stays until the new one lies on disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from broker.errors import ConfigError
from broker.settings import load
from operators.tune import save
from operators.tune.edit import Value

POOL = '[slot]\nmax_wait_ms = 5.0\n[models.m]\nartifact = "m"\nslots = 1\n'
VALUES: dict[str, Value] = {"slots": 2}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "pool.toml"
    file.write_text(POOL)
    return file


def keep(file: Path, max_wait_ms: float | None = None) -> save.Kept:
    return save.in_pool(load(str(file), environ={}), "m", VALUES, max_wait_ms, is_dry=False)


@pytest.mark.parametrize("call", ["fsync", "fchmod"])
def test_a_write_that_fails_leaves_the_old_file_whole_and_nothing_beside_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    # given: the disk is full
    def full(*_: object) -> None:
        assert file.read_text() == POOL
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    # when
    with pytest.raises(ConfigError, match=r"pool.toml: cannot be written: No space left on device; give --dry-run"):
        keep(file)
    # then
    assert file.read_text() == POOL
    assert list(file.parent.iterdir()) == [file]


def test_readers_see_the_old_file_or_the_new_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    replace, seen = Path.replace, []

    def spied(source: Path, target: Path) -> Path:
        seen.append((source.parent, source.read_text(), target.read_text()))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", spied)
    # when
    kept = keep(file)
    # then: all of the new one lay beside it, in the same folder, before it took its place
    assert kept.is_written
    assert seen == [(file.parent, POOL.replace("slots = 1", "slots = 2"), POOL)]
    assert list(file.parent.iterdir()) == [file]


def test_a_link_stays_a_link(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link" / "pool.toml"
    link.parent.mkdir()
    link.symlink_to(file)
    keep(link)
    assert link.is_symlink()
    assert "slots = 2" in file.read_text()


def test_the_wait_is_written_only_where_there_is_one(file: Path) -> None:
    keep(file, None)
    assert "max_wait_ms = 5.0" in file.read_text()
    keep(file, 1.5)
    assert "max_wait_ms = 1.5" in file.read_text()
    file.write_text(file.read_text() + '[models.n]\nartifact = "n"\n')
    keep(file, 0.5)
    assert "max_wait_ms = 1.5" in file.read_text(), "it is one key for all models"
