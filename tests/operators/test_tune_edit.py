"""pool.toml is edited by the line: comments and other keys stay as they are."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from broker.errors import ConfigError
from operators.tune import edit
from tests.operators.conftest import ROOT

POOL = """\
# head
[slot]
# max_wait_ms = 0.0   # commented

[models.a]   # first
artifact = "a"
slots = 2                # two
# max_rows = 0

# about b
[models.b]
artifact = "b"
max_rows = 7
"""


def put(text: str, table: str, **values: edit.Value) -> str:
    return edit.put(text, table, values, where="pool.toml")


def test_a_key_is_replaced_in_place_and_a_new_one_stands_below_the_last() -> None:
    after = put(POOL, "models.a", slots=1, max_rows=8, row_buckets=[1, 4, 8])
    assert after == POOL.replace(
        "slots = 2                # two\n", "slots = 1                # two\nmax_rows = 8\nrow_buckets = [1, 4, 8]\n"
    )


def test_what_changed_is_told_below_its_table() -> None:
    after = put(put(POOL, "models.b", max_rows=9), "slot", max_wait_ms=1.5)
    assert edit.diff(POOL, after) == [" [slot]", "+max_wait_ms = 1.5", " [models.b]", "-max_rows = 7", "+max_rows = 9"]
    assert edit.diff(POOL, POOL) == []


def test_a_table_that_is_not_there_is_put_at_the_end() -> None:
    after = put(POOL, "models.c", artifact="c", slots=1)
    assert after.startswith(POOL)
    assert tomllib.loads(after)["models"]["c"] == {"artifact": "c", "slots": 1}
    assert put("", "slot", threads=2) == "[slot]\nthreads = 2\n"


@pytest.mark.parametrize("header", ['[models."a"]', "[ models . a ]", "[models.'a'] # odd"])
def test_headers_may_be_written_in_other_ways(header: str) -> None:
    after = put(POOL.replace("[models.a]   # first", header), "models.a", slots=3)
    assert "slots = 3                # two" in after


@pytest.mark.parametrize(
    "text",
    [
        '[models]\na = { artifact = "a", slots = 2 }\n',
        'models.a = { artifact = "a" }\n',
        '[models.a]\nartifact = """\n[models.b]\n"""\nrow_buckets = [\n  1,\n  2,\n]\n',
    ],
)
def test_a_file_written_in_another_way_is_refused_with_the_lines_to_paste(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"cannot be edited by the line; put in: \[models.a\]; slots = 1; row_buckets = \[1\]"
    ):
        put(text, "models.a", slots=1, row_buckets=[1])


def test_the_file_that_comes_with_penstock_can_be_edited() -> None:
    text = (Path(ROOT) / "configs" / "pool.toml").read_text()
    after = put(text, "models.magika", slots=3, max_rows=16, row_buckets=[1, 8, 16])
    assert len(after.splitlines()) == len(text.splitlines()) + 2
    assert tomllib.loads(after)["models"]["magika"]["row_buckets"] == [1, 8, 16]
