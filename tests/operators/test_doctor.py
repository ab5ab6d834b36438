"""Settings and servers the doctor warns of."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from broker.errors import SupervisorError
from broker.settings import ModelSettings, RedisSettings, RetireSettings, Settings
from operators import doctor, durability
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
