"""What removes bodies outside Redis, whoever died meanwhile, and what it leaves alone; the folder and the URL as stores."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from broker import bodies_sweep, keys
from broker.bodies_files import MARK
from broker.bodies_recycled import NAME
from broker.bodies_store import BodyStore, open_store
from broker.connection import Link
from broker.errors import StoreError
from tests.broker.apart import lying
from tests.wait import wait_until
from tests.workers.apart import submit
from tests.workers.fakes import MODEL, Client, RunningSlot
from workers import body_remover as removing
from workers.body_remover import KEPT_S, BodyRemover


@pytest.fixture
def folder(tmp_path: Path) -> BodyStore:
    opened = open_store(str(tmp_path / "bodies"))
    assert opened is not None
    return opened


def body_remover(redis_url: str, store: BodyStore, *, is_connected: bool = True) -> BodyRemover:
    link = Link(redis_url)
    if is_connected:
        link.connect()
    return BodyRemover(model=MODEL, store=store, link=link)


@pytest.fixture(params=["folder", "url"])
def outside(request: pytest.FixtureRequest, tmp_path: Path) -> BodyStore:
    opened = open_store({"folder": str(tmp_path / "b"), "url": f"file://{tmp_path}/b"}[request.param])
    assert opened is not None
    return opened


def test_bodies_outside_redis_go_when_their_jobs_have_ended_whoever_died_meanwhile(
    redis_url: str, client: Client, link: Link, outside: BodyStore
) -> None:
    # given: a slot that settled and was killed before it removed anything
    with RunningSlot(redis_url, store=outside):
        done = submit(client, 1.0, 2.0, store=outside)
        client.wait(done)
    waiting = submit(client, 3.0, store=outside)
    assert sorted(lying(outside)) == sorted(done + waiting)
    # when
    other = body_remover(redis_url, outside)
    other.tick(0.0)
    # then
    assert lying(outside) == waiting
    assert link.call("ZRANGE", keys.bodies(MODEL, outside.token), 0, -1) == [waiting[0].encode()]
    other._link.close()


def test_a_body_whose_producer_died_before_its_job_goes_after_its_time_and_no_other(
    redis_url: str, client: Client, link: Link, outside: BodyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    RunningSlot(redis_url).link.close()
    queued = submit(client, 1.0, store=outside)
    link.call(*bodies_sweep.note(MODEL, outside.token, ["dead-1", "slow-1"]))
    outside.write({"dead-1": b"body", "slow-1": b"body", "other-1": b"of another pool"})
    other = body_remover(redis_url, outside)
    # when
    other.tick(0.0)
    assert sorted(lying(outside)) == sorted([*queued, "dead-1", "slow-1", "other-1"])
    link.call("ZADD", keys.bodies(MODEL, outside.token), 5, "slow-1")  # as submit.lua does
    later = other._now_ms() + bodies_sweep.ORPHAN_MS + 1
    monkeypatch.setattr(other, "_now_ms", lambda: later)
    other.tick(1.0)
    # then
    assert sorted(lying(outside)) == sorted([*queued, "slow-1", "other-1"])
    other._link.close()


def test_a_body_half_written_goes_with_its_name_and_nothing_else_does(tmp_path: Path) -> None:
    # given
    store = open_store(str(tmp_path))
    assert store is not None
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "abc-7.part").write_text("half a body")
    # when
    store.remove(["abc-7", "abc-8"])
    # then
    assert sorted(os.listdir(tmp_path)) == [".penstock", "notes.txt"]


def test_a_folder_is_known_by_its_mark_and_not_by_its_path(tmp_path: Path) -> None:
    tokens = {open_store(str(tmp_path / name)).token for name in ("a", "a", "b")}  # type: ignore[union-attr]
    assert len(tokens) == 2


def test_a_folder_that_cannot_be_used_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used here") as caught:
        open_store(str(tmp_path / "file" / "bodies"))
    assert "\n" not in str(caught.value)


def test_a_link_in_the_folder_is_not_followed(tmp_path: Path, folder: BodyStore) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    os.symlink(secret, tmp_path / "bodies" / "abc-1")
    with pytest.raises(StoreError):
        folder.read("abc-1")


def test_a_url_without_fsspec_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(StoreError, match=r"pip install 'penstock\[fsspec\]'"):
        open_store("s3://bucket/prefix")


def test_a_protocol_that_fsspec_does_not_know_is_one_line_and_a_word_to_correct() -> None:
    with pytest.raises(StoreError, match=r"cannot be used from here .*nosuch.*; correct queue\.bodies in pool\.toml$"):
        open_store("nosuch://bucket")


@pytest.mark.parametrize(
    ("url", "module", "mend"),
    [
        ("s3://bucket/prefix", "s3fs", "pip install s3fs, for slots and producers alike"),
        ("smb://host/share", "smbclient", "install what it names with pip, for slots and producers alike"),
    ],
)
def test_a_protocol_whose_package_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, url: str, module: str, mend: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(StoreError) as caught:
        open_store(url)
    text, _, end = str(caught.value).rpartition("; ")
    assert (end, "does not answer" in text) == (mend, False)


def test_a_body_that_could_not_be_removed_is_noted_until_it_can(
    redis_url: str, client: Client, link: Link, folder: BodyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: a job that has ended, and a store that removes nothing
    def refuse(names: object) -> None:
        raise StoreError("the folder is read-only")

    with RunningSlot(redis_url, store=folder):
        ids = submit(client, 1.0, store=folder)
        client.wait(ids)
    other = body_remover(redis_url, folder)
    with monkeypatch.context() as patch:
        patch.setattr(folder, "recycle", refuse)
        with suppress(StoreError):
            other.tick(0.0)
    assert link.call("ZRANGE", keys.bodies(MODEL, folder.token), 0, -1) == [ids[0].encode()]
    # when
    later = other._now_ms() + 2 * bodies_sweep.RETRY_MS
    monkeypatch.setattr(other, "_now_ms", lambda: later)
    other.tick(1.0)
    # then
    assert (lying(folder), link.call("ZCARD", keys.bodies(MODEL, folder.token))) == ([], 0)
    other._link.close()


def test_what_is_kept_to_be_written_over_goes_soon_though_others_are_removed_meanwhile(
    redis_url: str, link: Link, folder: BodyStore, tmp_path: Path
) -> None:
    def recycled() -> list[str]:
        return [name for name in os.listdir(tmp_path / "bodies") if name.startswith(NAME)]

    # given
    folder.write({"abc-1": b"body"})
    link.call("ZADD", keys.bodies(MODEL, folder.token), -1, "abc-1")
    remover = body_remover(redis_url, folder)
    # when
    remover.tick(0.0)
    # then
    assert recycled()
    folder.write({"abc-2": b"body", "abc-3": b"body"})
    link.call("ZADD", keys.bodies(MODEL, folder.token), -1, "abc-2", -1, "abc-3")
    remover.tick(KEPT_S - 1)
    assert recycled()
    remover.tick(KEPT_S)
    assert not recycled()
    remover._link.close()


def test_a_remover_that_is_hastened_removes_at_once_and_leaves_nothing_recycled_when_it_ends(
    redis_url: str, link: Link, folder: BodyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: one that would not look for an hour
    monkeypatch.setattr(removing, "TICK_S", 3600.0)
    remover = body_remover(redis_url, folder)
    remover.start()
    folder.write({"abc-1": b"body"})
    link.call("ZADD", keys.bodies(MODEL, folder.token), -1, "abc-1")
    # when
    remover.hasten()
    # then
    wait_until(lambda: not lying(folder), "the body to go")
    remover.stop()
    assert os.listdir(tmp_path / "bodies") == [MARK]


def test_what_a_killed_slot_kept_to_be_written_over_goes_with_the_first_look_of_the_next(
    redis_url: str, link: Link, folder: BodyStore, tmp_path: Path
) -> None:
    # given
    RunningSlot(redis_url).link.close()
    folder.write({"abc-1": b"body"})
    folder.recycle(["abc-1"])
    # when
    remover = body_remover(redis_url, folder)
    remover.tick(1000.0)
    # then
    assert os.listdir(tmp_path / "bodies") == [MARK]
    remover._link.close()


def test_nothing_is_kept_to_be_written_over_while_redis_is_away(
    redis_url: str, folder: BodyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.setattr(removing, "TICK_S", 0.01)
    remover = body_remover("unix:///nowhere/redis.sock", folder, is_connected=False)
    folder.write({"abc-1": b"body"})
    folder.recycle(["abc-1"])
    # when
    remover.start()
    # then
    wait_until(lambda: os.listdir(tmp_path / "bodies") == [MARK], "the recycled file to go")
    remover.stop()
