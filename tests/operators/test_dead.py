"""`penstock dead`: what an operator sees of the jobs that were given up, and does with them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from broker import audit, codec, keys, roster
from broker.connection import Link
from broker.messages import Kind
from broker.spec import Limits
from operators.cli import cli
from operators.dead.cli import dead
from producer import Producer
from tests.broker.actors import MODEL, Client, Slot, depths, publish
from tests.operators.conftest import Run


@pytest.fixture
def link(redis_url: str) -> Iterator[Link]:
    link = Link(redis_url)
    link.connect()
    link.call("FLUSHALL")
    publish(link)
    assert roster.models(link) == [MODEL]
    yield link
    link.close()


@pytest.fixture
def penstock(link: Link, redis_url: str, tmp_path: Path, typed: Run, monkeypatch: pytest.MonkeyPatch) -> Run:  # fmt: skip
    """The command as typed, in this process: (exit code, stdout, stderr)."""
    config = tmp_path / "pool.toml"
    config.write_text(f'[redis]\nurl = "{redis_url}"\n')
    monkeypatch.setenv("PENSTOCK_CONFIG", str(config))
    return typed


def bury(link: Link, count: int = 1, data: bytes = b"a secret input", **options: Any) -> list[str]:
    """Ids of jobs that have died, oldest first."""
    client = Client(link)
    sent = client.submit(count, data, **options)
    slot = Slot(link)
    slot.fail(slot.claim(), "dead")
    return [f"{MODEL}:{job.id}" for job in sent]


def bury_tensors(link: Link) -> str:
    head, tail = codec.encode_job_head(
        kind=Kind.TENSORS, rows=2, is_one_row=False, is_stored=True, retries=3, result_ttl_s=60,
        descriptor=codec.pack_columns([("x", "float32", (2,))]), context={"tenant": "a"},
    )  # fmt: skip
    client, slot = Client(link), Slot(link)
    client.send([codec.encode_job(head, f"{client.name}-1".encode(), tail, b"\0\0\x80\x3f" * 4)])
    slot.fail(slot.claim(), "dead")
    return f"{MODEL}:{client.name}-1"


@pytest.mark.parametrize("name", ["ls", "show", "replay", "drop"])
def test_every_command_of_dead_has_help(name: str) -> None:
    answer = CliRunner().invoke(dead, [name, "--help"])
    assert answer.exit_code == 0
    assert isinstance(dead.commands[name], click.Command)
    assert "--json" in answer.output


def test_dead_stands_in_the_list_of_commands() -> None:
    answer = CliRunner().invoke(cli, ["--help"])
    assert "dead" in answer.output
    assert answer.output.index("models") < answer.output.index("dead") < answer.output.index("doctor")


def test_ls_is_a_table_newest_first_with_ids_as_users_know_them(link: Link, penstock: Run) -> None:
    # given
    first, second = bury(link, 1, lane="low"), bury(link, 1)
    # when
    code, out, _ = penstock("dead", "ls", MODEL)
    # then
    head, *rows = out.splitlines()
    assert code == 0
    assert head.split() == ["ID", "REASON", "ATTEMPTS", "DELIVERIES", "LANE", "DIED", "SIZE", "ERROR"]
    assert [row.split()[0] for row in rows] == [*second, *first]
    assert rows[1].split()[1:5] == ["test", "1", "1", "low"]
    assert rows[0].endswith("dead on purpose")
    assert penstock("dead")[1].split()[:9] == out.split()[:9]


def test_ls_filters_limits_and_speaks_json(link: Link, penstock: Run) -> None:
    # given
    ids = bury(link, 5)
    # then
    found = json.loads(penstock("dead", "ls", "--json", "--limit", "2")[1])
    assert [one["id"] for one in found] == ids[:2:-1]
    assert found[0]["error"] == "dead on purpose"
    assert json.loads(penstock("dead", "ls", "--json", "--reason", "engine_died")[1]) == []
    assert penstock("dead", "ls", MODEL, "--reason", "x")[1] == (
        f"no dead letters of model {MODEL} with reason x; there are: test (5)\n"
    )


def test_an_unknown_model_names_the_nearest(penstock: Run) -> None:
    code, _, err = penstock("dead", "ls", "tyny")
    assert (code, err) == (1, 'error: unknown model "tyny"; did you mean "tiny"?\n')


@pytest.mark.parametrize("command", ["show", "replay", "drop"])
@pytest.mark.parametrize("id", ["tiny:nobody-1", "nobody-1", "other:nobody-1"])
def test_an_unknown_id_is_one_line_with_the_mend(penstock: Run, command: str, id: str) -> None:
    code, _, err = penstock("dead", command, id)
    assert code == 1
    assert err == (
        f"error: no dead letter {id}: it was replayed, dropped or pushed out by newer ones, or that job never died; "
        "see `penstock dead ls`\n"
    )


def test_show_describes_the_input_and_hides_its_values(link: Link, penstock: Run) -> None:
    # given
    id = bury_tensors(link)
    # when
    _, out, _ = penstock("dead", "show", id.removeprefix(f"{MODEL}:"))
    found = json.loads(penstock("dead", "show", id, "--json")[1])
    # then
    assert "input       x float32 [2, 2] 16 B" in out
    assert 'context     {"tenant":"a"}' in out
    assert "1.0" not in out
    assert found["values"] is None
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": [2, 2], "bytes": 16}]
    assert (found["rows"], found["kind"], found["retries"], found["context"]) == (2, "tensors", 3, {"tenant": "a"})


def test_show_input_prints_the_values(link: Link, penstock: Run) -> None:
    # given
    tensors, (raw,) = bury_tensors(link), bury(link)
    # then
    assert json.loads(penstock("dead", "show", tensors, "--show-input", "--json")[1])["values"] == {
        "x": [[1.0, 1.0]] * 2
    }
    assert "a secret input" not in penstock("dead", "show", raw)[1]
    assert json.loads(penstock("dead", "show", raw, "--show-input", "--json")[1])["values"] == "YSBzZWNyZXQgaW5wdXQ="


def test_show_says_why_a_body_cannot_be_read(link: Link, penstock: Run) -> None:
    # given: what a garbled job leaves, with an id that would clear the terminal
    link.call("XADD", keys.dead(MODEL), "*", "id", "\x1b[2Junreadable-0", "reason", "garbled", "attempts", 1,
              "deliveries", 1, "submitted_ms", 5, "lane", 2, "job", b"\x07", "outcome", b"\x09")  # fmt: skip
    # then
    code, out, _ = penstock("dead", "show", "\x1b[2Junreadable-0")
    assert code == 0
    assert "cannot be read: a job of 1 bytes" in out
    assert "\x1b" not in out + penstock("dead", "ls")[1]


def test_a_replayed_job_runs_and_any_process_gets_its_result_by_the_new_id(
    link: Link, redis_url: str, penstock: Run
) -> None:
    # given: a job whose result was not to be stored
    (old,) = bury(link, is_stored=False)
    # when
    code, out, _ = penstock("dead", "replay", old, "--lane", "high")
    # then
    new, _, _, was = out.split()
    assert (code, was, depths(link)) == (0, old, (1, 0, 0))
    with Producer(redis_url) as producer:
        assert producer.handle(new).status() == "waiting"
        slot = Slot(link)
        slot.settle(slot.claim())
        assert producer.result(new, 5).value == b"ok"
    assert penstock("dead", "replay", old)[0] == 1


def test_several_are_replayed_or_none_when_an_id_is_unknown(link: Link, penstock: Run) -> None:
    # given
    first, second = bury(link, 2)
    # then
    assert penstock("dead", "replay", first, "nobody-1", second)[0] == 1
    assert depths(link) == (0, 0, 0)
    done = json.loads(penstock("dead", "replay", first, second, first, "--json")[1])
    assert [one["replay_of"] for one in done] == [first, second]
    assert depths(link) == (0, 2, 0)


def test_all_of_a_reason_are_replayed_after_a_yes(link: Link, penstock: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # given: more than a page
    bury(link, 100)
    monkeypatch.setattr("operators.dead.letters.AT_ONCE", 30)
    monkeypatch.setattr("click.confirm", lambda text, **_: pytest.fail(text))
    # then
    assert penstock("dead", "replay", "--all", "--reason", "other", "--yes")[1] == "no dead letters to replay\n"
    code, out, _ = penstock("dead", "replay", "--all", "--reason", "test", "--yes")
    assert (code, len(out.splitlines()), depths(link)) == (0, 100, (0, 100, 0))
    assert link.call("XLEN", keys.dead(MODEL)) == 0


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("verb", ["replay", "drop"])
def test_all_asks_first_and_without_a_yes_changes_nothing(
    link: Link, penstock: Run, monkeypatch: pytest.MonkeyPatch, verb: str, is_terminal: bool
) -> None:
    # given
    bury(link)
    stdin = io.StringIO("n\n")
    monkeypatch.setattr(stdin, "isatty", lambda: is_terminal)
    monkeypatch.setattr("sys.stdin", stdin)
    # when
    ended, _, err = penstock("dead", verb, "--all", "--model", MODEL, "--reason", "test")
    # then
    if is_terminal:
        assert ended == 1
        assert err.endswith("error: nothing was changed; answer y, or give --yes\n")
        assert f"{verb} all dead letters of model {MODEL} with reason test?" in err
    else:
        assert ended == 2
        assert "--yes" in err
    assert link.call("XLEN", keys.dead(MODEL)) == 1
    assert audit.acts(link) == []


def test_what_was_replayed_and_dropped_stands_in_the_audit(link: Link, penstock: Run) -> None:
    first, second = bury(link, 2)
    penstock("dead", "replay", first)
    penstock("dead", "drop", "--all", "--model", MODEL, "--yes")
    noted = [(act.command, act.target) for act in audit.acts(link)]
    assert noted == [("dead drop", f"all of {MODEL}: 1"), ("dead replay", f"{first}: 1")]
    assert second not in penstock("dead", "ls")[1]


def test_a_queue_that_fills_up_stops_a_replay_and_what_runs_is_told(link: Link, penstock: Run) -> None:
    # given
    bury(link, 5)
    publish(link, Limits(max_jobs=3))
    # when
    code, out, err = penstock("dead", "replay", "--all", "--yes", "--json")
    # then
    assert (code, len(json.loads(out)), depths(link)) == (1, 3, (0, 3, 0))
    assert "at its limit of jobs" in err
    assert link.call("XLEN", keys.dead(MODEL)) == 2


def test_one_that_cannot_be_read_does_not_stop_the_others(link: Link, penstock: Run) -> None:
    # given: the newest, which comes first
    bury(link, 3)
    link.call("XADD", keys.dead(MODEL), "*", "id", "unreadable-0", "reason", "garbled", "attempts", 1, "deliveries", 1,
              "submitted_ms", 5, "lane", 2, "job", b"\x07")  # fmt: skip
    # when
    code, out, err = penstock("dead", "replay", "--all", "--yes")
    # then
    assert (code, len(out.splitlines()), depths(link)) == (1, 3, (0, 3, 0))
    assert err.startswith("error: one was left alone: tiny:unreadable-0 cannot be replayed, its bytes are garbled")


def test_drop_takes_ids_or_all(link: Link, penstock: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    monkeypatch.setattr("operators.dead.letters.AT_ONCE", 30)
    ids = bury(link, 100)
    # then
    assert penstock("dead", "drop", ids[0], ids[1])[1] == "dropped 2 dead letters\n"
    assert json.loads(penstock("dead", "drop", "--all", "--model", MODEL, "--yes", "--json")[1]) == {"dropped": 98}
    assert penstock("dead", "drop", ids[0])[0] == 1


@pytest.mark.parametrize("wrong", [[], ["a-1", "--all"], ["a-1", "--reason", "x"]])
def test_ids_and_all_exclude_each_other(penstock: Run, wrong: list[str]) -> None:
    assert penstock("dead", "drop", *wrong)[0] == 2
