"""Files of bodies that are written over: each body is whole under its name, whatever its file held, and nothing is written through."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from broker import bodies_recycled
from broker.bodies_files import MARK, PART, FileStore
from broker.bodies_recycled import FILES, NAME
from broker.errors import StoreError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "bodies"


@pytest.fixture
def store(folder: Path) -> FileStore:
    return FileStore(str(folder))


def recycled(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{NAME}*"))


@pytest.mark.parametrize("size", [1, 5000, 70_000])
def test_a_recycled_file_holds_the_new_body_and_no_byte_of_the_old_one(
    store: FileStore, folder: Path, size: int
) -> None:
    # given
    store.write({"abc-1": b"old" * 10_000})
    inode = (folder / "abc-1").stat().st_ino
    # when
    store.recycle(["abc-1"])
    assert store.read("abc-1") is None
    for at in range(FILES):  # the one recycled file is found in its turn
        store.write({f"new-{at}": b"n" * size})
    # then
    assert [store.read(f"new-{at}") for at in range(FILES)] == [b"n" * size] * FILES
    assert inode in {(folder / f"new-{at}").stat().st_ino for at in range(FILES)}
    assert recycled(folder) == []


def test_a_few_small_files_are_kept_at_most_until_they_are_tidied_away(
    store: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies_recycled, "MOST_BYTES", 1000)
    names = [f"abc-{at}" for at in range(3 * FILES)]
    store.write(dict.fromkeys(names, b"x" * 1000))
    store.write({"large-1": b"x" * 1001})
    store.recycle([*names, "large-1", "never-1"])
    assert len(recycled(folder)) == FILES
    assert not any((folder / name).exists() for name in [*names, "large-1"])
    store.tidy()
    assert os.listdir(folder) == [MARK]


def test_remove_keeps_nothing(store: FileStore, folder: Path) -> None:
    store.write({"abc-1": b"body"})
    store.remove(["abc-1"])
    assert os.listdir(folder) == [MARK]


@pytest.mark.parametrize("planted", ["link", "second name", "pipe", "another user's"])
def test_nothing_is_written_through_what_somebody_put_there(
    store: FileStore, folder: Path, tmp_path: Path, planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for number in range(FILES):
        path = folder / f"{NAME}{number}"
        if planted == "link":
            path.symlink_to(precious)
        elif planted == "second name":
            os.link(precious, path)
        elif planted == "pipe":
            os.mkfifo(path)
        else:
            path.write_text("theirs")
    if planted == "another user's":
        monkeypatch.setattr(os, "geteuid", lambda: 4242)
    # when
    for at in range(FILES):
        store.write({f"abc-{at}": b"body"})
    # then
    assert precious.read_text() == "mine"
    assert recycled(folder) == []
    for at in range(FILES):
        assert store.read(f"abc-{at}") == b"body"
        assert (folder / f"abc-{at}").stat().st_nlink == 1


def test_a_disk_without_room_leaves_neither_halves_nor_recycled(
    store: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write({"abc-1": b"body", "abc-2": b"body"})
    store.recycle(["abc-1", "abc-2"])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(StoreError, match="No space left"):
        store.write({"abc-3": b"body", "abc-4": b"body"})
    assert os.listdir(folder) == [MARK]
    assert not list(folder.glob(f"*{PART}"))


def test_writers_and_removers_at_once_never_mix_two_bodies(store: FileStore, folder: Path) -> None:
    # given: what a pool does with one folder, from several stores at once
    stores = [store, *(FileStore(str(folder)) for _ in range(3))]
    wrong: list[str] = []

    def work(number: int) -> None:
        mine = stores[number]
        for at in range(200):
            body = bytes([65 + number]) * (100 + 37 * at)
            mine.write({f"of{number}-{at}": body})
            if mine.read(f"of{number}-{at}") != body:
                wrong.append(f"of{number}-{at}")
            stores[(number + 1) % 4].recycle([f"of{number}-{at}"])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    # when
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # then
    assert wrong == []
    assert len(recycled(folder)) == len(os.listdir(folder)) - 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_recycled_files_give_way_where_there_is_no_room_for_a_body(
    store: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    # given: a disk that has room for nothing beside what is kept
    store.write({"abc-1": b"old body", "abc-2": b"old body"})
    store.recycle(["abc-1", "abc-2"])
    fchmod, refused = os.fchmod, list[int]()

    def full(handle: int, mode: int) -> None:
        if recycled(folder):
            refused.append(handle)
            raise OSError(code, "No space left on device")
        fchmod(handle, mode)

    monkeypatch.setattr(os, "fchmod", full)
    # when
    store.write({"abc-3": b"body"})
    # then
    assert (len(refused), store.read("abc-3")) == (1, b"body")
    assert sorted(os.listdir(folder)) == [MARK, "abc-3"]


def test_a_body_of_which_a_half_lies_beside_it_goes_with_that_half(store: FileStore, folder: Path) -> None:
    # given: a writer that was killed as it wrote the body once more
    store.write({"abc-1": b"body"})
    (folder / f"abc-1{PART}").write_bytes(b"bo")
    # when
    store.recycle(["abc-1"])
    store.tidy()
    # then
    assert os.listdir(folder) == [MARK]


def test_a_body_that_cannot_be_kept_is_removed(store: FileStore, folder: Path) -> None:
    # given
    store.write({"abc-1": b"body"})
    for number in range(FILES):
        (folder / f"{NAME}{number}").mkdir()
    # when
    store.recycle(["abc-1"])
    store.tidy()
    # then
    assert store.read("abc-1") is None
    assert len(recycled(folder)) == FILES


def test_in_a_folder_where_nobody_may_move_anothers_files_bodies_are_written_anew(
    store: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: another user's recycled files, and the folder is sticky
    for number in range(FILES):
        (folder / f"{NAME}{number}").write_text("theirs")
    rename = os.rename

    def sticky(source: str, target: str) -> None:
        if NAME in source:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        rename(source, target)

    monkeypatch.setattr(os, "rename", sticky)
    # when
    store.write({"abc-1": b"body"})
    # then
    assert store.read("abc-1") == b"body"
    assert len(recycled(folder)) == FILES
