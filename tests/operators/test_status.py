"""The snapshot on a pool made by hand in a real Redis, and its problems."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from broker import keys, roster, spec
from broker.connection import Command, Link
from broker.roster import Assignment
from broker.settings import Settings
from broker.settings_tables import ModelSettings, PoolSettings, RedisSettings
from operators import status, table
from operators.problems import find_problems
from operators.snapshot import ModelStatus, RedisStatus, SlotStatus
from operators.supervisor import Program


@pytest.fixture
def link(redis_url: str) -> Iterator[Link]:
    link = Link(redis_url)
    link.connect()
    link.call("FLUSHALL")
    yield link
    link.close()


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings(
        redis=RedisSettings(url=redis_url), pool=PoolSettings(host="box", var_dir="/tmp/nowhere/var"), root="/tmp/nowhere",
        models={"tiny": ModelSettings("tiny", slots=2)},
    )  # fmt: skip


SERVER = RedisStatus(url="", version="6.2.14", policy="noeviction", used_bytes=1, max_bytes=100)


def model(**changes: object) -> ModelStatus:
    plain = ModelStatus(
        name="tiny", version="1", wanted=2, ready=2, depth={"high": 0, "normal": 0, "low": 0}, delayed=0, claimed=0,
        dead=0, oldest_age_ms=None, bytes=0, stored_bytes=0, max_jobs=100, max_bytes=1000, ended={},
    )  # fmt: skip
    return msgspec.structs.replace(plain, **changes)


def problems(settings: Settings, *models: ModelStatus, slots: tuple[SlotStatus, ...] = ()) -> list[str]:
    return [f"{one.level} {one.text} -> {one.mend}" for one in find_problems(SERVER, models, slots, settings)]


def test_a_snapshot_reads_queues_slots_exits_and_counters(link: Link, settings: Settings) -> None:
    limits = spec.Limits(max_jobs=10, max_bytes=1000)
    spec.publish(link, spec.ModelSpec("tiny", "7", "bytes", (), (), 8), limits)
    link.call("XADD", keys.lane("tiny", "high"), "*", "b", "job")
    link.call("XADD", keys.lane("tiny", "low"), "1-1", "b", "old job")
    link.call("XGROUP", "CREATE", keys.lane("tiny", "low"), keys.GROUP, "0")
    link.call("XREADGROUP", "GROUP", keys.GROUP, "me", "STREAMS", keys.lane("tiny", "low"), ">")
    link.call("ZADD", keys.delayed("tiny"), 5, "later")
    link.call("HSET", keys.counters("tiny"), "bytes", 70, "stored_bytes", 30, "done", 4, "failed", 1)
    roster.want(link, "box", "tiny", 2)
    for number in (0, 1):
        roster.assign(link, "box", number, Assignment("tiny", "/artifact"))
    state = {"name": "box/0", "model": "tiny", "state": "ready", "pid": 12, "mean_batch": 3.5, "device_bytes": ""}
    link.call(*roster.announce("box/0", state))
    link.call("ZADD", keys.ready("tiny"), "9" * 14, "box/0")
    roster.record_exit(link, "box/0", "max_jobs", "50 000 jobs", 50_000)
    roster.record_exit(link, "box/0", "hang", "silent for 60 s", 3)

    found = status.read(link, settings)

    tiny = found.models[0]
    assert (tiny.version, tiny.ready, tiny.wanted, tiny.claimed, tiny.delayed) == ("7", 1, 2, 1, 1)
    assert tiny.depth == {"high": 1, "normal": 0, "low": 1}
    assert tiny.oldest_age_ms == found.at_ms - 1
    assert (tiny.jobs, tiny.max_jobs, tiny.ended["done"]) == (3, 10, 4)
    first, second = found.slots
    assert (first.state, first.is_ready, first.pid, first.mean_batch, first.device_bytes) == (
        "ready",
        True,
        12,
        3.5,
        None,
    )
    assert (first.last_exit, first.restarts) == ("hang", {"max_jobs": 1, "hang": 1})
    assert (second.number, second.state, second.model) == (1, "silent", "tiny")
    assert table.slots(found)[1].split()[:3] == ["box/0", "tiny", "ready"]
    assert msgspec.json.decode(msgspec.json.encode(found))["models"][0]["depth"]["high"] == 1


def test_an_empty_redis_is_a_snapshot_too(link: Link, settings: Settings) -> None:
    found = status.read(link, settings)
    assert found.models[0].oldest_age_ms is None
    assert found.slots == ()


def test_a_redis_url_that_is_none_is_to_be_corrected(settings: Settings) -> None:
    (problem, *_) = status.snapshot(msgspec.structs.replace(settings, redis=RedisSettings(url="localhost:1"))).problems
    assert "'localhost:1' is not a Redis URL" in problem.text
    assert problem.mend.startswith("correct redis.url: write redis://host:6379")


def test_a_redis_that_is_away_is_a_problem_and_not_an_error(settings: Settings) -> None:
    away = msgspec.structs.replace(settings, redis=RedisSettings(url="unix:///tmp/no-such.sock"))
    found = status.snapshot(away)
    assert found.redis is None
    assert any("Redis does not answer" in one.text for one in found.problems)


def test_jobs_that_wait_without_a_slot_come_before_all_else(settings: Settings) -> None:
    found = problems(
        settings, model(name="full", depth={"high": 90, "normal": 0, "low": 0}, dead=3),
        model(ready=0, depth={"high": 0, "normal": 5, "low": 0}),
    )  # fmt: skip
    assert found[0] == "error tiny: 5 jobs wait and no slot is ready -> penstock up"
    assert found[1].startswith("error full: the queue is 90% full")
    assert found[2] == "warning full: 3 jobs were given up -> penstock dead ls full"
    one = problems(settings, model(ready=0, dead=1, depth={"high": 0, "normal": 1, "low": 0}))
    assert one[0].startswith("error tiny: 1 job waits and")
    assert one[1].startswith("warning tiny: 1 job was given up")


def test_a_slot_that_cannot_load_is_shown_with_its_reason(settings: Settings) -> None:
    failing = SlotStatus("box/3", 3, "tiny", "backing off", False, reason="load_failed: no such device")
    assert problems(settings, model(), slots=(failing,)) == [
        "error slot 3 (tiny) backing off: load_failed: no such device; it tries again by itself -> "
        "penstock doctor; see /tmp/nowhere/var/log/slot_03.log"
    ]


@pytest.mark.parametrize(("last", "says"), [("load_failed", ": no such device"), ("killed", "")])
def test_a_back_off_shows_the_detail_of_the_exit_it_names_and_of_no_older_one(
    settings: Settings, last: str, says: str
) -> None:
    waiting = SlotStatus(
        "box/3", 3, "tiny", "backing off", False, reason=f"4 lives in a row settled nothing (last: {last})",
        last_exit="load_failed", last_exit_detail="no such device",
    )  # fmt: skip
    (said,) = problems(settings, model(), slots=(waiting,))
    assert f"(last: {last}){says}; it tries again by itself" in said


@pytest.mark.parametrize("state", ["exiting", "backing off", "retiring"])
def test_a_slot_that_comes_back_by_itself_needs_no_up(settings: Settings, state: str) -> None:
    slot = SlotStatus("box/0", 0, "tiny", state, False, reason="x")
    found = problems(settings, model(ready=0, depth={"high": 1, "normal": 0, "low": 0}), slots=(slot,))
    assert "error tiny: 0 of 2 wanted slots are ready, 1 on the way -> penstock status" in found
    assert not any("penstock up" in one for one in found)


def test_a_silent_slot_is_told_with_its_process_and_when_it_is_killed(settings: Settings) -> None:
    silent = SlotStatus("box/1", 1, "tiny", "silent", False, pid=77, program="RUNNING", silent_s=12.3)
    text = "warning slot 1 (tiny, pid 77) is silent for 12 s"
    assert f"{text}; the agent kills it at 30 s -> " in problems(settings, model(ready=1), slots=(silent,))
    stopped = msgspec.structs.replace(silent, state="ready", silent_s=2.0)  # its last words still stand
    assert problems(settings, model(ready=1), slots=(stopped,)) == [
        "warning tiny: 1 of 2 wanted slots are ready, 1 on the way -> penstock status"
    ]
    (alone,) = find_problems(SERVER, (model(),), (silent,), settings, has_agent=False)
    assert alone.mend == "kill -9 77; supervisord starts it again"


@pytest.mark.parametrize(
    ("state", "up_s", "shown", "mend"),
    [("RUNNING", 1, "starting", ""), ("RUNNING", 60, "silent", "see "), ("FATAL", 0, "silent", "penstock up; see ")],
)
def test_a_slot_that_says_nothing_is_judged_by_its_program(
    link: Link, settings: Settings, state: str, up_s: int, shown: str, mend: str
) -> None:
    roster.assign(link, "box", 0, Assignment("tiny", "/artifact"))
    found = status.read(link, settings, {0: Program("slot_00", state, 77 if up_s else 0, up_s, "")})
    (slot,) = found.slots
    assert (slot.state, slot.pid) == (shown, 77 if up_s else None)
    told = [one.mend for one in found.problems if one.text.startswith("slot 0 (tiny) is assigned and says nothing")]
    assert [one.partition("/")[0] for one in told] == ([mend] if mend else [])


def test_a_model_that_the_settings_want_and_nobody_was_given_is_told(settings: Settings) -> None:
    assert find_problems(SERVER, (), (), settings, assigned={"tiny": 1}) == []
    (found,) = find_problems(SERVER, (), (), settings, assigned={})
    assert (found.text, found.mend) == (
        "tiny: the settings in force want 2 slots, 0 are assigned",
        "penstock scale tiny 2",
    )


def test_a_slot_that_is_loading_is_no_error(settings: Settings) -> None:
    loading = SlotStatus("box/0", 0, "tiny", "loading", False)
    found = problems(settings, model(ready=1), slots=(loading,))
    assert found == ["warning tiny: 1 of 2 wanted slots are ready, 1 on the way -> penstock status"]


def test_a_redis_that_evicts_is_the_worst_of_all(settings: Settings) -> None:
    evicting = msgspec.structs.replace(SERVER, policy="allkeys-lru", used_bytes=90)
    found = find_problems(evicting, (model(ready=0, delayed=1),), (), settings)
    assert found[0].text == "Redis may drop jobs: maxmemory-policy is allkeys-lru"
    assert found[0].mend.endswith("CONFIG SET maxmemory-policy noeviction")
    assert "90% full" in found[-1].text


def test_a_pool_in_order_has_no_problems(settings: Settings) -> None:
    assert problems(settings, model()) == []


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1_500_000, "1.5 MB"), (None, "-")])
def test_sizes_are_short(count: int | None, text: str) -> None:
    assert table.size(count) == text


@pytest.mark.parametrize(("ms", "text"), [(12, "12 ms"), (3400, "3.4 s"), (600_000, "10 min"), (None, "-")])
def test_ages_are_short(ms: int | None, text: str) -> None:
    assert table.age(ms) == text


class CountingLink(Link):
    """Counts how often it sends: a round trip each."""

    trips = 0

    def send(self, *commands: Command) -> None:
        self.trips += 1
        super().send(*commands)


@pytest.mark.parametrize(("models", "slots"), [(1, 1), (20, 64)])
def test_a_snapshot_takes_as_many_round_trips_however_many_models_and_slots_there_are(
    link: Link, settings: Settings, redis_url: str, models: int, slots: int
) -> None:
    for at in range(models):
        spec.publish(link, spec.ModelSpec(f"m{at}", "1", "bytes", (), (), 8), spec.Limits())
        link.call("XADD", keys.lane(f"m{at}", "low"), "*", "b", "job")
    link.call_all([roster.announce(f"box/{at}", {"model": "m0", "state": "ready"}) for at in range(slots)])
    counted = CountingLink(redis_url)
    counted.connect()
    before = counted.trips

    found = status.read(counted, settings)

    assert (len(found.models), len(found.slots)) == (models + 1, slots)
    assert counted.trips - before == 3
    counted.close()


def test_the_oldest_job_is_the_claimed_one_at_the_head_and_its_body_is_not_read(
    link: Link, settings: Settings, redis_url: str
) -> None:
    spec.publish(link, spec.ModelSpec("tiny", "1", "bytes", (), (), 8), spec.Limits())
    lane = keys.lane("tiny", "normal")
    for entry in ("1000-1", "2000-1"):
        link.call("XADD", lane, entry, "b", "job")
    link.call("XGROUP", "CREATE", lane, keys.GROUP, "0")
    link.call("XREADGROUP", "GROUP", keys.GROUP, "me", "COUNT", 1, "STREAMS", lane, ">")
    counted = CountingLink(redis_url)
    counted.connect()
    before = counted.trips

    found = status.read(counted, settings)

    assert found.models[0].oldest_age_ms == found.at_ms - 1000
    assert counted.trips - before == 2
    counted.close()


def test_the_rate_is_told_while_slots_settle_and_not_long_after(link: Link, settings: Settings) -> None:
    now_ms = roster.now_ms(link)
    link.call("HSET", keys.counters("tiny"), "rate", 120, "mark_ms", now_ms)
    assert status.read(link, settings).models[0].jobs_per_s == 120
    link.call("HSET", keys.counters("tiny"), "mark_ms", now_ms - 60_000)
    assert status.read(link, settings).models[0].jobs_per_s == 0


def test_one_sight_looks_again_after_its_connection_was_lost(link: Link, settings: Settings) -> None:
    sight = status.Sight(settings)
    assert sight.look().redis is not None
    link.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    first, second = sight.look(), sight.look()
    assert first.redis is None
    assert any("Redis does not answer" in one.text for one in first.problems)
    assert second.redis is not None
    sight.close()


def test_one_model_whose_spec_is_garbled_is_a_problem_and_hides_nothing(link: Link, settings: Settings) -> None:
    spec.publish(link, spec.ModelSpec("fine", "1", "bytes", (), (), 8), spec.Limits())
    link.call("HSET", keys.spec("tiny"), "generation", "x", "body", "no json", "max_jobs", 1)
    found = status.read(link, settings)
    assert [(one.name, one.version) for one in found.models] == [("fine", "1"), ("tiny", "")]
    assert found.problems[0].text.startswith("the published spec of model 'tiny' is garbled")
    assert found.problems[0].mend == "a slot that starts publishes it again"
