"""What differs between two pool.toml, and what it takes to apply it: pure."""

from __future__ import annotations

import pytest

from broker import settings
from broker.settings import Settings
from operators.desk.differences import TABLES, differences, plain

BASE = '[models.a]\nartifact = "x"\n[models.b]\nartifact = "y"\nretire = { max_jobs = 5 }\n'


def parsed(text: str) -> Settings:
    return settings.parse(text, "pool.toml", environ={})


@pytest.mark.parametrize(
    ("text", "key", "effect", "models"),
    [
        (BASE + "[slot]\nlease_s = 20\n", "slot.lease_s", "slots", ("a", "b")),
        (BASE + "[slot]\ndrain_s = 20\n", "slot.drain_s", "down", ()),
        (BASE + "[retire]\nmax_jobs = 9\n", "retire.max_jobs", "slots", ("a",)),
        (BASE + "[pool]\nmost_slots = 9\n", "pool.most_slots", "down", ()),
        (BASE + "[redis]\nconnect_s = 9\n", "redis.connect_s", "later", ()),
        (BASE + '[redis]\nurl = "redis://h:1"\n', "redis.url", "down", ()),
        (BASE + "[runs]\nslice_s = 9\n", "runs.slice_s", "runs", ()),
        (BASE + "[queue]\nmax_jobs = 9\n", "queue.max_jobs", "slots", ("a", "b")),
        (BASE.replace('"x"', '"z"'), "models.a.artifact", "slots", ("a",)),
        (BASE.replace('"x"', '"x"\nslots = 3'), "models.a.slots", "scale", ("a",)),
        (BASE.replace('"x"', '"x"\nautoscale = { most = 2 }'), "models.a.autoscale", "agent", ("a",)),
        (BASE + '[models.c]\nartifact = "z"\n', "models.c", "scale", ("c",)),
        (BASE.partition("[models.b]")[0], "models.b", "scale", ("b",)),
    ],
)
def test_a_changed_key_concerns_only_what_reads_it(text: str, key: str, effect: str, models: tuple[str, ...]) -> None:
    (found,) = differences(parsed(BASE), parsed(text))
    assert (found.key, found.effect, found.models) == (key, effect, models)


def test_the_same_settings_written_otherwise_do_not_differ() -> None:
    assert not differences(parsed(BASE), parsed("# a remark\n" + BASE.replace('"x"', '"x"\nslots = 1')))


def test_passwords_are_shown_in_no_difference_and_in_no_listing() -> None:
    was = parsed(BASE + '[redis]\nurl = "redis://u:0ld@h:1"\n')
    now = parsed(BASE + '[redis]\nurl = "redis://u:n3w@h:1"\n')
    (found,) = differences(was, now)
    told = f"{found} {found.line()} {plain(now)}"
    assert "n3w" not in told
    assert "0ld" not in told
    assert (
        found.line() == 'redis.url: "redis://***@h:1", changed in what is hidden here  (needs `penstock down` and `up`)'
    )


def test_a_line_says_what_was_what_is_and_what_it_takes() -> None:
    (found,) = differences(parsed(BASE), parsed(BASE + "[slot]\nlease_s = 20\n"))
    assert found.line() == "slot.lease_s: 15.0 -> 20.0  (restarts the slots of a, b)"


def test_every_table_of_pool_toml_is_compared() -> None:
    assert {*TABLES, "models", "path", "root"} == set(Settings.__struct_fields__)
