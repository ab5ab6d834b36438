"""The folder that bodies stand in belongs to us: one that others may write to is refused, and what lies in it is read by no others."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.bodies_files import MARK, FileStore
from broker.errors import StoreError

ELSE = 54_321  # an id of nobody here


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bodies"
    folder.mkdir(0o700)
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_and_all_in_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    FileStore(str(tmp_path / "new" / "bodies")).write({"abc-1": b"body"})
    assert mode(tmp_path / "new" / "bodies") == 0o700
    assert {mode(path) for path in (tmp_path / "new" / "bodies").iterdir()} == {0o600}


@pytest.mark.parametrize("bits", [0o777, 0o1777, 0o702])
def test_a_folder_that_everyone_may_write_to_is_refused(folder: Path, bits: int) -> None:
    folder.chmod(bits)
    with pytest.raises(StoreError, match=r"may be written to by everyone; .*chmod 700") as caught:
        FileStore(str(folder))
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []


def test_a_folder_of_another_user_is_refused_and_one_of_roots_is_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = folder.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: ELSE)
    if owner == 0:
        FileStore(str(folder))
        os.chown(folder, ELSE + 1, -1)
        owner = ELSE + 1
    with pytest.raises(StoreError, match=rf"belongs to another user \(uid {owner}\)"):
        FileStore(str(folder))


def test_a_folder_that_our_own_group_shares_is_taken_and_its_files_are_read_by_the_group(folder: Path) -> None:
    folder.chmod(0o770)
    os.umask(0o077)
    FileStore(str(folder)).write({"abc-1": b"body"})
    assert {mode(path) for path in folder.iterdir()} == {0o640}


def test_a_folder_that_another_group_shares_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.chmod(0o770)
    monkeypatch.setattr(os, "getegid", lambda: ELSE)
    with pytest.raises(StoreError, match="by a group that is not this user's own"):
        FileStore(str(folder))


@pytest.mark.parametrize("content", [b"\xff\xfe\xff\xfe", b"", b"g" * 16, b"0" * 17])
def test_a_mark_that_is_none_is_told_with_the_mend(folder: Path, content: bytes) -> None:
    (folder / MARK).write_bytes(content)
    with pytest.raises(StoreError, match="is no mark of ours; empty the folder, or name another one"):
        FileStore(str(folder))


@pytest.mark.parametrize("target", ["mark", "nowhere"])
def test_a_mark_that_is_a_link_is_not_followed(folder: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "mark").write_text("0" * 16)
    os.symlink(tmp_path / target, folder / MARK)
    with pytest.raises(StoreError, match="cannot be used here"):
        FileStore(str(folder))
    assert not (tmp_path / "nowhere").exists()


def test_a_pipe_holds_nobody_up(folder: Path) -> None:
    os.mkfifo(folder / MARK)
    with pytest.raises(StoreError, match="is no mark of ours"):
        FileStore(str(folder))
