"""Requests from Redis: every app that submits may write there, so nothing that stands there is believed, and nothing of it ends a reader."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import keys, run_request, runs
from broker.connection import Link
from broker.errors import InvalidInput, RunError
from broker.run_request import Request

FINE: dict[str, Any] = {"input": "/in.parquet", "output": "s3://b/out.parquet", "model": "m-1_x"}


def decoded(**changes: Any) -> Request:
    return run_request.decode(msgspec.json.encode(FINE | changes).decode())


def test_what_a_program_of_ours_wrote_is_read_as_it_was() -> None:
    request = Request(
        **FINE, mapping={"keys": ["id"], "inputs": {"x": ["f*"]}}, input_kind="files", output_kind="csv", rows_per_job=7,
        error_limit=0, rate=0.5, priority="low", user="jürgen", host="box.local",
    )  # fmt: skip
    assert run_request.decode(msgspec.json.encode(request).decode()) == request
    assert decoded(from_a_later_version=1) == Request(**FINE)


@pytest.mark.parametrize(
    "changes",
    [
        {"input": ""}, {"output": ""}, {"model": ""}, {"input": None}, {"input": 7}, {"output": ["/x"]}, {"mapping": []},
        {"input": "in.parquet"}, {"output": "../out.parquet"}, {"input": "~/x"}, {"input": "file:/etc/passwd"},
        {"input": "file:///etc/passwd"}, {"output": "LOCAL:///etc/passwd"}, {"input": "/a\0b"}, {"output": "/a\nb"}, {"input": "/" + "x" * 5000},
        {"model": "a b"}, {"model": "../m"}, {"model": "m}:lane"}, {"model": "x" * 300}, {"model": "m\x1b[2J"},
        {"user": "\x1b]0;you are root\x07"}, {"user": "\x9b2J"}, {"user": "x" * 300}, {"host": "box\r\n"}, {"host": 1},
        {"input_kind": "pickle"}, {"output_kind": "files"}, {"output_kind": "/../../x"}, {"output_kind": "parquet\0"},
        {"priority": "urgent"}, {"priority": ""}, {"priority": None}, {"rows_per_job": -1}, {"rows_per_job": 10**30}, {"rows_per_job": 1.5},
        {"error_limit": -2}, {"error_limit": 10**30}, {"error_limit": "all"}, {"rate": -1}, {"rate": 1e300}, {"rate": 1e-300}, {"rate": "x"},
        {"mapping": {"inputs": {"x": ["f" * 1000] * 1000}}},
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        decoded(**changes)


@pytest.mark.parametrize(
    "text", ["", "[", "null", "[]", "{}", '{"input":1e999}', '{"mapping":' + "[" * 100_000, "\ufffd"]
)
def test_what_is_no_request_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        run_request.decode(text)


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=5,
)  # fmt: skip
_FIELDS = st.sampled_from(Request.__struct_fields__)


@given(st.dictionaries(_FIELDS, _ANY, max_size=4) | st.text(), st.integers(0, 200), st.text(max_size=3))
def test_any_request_is_read_or_refused(changes: dict[str, Any] | str, at: int, put: str) -> None:
    text = changes if isinstance(changes, str) else msgspec.json.encode(FINE | changes).decode()
    for one in (text, text[:at] + put + text[at + 1 :]):
        try:
            request = run_request.decode(one)
        except InvalidInput:
            continue
        run_request.check(request)
        assert request.input[0] == "/" or "://" in request.input


def test_what_is_no_run_is_passed_over_by_all_who_look_at_runs(link: Link) -> None:
    # given
    good = runs.submit(link, Request(**FINE), "0123456789ab")[0]
    whole = [part for pair in (("state", "queued"), ("request", msgspec.json.encode(FINE))) for part in pair]
    spoiled: dict[str | bytes, list[Any]] = {
        "aaaaaaaaaaa0": ["request", "{", "state", "queued"], "aaaaaaaaaaa1": [*whole[:2], "request", b"\xff\xfe"],
        "aaaaaaaaaaa2": [*whole, "state", "asleep"], "aaaaaaaaaaa3": [*whole, "rows_done", "many"],
        "aaaaaaaaaaa4": [*whole, "created_ms", "9" * 6000], "aaaaaaaaaaa5": [*whole, "eta_s", "soon"], "aaaaaaaaaaa6": whole[2:],
        "aaaaaaaaaaa7": [*whole, "rows_per_s", "1e9999x"], "aaaaaaaaaaa8": ["other", "1"],
    }  # fmt: skip
    for run, fields in spoiled.items():
        link.call("HSET", keys.run(str(run)), *fields)
    link.call("SET", keys.run("aaaaaaaaaaa9"), "no hash")
    for name in (*spoiled, "aaaaaaaaaaa9", b"\xff\x00", "../../etc"):
        link.call("ZADD", keys.runs(), 1, name)
    # then
    assert [one.id for one in runs.views(link)] == [good.id]
    for run in (*spoiled, "aaaaaaaaaaa9"):
        with pytest.raises(RunError, match="no run"):
            runs.view(link, str(run))
    # and a submit passes over them too
    assert runs.submit(link, Request(**FINE | {"output": "/other"}), "0123456789ac")[1]


def test_texts_of_a_run_cannot_steer_the_terminal_of_who_looks_at_it(link: Link) -> None:
    runs.submit(link, Request(**FINE), "0123456789ab")
    link.call("HSET", keys.run("0123456789ab"), "error", "\x1b[2Jall\nis \x9bwell", "doing", "\x07")
    view = runs.view(link, "0123456789ab")
    assert (view.error, view.doing) == (" [2Jall is  well", " ")


def test_of_two_submitted_at_one_moment_for_one_output_the_second_is_refused(link: Link) -> None:
    """Both looked before either was there, so only the script can tell."""
    first = runs.submit(link, Request(**FINE), "0123456789ab")[0]
    for again in ("resume", "overwrite", "fail"):
        for output in (FINE["output"], f"{FINE['output']}/"):
            other = Request(**FINE | {"input": "/other.parquet", "output": output})
            with pytest.raises(
                RunError, match=r"run 0123456789ab \(queued\) writes to .* already; wait for it, `penstock run cancel"
            ):
                runs.submit(link, other, "0123456789ac", if_exists=again)  # type: ignore[arg-type]
    assert [msgspec.structs.replace(one, at_ms=first.at_ms) for one in runs.views(link)] == [first]
    # and the same again attaches; once the first has ended, the output is free
    assert not runs.submit(link, Request(**FINE), "0123456789ab")[1]
    runs.ask(link, "0123456789ab", "cancel")
    assert runs.submit(link, other, "0123456789ac")[1]
    with pytest.raises(RunError, match=r"run 0123456789ac \(queued\) writes to"):
        runs.submit(link, Request(**FINE), "0123456789ab")
