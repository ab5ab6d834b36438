"""What is made of measurements: centiles, medians with spread, ratios per round, the time split, the tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import marks, plot, readme, report, rounds, spread
from benchmarks.flood import Flood
from benchmarks.latency import Latency, Split, Timed, latency_of, split_of
from benchmarks.rounds import PeerRound, Round
from broker.messages import Timings

SOME = Latency(2.0, 4.0, 6.0, 100)
ABOUT: dict[str, Any] = {
    "date": "2026-11-22T00:00:00Z", "machine": "abacus", "cores": 2, "load_1m": 0.1, "server": "redis 6.2", "rounds": 2,
}  # fmt: skip


def flooded(jobs_per_s: float, cpu_us: dict[str, float]) -> Flood:
    return Flood(jobs_per_s, submit_s=1.0, decode_s=0.5, cpu_us=cpu_us, commands=2.0, redis_bytes=900.0)


def a_round(ours: float, bare: float, peers: dict[str, float]) -> Round:
    latency = Latency(1.0, 3.0, 5.0, 100)
    timed = Timed(1_000.0, latency, Split(0.1, 0.2, 0.3, 0.4))
    return Round(
        floods={
            "ours": flooded(ours, {"producer": 1.0, "slot": 2.0, "engine": 3.0, "redis": 4.0}),
            "redis-py": flooded(bare, {"producer": 5.0, "worker": 5.0, "redis": 5.0}),
            "raw": flooded(2 * bare, {"producer": 1.0, "worker": 1.0, "redis": 1.0}),
        },
        bare_ones={"redis-py": Latency(0.5, 1.0, 2.0, 100), "raw": Latency(0.25, 1.0, 2.0, 100)},
        one=timed,
        many=timed,
        peers={name: PeerRound(speed, SOME, 500.0, SOME) for name, speed in peers.items()},
    )


def test_centiles_of_a_thousand_and_one_values_are_those_values() -> None:
    found = latency_of([float(value) for value in range(1_001)])
    assert (found.p50_ms, found.p99_ms, found.p999_ms, found.jobs) == (500.0, 990.0, 999.0, 1_001)


def test_a_figure_is_the_median_of_the_rounds_with_the_least_and_the_most() -> None:
    assert spread.of("speed", [30.06, 10.0, 20.04], 1) == {"speed": 20.0, "speed_min": 10.0, "speed_max": 30.1}
    with pytest.raises(ValueError, match="measured in no round"):
        spread.of("speed", [])


def test_a_ratio_is_taken_within_each_round_and_not_between_medians() -> None:
    found = rounds.figures([a_round(10, 20, {}), a_round(90, 100, {}), a_round(30, 30, {})], flood_jobs=100)
    assert found["flood_ratio"] == 0.9  # of 0.5, 0.9 and 1.0; the medians' own ratio is 1.0
    assert (found["flood_ratio_min"], found["flood_ratio_max"]) == (0.5, 1.0)


def test_every_key_that_is_promised_is_in_the_flat_object() -> None:
    found = rounds.figures([a_round(100, 50, {"mosec": 10, "rq": 2})], flood_jobs=100)
    promised = (
        "flood_ratio", "flood_jobs_per_s", "bare_jobs_per_s", "one_in_flight_p50_ratio", "one_in_flight_p50_ms",
        "in_flight_64_jobs_per_s", "cpu_us_per_job", "vs_mosec", "vs_rq", "vs_mosec_64_in_flight",
    )  # fmt: skip
    assert {key: found[key] for key in ("vs_mosec", "vs_rq", "cpu_us_per_job", "vs_mosec_64_in_flight")} == {
        "vs_mosec": 10, "vs_rq": 50, "cpu_us_per_job": 10, "vs_mosec_64_in_flight": 2,
    }  # fmt: skip
    assert set(promised) <= found.keys()
    assert "vs_celery_batches" not in found
    assert all(isinstance(value, int | float) for value in found.values())


def test_one_job_in_flight_is_compared_with_the_fastest_peer() -> None:
    found = rounds.figures([a_round(100, 50, {"mosec": 10})], flood_jobs=100)
    assert found["one_in_flight_p50_to_fastest_peer"] == 0.5
    assert "one_in_flight_p50_to_fastest_peer" not in rounds.figures([a_round(100, 50, {})], flood_jobs=100)


def test_the_parts_of_a_jobs_time_add_up_to_what_the_client_saw() -> None:
    timings = [Timings(1.0, 0.25, 0.5, 2.0), Timings(2.0, 0.5, 0.5, 3.0)]
    split = split_of([3.0, 5.0], timings)
    assert split == Split(queue_ms=1.0, slot_ms=0.5, forward_ms=0.5, trip_ms=2.0)
    assert sum(getattr(split, name) for name in split.__struct_fields__) == 4.0


def test_the_table_says_which_mark_is_missed_and_leaves_out_what_was_not_measured() -> None:
    figures = ABOUT | {"flood_ratio": 0.79, "flood_ratio_min": 0.7, "flood_ratio_max": 0.9, "vs_mosec": 5.0}
    text = marks.table(figures)
    assert ">= 0.8  MISSED" in text
    assert "0.70 .. 0.90" in text
    assert ">= 5  ok" in text
    assert "RQ" not in text
    assert "2026-11-22, abacus, 2 cores" in text
    assert "| 0.79 | 0.70 .. 0.90 | >= 0.8  MISSED |" in marks.markdown(figures)


def test_every_mark_of_the_table_is_a_key_that_a_part_writes() -> None:
    keys = [key for _, key, _, _ in marks.ROWS]
    assert len(set(keys)) == len(keys)
    measured = rounds.figures(
        [a_round(100, 50, dict.fromkeys(("mosec", "mosec_raw", "celery_batches", "rq"), 10.0))], flood_jobs=1
    )
    mean = {key for key in keys if key.startswith(("split_", "vs_", "cpu_", "one_", "bare_one", "raw_bare"))}
    assert mean <= measured.keys()


def test_readme_gets_its_table_from_the_figures_and_keeps_the_rest() -> None:
    figures = rounds.figures([a_round(47_100, 45_200, {"mosec": 11_400})], flood_jobs=100) | ABOUT
    text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    renewed = readme.renewed(text, figures)
    assert "| **Penstock** | **47 100** | **1 000** | **1.00** |" in renewed
    assert "| mosec 0.9.8, 64 HTTP clients (pyreqwest); HTTP, not a queue | 11 400 | 500 | 2.00 |" in renewed
    assert "old" not in renewed
    assert (renewed.startswith("before\n"), renewed.endswith("after\n")) == (True, True)
    assert readme.renewed(renewed, figures) == renewed
    with pytest.raises(ValueError, match="around the table"):
        readme.renewed("no marks", figures)


def test_rounds_and_figures_become_json(tmp_path: Path) -> None:
    report.write(tmp_path / "rounds.json", {"rounds": [a_round(1, 1, {"rq": 1})]})
    assert json.loads((tmp_path / "rounds.json").read_text())["rounds"][0]["peers"]["rq"]["one"]["p50_ms"] == 2.0


def test_a_plot_is_drawn_of_whatever_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `bench` is not installed")
    figures = rounds.figures([a_round(100, 50, {"mosec": 10})], flood_jobs=100) | ABOUT
    assert plot.draw(figures, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert not plot.draw(ABOUT, tmp_path / "none.png")


def test_without_matplotlib_a_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert not plot.draw({"flood_jobs_per_s": 1.0}, tmp_path / "plot.png")
    assert capsys.readouterr().err == "bench: no plot: matplotlib is missing; pip install -e '.[bench]'\n"
