"""What the tasks of schedules do, and which times may stand in pool.toml."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker import runs, schedules
from broker.connection import Link
from broker.errors import ConfigError
from broker.runs import Request
from broker.settings import Settings, load
from operators.runs import clean, scheduled
from tests.operators.runs_cli.conftest import MODEL, stands

DUE_S = int(datetime(2026, 3, 1, 13, tzinfo=UTC).timestamp())


def test_the_task_submits_the_run_of_its_day_from_where_pool_toml_stands(settings: Settings, link: Link) -> None:
    # when
    id = scheduled.submit_for(settings, link, "nightly", DUE_S)
    # then
    request = runs.view(link, id).request
    root = Path(settings.path).parent
    assert request.input == str(root / "day-2026-03-01.parquet")
    assert request.output == str(root / "scored-2026-03-01.parquet")
    assert (request.user, request.host, request.mapping) == ("schedule nightly", "box", {"inputs": {"x": ["f*"]}})
    # and: done twice it does the same once
    assert scheduled.submit_for(settings, link, "nightly", DUE_S) == id
    assert len(runs.views(link)) == 1


def test_what_ended_runs_left_goes_when_nobody_can_come_back_for_it(
    settings: Settings, link: Link, tmp_path: Path
) -> None:
    # given: parts of four runs
    hour_ms, now_ms = 3_600_000, int(schedules.now_s(link) * 1000)
    kept = {}
    for name, state, hours, host in (
        ("done", "done", 2, "box"), ("failing", "done_with_errors", 2, "box"), ("old", "failed", 13 * 24, ""),
        ("elsewhere", "done", 2, "other"), ("working", "running", 0, "box"),
    ):  # fmt: skip
        request = Request(input="/in.csv", output=str(tmp_path / f"{name}.csv"), model=MODEL, host=host)
        id = runs.run_id(request, "", "1")
        runs.submit(link, request, id, version="1")
        stands(link, id, state=state, ended_ms=now_ms - hours * hour_ms)
        kept[name] = tmp_path / f"{name}.csv.run-{id}"
        kept[name].mkdir()
        (kept[name] / "head.json").write_text("{}")
    # when
    clean.tidy(settings, link)
    # then
    assert [name for name, path in kept.items() if path.exists()] == ["failing", "elsewhere", "working"]


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("61 * * * *", 'has "61" as its minute'),
        ("* * * * mo", 'has "mo" as its weekday'),
        ("5-1 * * * *", 'has "5-1" as its minute'),
        ("*/0 * * * *", 'has "*/0" as its minute'),
        ("@daily", "must be five fields"),
    ],
)
def test_a_cron_line_that_can_never_be_due_is_refused_when_pool_toml_is_read(
    config: Path, cron: str, says: str
) -> None:
    config.write_text(
        config.read_text() + f'[schedules.n]\ncron = "{cron}"\ninput = "a"\nmodel = "{MODEL}"\noutput = "b"\n'
    )
    with pytest.raises(ConfigError, match=r"\[schedules\.n\]") as error:
        load()
    assert says in str(error.value)
