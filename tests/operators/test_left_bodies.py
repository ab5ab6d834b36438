"""What the doctor says of bodies in a store that the pool uses no more."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from broker import bodies_sweep, keys
from broker.bodies_files import FileStore
from broker.connection import Link
from broker.settings import Settings
from broker.settings_tables import ModelSettings, RedisSettings
from operators.left_bodies import left_bodies
from tests.broker.actors import MODEL
from workers.body_remover import BodyRemover


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "bodies")


@pytest.fixture
def settings(redis_url: str, link: Link, tmp_path: Path, folder: str) -> Settings:
    """A pool whose slots have kept bodies in that folder."""
    made = Settings(redis=RedisSettings(url=redis_url), models={MODEL: ModelSettings(MODEL)}, root=str(tmp_path))
    link.call("DEL", keys.spec(MODEL))  # one server for all tests of this file
    store = FileStore(folder)
    BodyRemover(model=MODEL, store=store, link=link).tick(0.0)
    link.call(*bodies_sweep.note(MODEL, store.token, ["abc-1", "abc-2"]))
    return msgspec.structs.replace(made, queue=msgspec.structs.replace(made.queue, bodies=folder))


def test_bodies_in_the_store_before_are_a_warning_with_the_mend(settings: Settings, folder: str) -> None:
    changed = msgspec.structs.replace(settings, queue=msgspec.structs.replace(settings.queue, bodies="redis"))
    (finding,) = left_bodies(changed)
    assert finding.level == "warn"
    assert f"2 bodies of large jobs at {folder}, which queue.bodies named before" in finding.text
    assert f'set queue.bodies = "{folder}" again' in finding.mend


def test_bodies_in_the_store_that_is_used_are_none(settings: Settings) -> None:
    assert list(left_bodies(settings)) == []


def test_a_store_that_holds_nothing_any_more_is_none(settings: Settings, folder: str, link: Link) -> None:
    link.call(*bodies_sweep.removed(MODEL, FileStore(folder).token, ["abc-1", "abc-2"]))
    changed = msgspec.structs.replace(settings, queue=msgspec.structs.replace(settings.queue, bodies="redis"))
    assert list(left_bodies(changed)) == []
