"""When a slot retires. Pure: numbers and a clock in, a reason out."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from broker.errors import ConfigError
from broker.settings import load
from broker.settings_tables import RetireSettings
from workers.exchange import Measured
from workers.exits import Exit
from workers.retire import MB, Retirement


def retirement(*, device: int | None = None, load_s: float = 0.0, **limits: Any) -> Retirement:
    settings = RetireSettings(**{"jitter": 0.0, "min_life_s": 0.0, "min_life_loads": 0.0, "samples": 3, **limits})
    baseline = Measured(100 * MB, device)
    return Retirement(settings, baseline=baseline, ready_at=1000.0, load_s=load_s, draw=random.Random(1))


def grow(one: Retirement, host_mb: float, device_mb: float | None = None) -> None:
    device = None if device_mb is None else int(device_mb * MB)
    one.sample(Measured(int((100 + host_mb) * MB), device))


def test_the_job_limit_is_a_reason_once_it_is_reached() -> None:
    one = retirement(max_jobs=500)
    assert one.due(499, 1001.0) is None
    verdict = one.due(500, 1001.0)
    assert verdict is not None
    assert (verdict.exit, verdict.detail, verdict.is_hard) == (Exit.MAX_JOBS, "500 jobs, limit 500", False)


def test_jitter_spreads_the_limits_of_slots_that_started_together() -> None:
    settings = RetireSettings(max_jobs=1000, jitter=0.1)
    drawn = {
        Retirement(settings, baseline=Measured(0), ready_at=0, load_s=0, draw=random.Random(seed)).max_jobs
        for seed in range(50)
    }
    assert len(drawn) > 20
    assert min(drawn) >= 900
    assert max(drawn) <= 1100


def test_age_is_a_reason() -> None:
    one = retirement(max_jobs=0, max_age_s=60)
    assert one.due(10**9, 1059.0) is None
    verdict = one.due(0, 1060.0)
    assert verdict is not None
    assert verdict.exit is Exit.MAX_AGE


def test_growth_must_hold_over_several_samples() -> None:
    one = retirement(host_growth_mb=50)
    for grown in (60, 60, 10, 60, 60):
        grow(one, grown)
        assert one.due(0, 1001.0) is None, "one dip within three samples is no leak"
    grow(one, 61)
    verdict = one.due(0, 1001.0)
    assert verdict is not None
    assert verdict.exit is Exit.HOST_GROWTH
    assert verdict.detail == "host memory grew 60 MB over 3 samples, limit 50 MB"


def test_device_growth_counts_only_where_it_is_known() -> None:
    blind, seeing = retirement(device_growth_mb=50, device=None), retirement(device_growth_mb=50, device=0)
    for _ in range(3):
        grow(blind, 0, None)
        grow(seeing, 0, 51)
    assert blind.due(0, 1001.0) is None
    verdict = seeing.due(0, 1001.0)
    assert verdict is not None
    assert verdict.exit is Exit.DEVICE_GROWTH


def test_a_hard_limit_acts_at_once_even_in_the_minimum_life() -> None:
    one = retirement(host_hard_growth_mb=200, min_life_s=60.0)
    grow(one, 201)
    verdict = one.due(0, 1000.1)
    assert verdict is not None
    assert verdict.is_hard


def test_a_soft_limit_waits_for_the_minimum_life_and_says_that_it_comes_too_fast() -> None:
    one = retirement(max_jobs=5, min_life_s=60.0)
    assert one.due(5, 1059.0) is None
    assert one.is_too_fast
    assert one.due(5, 1060.0) is not None
    assert not one.is_too_fast


def test_the_minimum_life_follows_a_slow_load() -> None:
    one = retirement(max_jobs=5, min_life_s=60.0, min_life_loads=20.0, load_s=30.0)
    assert one.due(5, 1599.0) is None
    assert one.due(5, 1600.0) is not None


def test_limits_of_zero_are_off() -> None:
    one = retirement(max_jobs=0, max_age_s=0, host_growth_mb=0, device_growth_mb=0, host_hard_growth_mb=0, device=0)
    for _ in range(5):
        grow(one, 10**6, 10**6)
    assert one.due(10**9, 10**9) is None


@pytest.mark.parametrize("line", ["overlap = 1", "overlap = 0.0", "max_jobs = true"])
def test_overlap_is_true_or_false_and_nothing_else_is(tmp_path: Path, line: str) -> None:
    file = tmp_path / "pool.toml"
    file.write_text(f'[models.mlp]\nartifact = "mlp"\nretire = {{ {line} }}\n')
    with pytest.raises(ConfigError, match=r"\[models.mlp.retire\]: .* must be (true or false|a whole number)"):
        load(str(file), environ={})
    file.write_text('[models.mlp]\nartifact = "mlp"\nretire = { max_jobs = 7, overlap = true }\n')
    chosen = load(str(file), environ={})
    assert (chosen.retire_of("mlp").overlap, chosen.retire_of("other").overlap) == (True, False)
