"""A right that is missing in the middle of the work is one clear line in producer, slot and command; never a traceback."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker import acl, roster
from broker.connection import NoPermissionError
from broker.errors import RedisRefused, RedisUnavailable
from broker.roster import Assignment
from broker.settings import Settings
from operators.cli import main
from producer import AsyncProducer, Producer
from tests import models
from tests.broker.actors import MODEL, publish
from tests.security.conftest import Guarded, Role
from workers.exits import Exit
from workers.incarnation import Incarnation
from workers.life import Life


def without(guarded: Guarded, role: str, *words: str) -> str:
    """URL of a new user who has a role's rights but for some."""
    version = (6, 2) if guarded.kind == "embedded" else (7, 0)
    kept = [rule for rule in acl.rules(acl.read()[role], version) if rule not in words]  # type: ignore[index]
    guarded.admin.call("ACL", "SETUSER", "less", "reset", "on", ">less", *kept)
    return guarded.url_of("less")


@pytest.mark.parametrize("missing", ["+xadd", "~penstock:{*}:requests:*", "+evalsha", "+hmget"])
def test_a_producer_says_what_it_may_not_do(missing: str, guarded: Guarded, role: Role) -> None:
    publish(role("worker"))
    url = without(guarded, "producer", missing)
    with Producer(url, submit_timeout_s=2) as producer, pytest.raises(RedisUnavailable) as caught:
        producer.submit(MODEL, b"sixteen bytes...")
    assert isinstance(caught.value, RedisRefused), str(caught.value)
    assert "refused us" in str(caught.value)
    assert "\n" not in str(caught.value)

    async def ask() -> None:
        async with AsyncProducer(url, submit_timeout_s=2) as producer:
            await producer.submit(MODEL, b"sixteen bytes...")

    with pytest.raises(RedisRefused):
        asyncio.run(ask())


@pytest.mark.parametrize("missing", ["+xreadgroup", "+hset", "~penstock:{pool}:assignment:*", "+xgroup|create"])
def test_a_slot_ends_with_the_reason_and_its_next_life_backs_off(
    missing: str, guarded: Guarded, role: Role, tmp_path: Path
) -> None:
    # given
    artifact = models.mlp(tmp_path / "mlp")
    operator = role("operator")
    roster.assign(operator, "h", 0, Assignment("mlp", str(artifact.folder)))
    lacking = {missing, missing.replace("~", "%R~")}
    raw: dict[str, Any] = {
        "redis": {"url": without(guarded, "worker", *lacking)}, "slot": {"block_ms": 50},
        "pool": {"var_dir": str(tmp_path / "var"), "host": "h"}, "models": {"mlp": {"artifact": str(artifact.folder)}},
    }  # fmt: skip
    settings = msgspec.convert(raw, Settings)
    # when
    life = Life(settings, 0, is_inline=True)
    # then
    assert life.live() is Exit.MISCONFIGURED
    assert "refused us" in life.board.reason
    assert life.incarnation.note.exit == "misconfigured"
    assert [one.reason for one in roster.exits(operator)] in (["misconfigured"], [])
    second = Incarnation(settings.var, 0)
    assert second.back_off_s() >= 1
    second.close()


def test_a_command_says_it_in_one_line(
    guarded: Guarded, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "pool.toml"
    config.write_text(f'[redis]\nurl = "{without(guarded, "operator", "+info")}"\n')
    monkeypatch.setenv("PENSTOCK_CONFIG", str(config))
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--json"])
    assert caught.value.code == 1
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err + shown.out
    assert "Redis refused" in shown.err + shown.out
    assert "NOPERM" in shown.err + shown.out


def test_the_words_of_both_servers_for_a_missing_right_are_recognised(guarded: Guarded, role: Role) -> None:
    publish(role("worker"))
    from broker.connection import Link
    from tests.broker.actors import Client

    for missing in ("+xadd", "~penstock:{*}:lane:*", "+ping"):
        link = Link(without(guarded, "producer", missing))
        link.connect()
        client = Client(link)
        command = ("PING",) if missing == "+ping" else client.command(client.blobs(1))
        with pytest.raises(NoPermissionError):
            link.call(*command)
        link.close()
