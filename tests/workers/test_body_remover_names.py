"""Names of bodies as whoever submits may write them: the body_remover makes no path of what is no job's, and none holds up the rest."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from broker import keys
from broker.bodies_store import BodyStore, open_store
from broker.connection import Link
from broker.errors import StoreError
from tests.broker.apart import lying
from tests.workers.fakes import MODEL
from workers.body_remover import BodyRemover

BAD = ["../precious", ".penstock", "abc-1/../../precious", "/etc/passwd", "x" * 300, "abc-1.part", "abc-1\n", ""]


@pytest.fixture(params=["folder", "url"])
def outside(request: pytest.FixtureRequest, tmp_path: Path) -> BodyStore:
    (tmp_path / "precious").write_text("mine")
    opened = open_store({"folder": str(tmp_path / "b"), "url": f"file://{tmp_path}/b"}[request.param])
    assert opened is not None
    return opened


def tick(redis_url: str, store: BodyStore) -> None:
    link = Link(redis_url)
    link.connect()
    try:
        BodyRemover(model=MODEL, store=store, link=link).tick(0.0)
    finally:
        link.close()


def test_a_name_that_is_no_jobs_is_dropped_and_nothing_is_removed_under_it(
    redis_url: str, link: Link, outside: BodyStore, tmp_path: Path
) -> None:
    # given
    outside.write({"abc-1": b"body", "abc-2": b"body"})
    before = sorted(os.listdir(tmp_path / "b"))
    for name in [*BAD, b"\xff", "abc-2"]:
        link.call("ZADD", keys.bodies(MODEL, outside.token), -1, name)
    # when
    tick(redis_url, outside)
    # then
    outside.tidy()
    assert (tmp_path / "precious").read_text() == "mine"
    assert sorted(os.listdir(tmp_path / "b")) == [name for name in before if name != "abc-2"]
    assert link.call("ZCARD", keys.bodies(MODEL, outside.token)) == 0


@pytest.mark.parametrize("name", BAD)
def test_a_store_makes_no_path_of_what_is_no_jobs_name(outside: BodyStore, tmp_path: Path, name: str) -> None:
    uses: list[Callable[[], object]] = [
        lambda: outside.remove([name]),
        lambda: outside.recycle([name]),
        lambda: outside.read(name),
        lambda: outside.write({name: b"x"}),
    ]
    for use in uses:
        with pytest.raises(StoreError, match="is no body's name"):
            use()
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_body_that_cannot_be_removed_holds_up_no_other(redis_url: str, link: Link, tmp_path: Path) -> None:
    # given: folders, where files should be, due before a body
    store = open_store(str(tmp_path / "b"))
    assert store is not None
    stuck = [f"stuck-{at}" for at in range(5)]
    for at, name in enumerate([*stuck, "abc-1"]):
        link.call("ZADD", keys.bodies(MODEL, store.token), -1000 + at, name)
    for name in stuck:
        (tmp_path / "b" / name).mkdir()
    store.write({"abc-1": b"body"})
    # when
    for _ in range(2):
        with pytest.raises(StoreError, match="cannot be used here"):
            tick(redis_url, store)
    # then
    assert lying(store) == stuck
    assert link.call("ZCARD", keys.bodies(MODEL, store.token)) == len(stuck)
