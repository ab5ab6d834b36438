"""`[runs] roots`: what lies within them, and everything that only looks so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.errors import ConfigError, RunError
from broker.roots import check_within
from broker.settings import parse


def is_within(roots: tuple[str, ...], url: str) -> bool:
    try:
        check_within(roots, url, "input")
    except RunError:
        return False
    return True


def test_without_roots_every_place_is_allowed() -> None:
    assert all(is_within((), url) for url in ("/etc/passwd", "s3://b/x", "a::b://c", "/a/../b"))


def test_what_lies_within_one_of_the_roots_is_allowed(tmp_path: Path) -> None:
    roots = ("/nowhere", f"{tmp_path}/", "s3://bucket/data", "gs://all/")
    for url in (
        f"{tmp_path}", f"{tmp_path}/", f"{tmp_path}/a.csv", f"{tmp_path}/new/deep/*.csv", f"{tmp_path}/a/../b.csv", f"{tmp_path}/..x",
        "s3://bucket/data", "s3://bucket/data/", "s3://bucket/data/day=1/*.parquet", "gs://all/x", "s3://bucket/data/a b..c",
    ):  # fmt: skip
        assert is_within(roots, url), url


def test_what_lies_outside_is_refused_however_it_is_written(tmp_path: Path) -> None:
    # given
    inside, outside = tmp_path / "data", tmp_path / "data-evil"
    inside.mkdir()
    outside.mkdir()
    (inside / "out").symlink_to(outside)
    (inside / "loop").symlink_to(inside / "loop")
    (inside / "gone").symlink_to(outside / "later" / "x.parquet")
    roots = (str(inside), "s3://bucket/data", "https://host")
    # then
    for url in (
        "/etc/passwd", f"{outside}", f"{outside}/a.csv", f"{inside}/../data-evil/a.csv", f"{inside}/out/a.csv", f"{inside}/out",
        f"{inside}/out/../x", f"{inside}/*/../../data-evil/x", f"{inside}/gone", "relative.csv", f"{inside}/a::/etc/passwd",
        f"{inside}::file:///etc/passwd",
        "s3://bucket/data-evil", "s3://bucket/database/x", "s3://bucket", "s3://bucket-evil/data/x", "s3:///bucket/data/x",
        "s3a://bucket/data/x", "S3://bucket/data/x", "s3://bucket/data/../other", "s3://bucket/data/%2e%2e/other",
        "s3://bucket/data/%2E%2E%2Fother", "s3://bucket/data/./x", "s3://bucket/data\\..\\x", "s3://bucket/data/..",
        "simplecache::s3://bucket/data/x", "s3://bucket/data/x::file:///etc/passwd", "zip://a.csv::s3://bucket/data/x.zip",
        "https://host@evil/x", "https://host.evil/x", "https://host:80/x", "file:///etc/passwd", f"local://{outside}/x",
    ):  # fmt: skip
        assert not is_within(roots, url), url


def test_a_root_that_is_a_link_is_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to("disk")
    assert is_within((f"{tmp_path}/data",), f"{tmp_path}/disk/a.csv")
    assert is_within((f"{tmp_path}/disk",), f"{tmp_path}/data/a.csv")
    assert is_within(("/",), "/etc/passwd")


def test_the_refusal_names_the_path_and_the_roots_in_one_line() -> None:
    with pytest.raises(RunError) as caught:
        check_within(("/data", "s3://bucket"), "/etc/passwd", "input")
    assert str(caught.value) == (
        "input /etc/passwd lies outside the roots of runs on this host, /data, s3://bucket; name a place within them, or have "
        "[runs] roots extended in pool.toml"
    )


def test_relative_roots_start_where_pool_toml_does(tmp_path: Path) -> None:
    settings = parse(
        '[runs]\nroots = ["data", "/abs/", "s3://b/x"]', str(tmp_path / "configs" / "pool.toml"), environ={}
    )
    assert settings.run_roots == (os.path.join(tmp_path, "data"), "/abs", "s3://b/x")
    assert parse("", "", environ={}).run_roots == ()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ('"/data"', 'roots = "/data" must be a list of texts in quotes'),
        ("[1]", "roots = [1] must be a list of texts in quotes"),
        ('["/data", ""]', "root 2 of roots must be a folder's path or a URL"),
        ('["file:///data"]', "root 1 of roots must be a folder's path or a URL"),
        ('["/data/*"]', "root 1 of roots must be one place"),
        ('["simplecache::s3://b"]', "root 1 of roots must be one place"),
        ('["s3://b/../c"]', "root 1 of roots must hold no"),
        ('["sftp://me:secret@host/x"]', "root 1 of roots must hold no password"),
    ],
)
def test_a_root_that_cannot_be_is_one_line(value: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"[runs]\nroots = {value}", "pool.toml", environ={})
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)
