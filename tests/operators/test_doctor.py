"""Settings and servers the doctor warns of."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import msgspec
import pytest

from broker.bodies_files import FileStore
from broker.errors import StoreError, SupervisorError
from broker.settings import Settings
from broker.settings_tables import ModelSettings, RedisSettings, RetireSettings
from operators import doctor, durability, large_bodies
from operators.doctor import Finding


def levels(findings: list[Finding]) -> dict[str, list[str]]:
    return {level: [one.text for one in findings if one.level == level] for level in ("ok", "warn", "fail")}


@pytest.fixture
def plain(redis_url: str, tmp_path: Path) -> Settings:
    return Settings(
        redis=RedisSettings(url=redis_url), models={"tiny": ModelSettings("tiny")}, root=str(tmp_path)
    )  # fmt: skip


def test_a_redis_without_append_only_file_is_a_warning(plain: Settings) -> None:
    found = levels(list(doctor.redis_server(plain)))
    assert found["fail"] == []
    assert "no append-only file: a crash of Redis loses queued jobs" in found["warn"]
    assert any("round trip" in text for text in found["ok"])


@pytest.mark.parametrize(
    ("retire", "says"),
    [
        (RetireSettings(max_jobs=500), "max_jobs = 500 may be reached"),
        (RetireSettings(max_age_s=5), "max_age_s = 5 is below min_life_s"),
        (RetireSettings(host_growth_mb=2), "host_growth_mb = 2 is less than"),
        (RetireSettings(host_growth_mb=100, host_hard_growth_mb=50), "acts before the soft limit"),
    ],
)
def test_settings_that_retire_too_often_are_warnings(plain: Settings, retire: RetireSettings, says: str) -> None:
    found = list(doctor.retirement(msgspec.structs.replace(plain, retire=retire)))
    assert [one.level for one in found] == ["warn"]
    assert says in found[0].text
    assert found[0].mend


def test_the_defaults_are_in_order(plain: Settings) -> None:
    assert levels(list(doctor.retirement(plain)))["warn"] == []


def test_a_check_that_fails_hides_no_other(plain: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(settings: Settings) -> list[Finding]:
        raise SupervisorError("it is broken; mend it")

    monkeypatch.setattr(doctor, "CHECKS", (broken, doctor.retirement))
    found = doctor.examine(plain)
    assert found[0] == Finding("fail", "it is broken", "mend it")
    assert len(found) == 2


def test_without_the_workers_extra_the_doctor_says_what_to_install(
    plain: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "workers", None)
    assert [one.mend for one in doctor.devices(plain)] == ["pip install 'penstock[workers]'"]


@pytest.mark.parametrize(
    ("append", "level", "says"),
    [
        ({"appendfsync": "always"}, "ok", "synced before each answer"),
        ({"appendfsync": "always", "no-appendfsync-on-rewrite": "yes"}, "warn", "not while it is rewritten"),
        ({"appendfsync": "everysec"}, "ok", "one of its machine the last second or two"),
        ({"appendfsync": "no"}, "warn", "may lose half a minute"),
        ({}, "ok", "this user may not ask"),
    ],
)
def test_the_doctor_says_what_a_crash_would_lose(append: dict[str, str], level: str, says: str) -> None:
    (found,) = durability.on_disk({"aof_enabled": "1"}, append, "redis-cli")
    assert (found.level, bool(found.mend)) == (level, level != "ok")
    assert says in found.text


@pytest.mark.parametrize(
    ("info", "is_guarded", "level", "says"),
    [
        ({"role": "slave"}, False, "fail", "is a replica and takes no jobs"),
        ({"role": "master", "connected_slaves": "1"}, True, "warn", "1 replica follows asynchronously"),
        ({"role": "master", "connected_slaves": "2", "min_slaves_good_slaves": "2"}, True, "ok", "no writes without"),
        ({"role": "master", "connected_slaves": "0"}, True, "warn", "nothing to fail over to"),
    ],
)
def test_the_doctor_says_what_a_failover_would_lose(
    info: dict[str, str], is_guarded: bool, level: str, says: str
) -> None:
    (found,) = durability.on_replicas(info, "redis-cli", is_guarded=is_guarded)
    assert found.level == level
    assert says in found.text


def test_a_single_redis_needs_no_word_about_replicas() -> None:
    assert (
        list(durability.on_replicas({"role": "master", "connected_slaves": "0"}, "redis-cli", is_guarded=False)) == []
    )


def at(plain: Settings, bodies: str) -> Settings:
    return msgspec.structs.replace(plain, queue=msgspec.structs.replace(plain.queue, bodies=bodies))


def bodies_of(plain: Settings, bodies: str, monkeypatch: pytest.MonkeyPatch) -> Finding:
    """What `penstock doctor` says of a store; its other checks are others' affair."""
    monkeypatch.setattr(doctor, "CHECKS", [check for check in doctor.CHECKS if check is large_bodies.large_bodies])
    (found,) = doctor.examine(at(plain, bodies))
    return found


@pytest.mark.parametrize("scheme", ["", "file://"], ids=["folder", "url"])
def test_the_doctor_writes_reads_and_removes_a_body_and_leaves_nothing(
    plain: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    (tmp_path / "bodies").mkdir()
    found = bodies_of(plain, f"{scheme}{tmp_path}/bodies", monkeypatch)
    assert (found.level, "one was written, read and removed" in found.text) == ("ok", True)
    assert {path.name for path in (tmp_path / "bodies").iterdir()} <= {".penstock"}


def test_a_folder_that_is_not_there_is_left_to_those_who_use_it(
    plain: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = bodies_of(plain, f"{tmp_path}/deep/bodies", monkeypatch)
    assert (found.level, "is not there yet" in found.text) == ("ok", True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bodies", ["file", "file/bodies"])
def test_a_store_of_large_bodies_that_cannot_be_used_fails_with_its_mend(
    plain: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bodies: str
) -> None:
    (tmp_path / "file").write_text("")
    found = bodies_of(plain, f"{tmp_path}/{bodies}", monkeypatch)
    assert found.level == "fail"
    assert found.mend == 'give this user the folder, or set queue.bodies = "redis" in pool.toml'


@pytest.mark.parametrize("broken", ["write", "read"])
def test_a_store_that_opens_and_cannot_be_used_fails(
    plain: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def refuse(*_: object) -> None:
        raise StoreError("the disk is full; empty it")

    (tmp_path / "bodies").mkdir()
    monkeypatch.setattr(FileStore, broken, refuse)
    assert bodies_of(plain, f"{tmp_path}/bodies", monkeypatch) == Finding("fail", "the disk is full", "empty it")
    assert [path.name for path in (tmp_path / "bodies").iterdir()] == [".penstock"]


def test_a_store_that_hangs_does_not_hang_the_doctor(
    plain: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    (tmp_path / "bodies").mkdir()
    monkeypatch.setattr(FileStore, "read", lambda self, name: bool(go.wait(20)) and None)
    monkeypatch.setattr(large_bodies, "PATIENCE_S", 0.1)
    found = bodies_of(plain, f"{tmp_path}/bodies", monkeypatch)
    go.set()
    assert (found.level, "did not answer within 0.1 s" in found.text) == ("fail", True)
