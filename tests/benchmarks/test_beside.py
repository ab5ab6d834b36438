"""The high lane beside a bulk run: what counts as a run at work, what the model notes, and (slow) that all of it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import beside, company, forwards, sleeper
from benchmarks.arrivals import Open
from benchmarks.company import Look, Work
from benchmarks.forwards import MARK, Forward
from benchmarks.latency import Latency

LOOKS = [Look(at, "running", rows) for at, rows in ((0.0, 5), (0.9, 5), (1.0, 20), (1.9, 30), (2.0, 40), (2.3, 50))]


def back_to_back(seconds: float, *, marked: int = 3, others: int = 13, took_s: float = 0.005) -> list[Forward]:
    """Forwards with nothing between them; each tenth has rows of the run only."""
    count = round(seconds / took_s)
    return [Forward(at * took_s, took_s, marked if at % 10 else 0, others) for at in range(count)]


def test_a_run_that_wrote_in_every_part_and_was_in_the_forwards_all_the_time_was_at_work() -> None:
    # when: the last look came after the measured time
    work = company.require_at_work(LOOKS, back_to_back(3.0), parts=2, part_s=1.0)
    # then
    assert work.written_per_s == pytest.approx(35 / 2)
    assert work.rows_per_s == pytest.approx(13 / 0.005, rel=0.01)
    assert set(work.low_ms) == {5.0}
    assert len(work.low_ms) == pytest.approx(40, abs=1)
    assert (work.fed_share, round(work.longest_gap_s, 2)) == (1.0, 0.0)


def sorted_by_begin(*noted: list[Forward]) -> list[Forward]:
    return sorted((one for some in noted for one in some), key=lambda one: one.began_at)


@pytest.mark.parametrize(
    ("looks", "noted", "said"),
    [
        ([*LOOKS[:-2], Look(2.0, "done", 40)], back_to_back(3.0), "the run was done while"),
        ([*LOOKS[:3], Look(2.0, "running", 20)], back_to_back(3.0), "wrote no row in part 2 of 2"),
        ([LOOKS[0], Look(1.0, "running", 5), Look(2.0, "running", 9)], back_to_back(3.0), "wrote no row in part 1 of 2"),
        (LOOKS, back_to_back(1.5), "in none for 50"),
        (LOOKS, [one for one in back_to_back(3.0) if not 0.4 < one.began_at < 0.8], "in none for 3"),
        (LOOKS, back_to_back(3.0, others=0), "in 0.0% of the forwards"),
        (LOOKS, sorted_by_begin(back_to_back(3.0)[::2], back_to_back(3.0, others=0)[1::2]), "in 50.0% of the forwards"),
        (LOOKS, [one for one in back_to_back(3.0) if one.marked], "no batch of the run alone"),
    ],
    ids=["ended", "stood at the end", "stood at the begin", "ran dry", "paused", "never there", "now and then", "never alone"],
)  # fmt: skip
def test_a_run_that_was_not_at_work_all_the_time_gives_no_figure(
    looks: list[Look], noted: list[Forward], said: str
) -> None:
    with pytest.raises(RuntimeError, match=said):
        company.require_at_work(looks, noted, parts=2, part_s=1.0)


def test_the_model_notes_each_forward_with_whose_rows_it_had(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    # given
    folder = sleeper.build(tmp_path / "model", sleep_ms=1.0, notes=tmp_path / "notes")
    names: dict[str, Any] = {}
    exec((folder / "model.py").read_text(), names)
    model = names["Sleeper"](1.0, str(tmp_path / "notes"), MARK)
    x = torch.zeros(8, sleeper.FEATURES)
    x[:2, 0], x[2:5, 0] = MARK, 0.25
    # when
    y = model(x)
    model(x[5:])
    model.notes.close()
    # then
    first, padding = forwards.read(tmp_path / "notes")
    assert y[:, 0].tolist() == [MARK] * 2 + [0.25] * 3 + [0.0] * 3
    assert (first.marked, first.others, padding.marked, padding.others) == (2, 3, 0, 0)
    assert 0.001 <= first.took_s < 1.0
    assert padding.began_at >= first.ended_at


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("1.5 0.005 2 3\n2.5 0.0")
    assert forwards.read(tmp_path / "notes") == [Forward(1.5, 0.005, 2, 3)]


def a_round(alone_p99_ms: float, beside_p99_ms: float, *, late_ms: float = 0.5) -> beside.Round:
    alone, under = (
        Open(600.0, Latency(8.0, p99_ms, 20.0, 100), Latency(0.1, late_ms, 90.0, 100))
        for p99_ms in (alone_p99_ms, beside_p99_ms)
    )
    return beside.Round(alone, under, Work(2_500.0, 2_400.0, [5.0, 5.0, 9.0], 1.0, 0.004))


def page_of(*rounds: beside.Round) -> str:
    return beside.text({
        "rounds": list(rounds), "lasts_s": 16.0, "bodies": "/dev/shm", "machine": "abacus", "cores": 2, "server": "redis 6.2",
        "date": "today", "load_1m": 0.1, "highest": 3_000.0, "rate": 600.0,
    })  # fmt: skip


@pytest.mark.parametrize(("p99_ms", "verdict"), [(15.9, "<= 1  ok"), (16.5, "<= 1  MISSED")])
def test_the_page_judges_the_median_of_what_each_round_added_in_low_batches(p99_ms: float, verdict: str) -> None:
    page = page_of(a_round(11.0, 11.0), a_round(11.0, p99_ms), a_round(11.0, 400.0))
    added = (p99_ms - 11.0) / 5
    assert f"added to the p99, in low batches: {added:.2f} (0.00, {added:.2f}, 77.80); {verdict}" in page
    assert "alone:          p50 8.00 (8.00 to 8.00) ms, p99 11.00" in page


def test_there_is_no_verdict_where_the_client_itself_was_later_than_a_low_batch() -> None:
    busy = a_round(250.0, 200.0, late_ms=6.0)
    assert "<= 1  ok" in page_of(a_round(11.0, 12.0), busy, a_round(11.0, 12.0))
    assert "<= 1  not measured, the machine was busy" in page_of(busy, a_round(11.0, 12.0), busy)


@pytest.mark.slow
def test_a_short_round_on_a_real_pool_gives_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(
        company, "LONGEST_GAP_S", 5.0
    )  # other work may stall this machine; what is shown is that it runs
    figures = beside.measure(tmp_path, beside.Size(1, 1, 4.0), "redis", lambda line: None)
    assert "high lane beside the run: p50" in beside.text(figures)
    assert figures["rounds"][0].work.rows_per_s > 0
