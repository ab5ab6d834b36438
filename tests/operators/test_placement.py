"""Which GPU a slot of `device = "auto"` gets: evenly, into free memory, and never past what was promised."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import ConfigError
from broker.roster import Assignment
from broker.settings import Settings
from broker.settings_tables import ModelSettings
from operators import placement
from operators.gpu_troubles import troubles
from operators.hardware import Gpu, Hardware, decode, encode
from operators.placement import Ask, Tenant, spread

GB = 1 << 30


def gpu(name: str, free_gb: int | None = 80, total_gb: int | None = 80, **more: object) -> Gpu:
    free, total = (None if one is None else one * GB for one in (free_gb, total_gb))
    return Gpu(f"GPU-{name}", "H100", total, free, **more)  # type: ignore[arg-type]


def places(asks: list[Ask], gpus: list[Gpu], tenants: list[Tenant] | None = None) -> str:
    return "".join(uuid.removeprefix("GPU-") for uuid in spread(asks, gpus, tenants or []))


def test_slots_spread_evenly_and_the_emptier_gpu_comes_first() -> None:
    assert places([Ask("m")] * 5, [gpu("a", 70), gpu("b", 80)]) == "babab"


def test_slots_that_are_there_count_whatever_their_model() -> None:
    there = [Tenant("GPU-b", Ask("other")), Tenant("GPU-b", Ask("other")), Tenant("GPU-gone", Ask("other"))]
    assert places([Ask("m")] * 2, [gpu("a"), gpu("b")], there) == "aa"


def test_a_gpu_that_others_fill_gets_nothing() -> None:
    assert places([Ask("m", needs_bytes=10 * GB)] * 3, [gpu("a", 8), gpu("b")]) == "bbb"


def test_memory_fractions_are_kept_to() -> None:
    assert places([Ask("m", 0.5)] * 4, [gpu("a", 79), gpu("b", 79)]) == "abab"
    with pytest.raises(ConfigError, match="100% of it is promised, 50% more are asked for"):
        spread([Ask("m", 0.5)] * 3, [gpu("a", 79)], [])
    with pytest.raises(ConfigError, match=r"one more slot of m .*40960 MB needed, 30720 MB free"):
        spread([Ask("m", 0.5)], [gpu("a", 30)], [])


def test_what_a_slot_that_still_loads_will_take_is_not_given_away() -> None:
    ask = Ask("m", needs_bytes=30 * GB)
    assert places([ask], [gpu("a")], [Tenant("GPU-a", ask, is_loaded=False)]) == "a"
    with pytest.raises(ConfigError, match="MB needed"):
        spread([ask], [gpu("a")], [Tenant("GPU-a", ask, is_loaded=False)] * 2)
    assert places([ask], [gpu("a")], [Tenant("GPU-a", ask)] * 2) == "a", "it shows in what is free"


def test_a_gpu_that_does_not_tell_its_memory_is_used_behind_those_that_do() -> None:
    assert places([Ask("m")] * 2, [gpu("a", None, None), gpu("b")]) == "bb"
    assert places([Ask("m", 0.4)] * 3, [gpu("a", None, None), gpu("b", 40)]) == "baa"
    assert places([Ask("m")] * 2, [gpu("a", None, None)]) == "aa"


def test_auto_n_puts_at_most_n_slots_of_the_model_on_a_gpu() -> None:
    ask = Ask("m", most_per_gpu=1)
    assert places([ask] * 2, [gpu("a"), gpu("b")]) == "ab"
    with pytest.raises(ConfigError, match="auto:1 allows no more"):
        spread([ask] * 3, [gpu("a"), gpu("b")], [])


@given(
    st.lists(st.tuples(st.integers(0, 80), st.booleans()), min_size=1, max_size=4),
    st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]), min_size=1, max_size=8),
)
@settings(max_examples=100, deadline=None)
def test_no_gpu_is_promised_twice_and_none_is_filled_beyond_what_is_free(
    given_gpus: list[tuple[int, bool]], fractions: list[float]
) -> None:
    gpus = [gpu(str(at), free if is_known else None, 80) for at, (free, is_known) in enumerate(given_gpus)]
    asks = [Ask(f"m{at}", fraction) for at, fraction in enumerate(fractions)]
    try:
        chosen = spread(asks, gpus, [])
    except ConfigError:
        return
    for one in gpus:
        here = [ask for ask, uuid in zip(asks, chosen, strict=True) if uuid == one.uuid]
        assert sum(ask.fraction for ask in here) <= 1 + 1e-6
        if one.free_bytes is not None:
            assert sum(ask.fraction * 80 * GB or GB for ask in here) <= one.free_bytes + 0.05 * 80 * GB


@given(st.integers(1, 8), st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_on_equal_gpus_no_one_has_two_slots_more_than_another(count: int, slots: int) -> None:
    chosen = Counter(spread([Ask("m")] * slots, [gpu(str(at)) for at in range(count)], []))
    assert max(chosen.values()) - min(chosen[f"GPU-{at}"] for at in range(count)) <= 1


@pytest.mark.parametrize("device", ["auto:0", "auto:x", "auto:", "auto:-1", "auto:²"])
def test_auto_with_no_number_behind_the_colon_is_an_error(device: str) -> None:
    with pytest.raises(ConfigError, match='write "auto", or "auto:2"'):
        placement.check(Settings(models={"m": ModelSettings("m", device=device)}))


def test_only_slots_on_auto_are_placed_and_what_others_take_is_learned_from_their_words() -> None:
    chosen = Settings(models={"m": ModelSettings("m", device="auto"), "c": ModelSettings("c")})
    listed = Hardware("580", (gpu("a", 100, 140), gpu("b", 20, 140), gpu("c", trouble="GPU is lost")))
    held = {0: Assignment("m", "/m", "GPU-a"), 1: Assignment("m", "/m", "GPU-a"), 2: Assignment("c", "/c")}
    told = {0: {"state": "ready", "device_bytes": str(30 * GB)}, 1: {"state": "ready", "device_bytes": "much"}}
    wished = {3: Assignment("m", "/m", "auto"), 4: Assignment("c", "/c")}
    placed = placement.place(chosen, wished, held=held, told=told, listed=listed)
    assert placed == {3: Assignment("m", "/m", "GPU-a"), 4: Assignment("c", "/c")}, "30 GB do not fit on b"
    assert placement.place(chosen, {4: Assignment("c", "/c")}) == {4: Assignment("c", "/c")}, "nobody asks a driver"


@pytest.mark.parametrize(
    ("given_device", "wished", "is_it"),
    [
        ("GPU-a", "auto", True),
        ("MIG-a", "auto:2", True),
        ("cpu", "auto", False),
        ("cpu", "cpu", True),
        ("GPU-a", "cuda:0", False),
    ],
)
def test_a_slot_that_was_placed_is_as_auto_wishes(given_device: str, wished: str, is_it: bool) -> None:
    assert placement.is_as_wished(given_device, wished) is is_it


def test_the_host_s_gpus_travel_as_they_are_and_garbage_is_no_gpu() -> None:
    listed = Hardware(None, (gpu("a", None, None), gpu("b", trouble="GPU is lost")))
    assert decode(encode(listed)) == listed
    assert encode(None) == ""
    assert [decode(text) for text in ("", "nonsense", "[]")] == [None, None, None]


def test_a_lost_gpu_and_the_slots_on_it_are_problems_but_not_to_a_pool_on_the_cpu() -> None:
    listed = Hardware("580", (gpu("a"), Gpu(None, index=1, trouble="GPU is lost")))
    held = {0: Assignment("m", "/m", "GPU-a"), 1: Assignment("m", "/m", "GPU-b")}
    found = list(troubles(Settings(models={"m": ModelSettings("m", device="auto")}), listed, held))
    assert [one.text for one in found] == [
        "GPU 1 cannot be used: GPU is lost",
        "slot 1 (m) is assigned to GPU-b, which the driver does not list",
    ]
    assert not list(troubles(Settings(models={"m": ModelSettings("m")}), listed, held))
