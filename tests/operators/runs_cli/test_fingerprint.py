"""What producers say an input is, without pyarrow, is what the runs program finds: else a run would refuse its own input."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from broker.errors import RunError
from broker.fingerprint import absolute, exists, fingerprint
from operators.runs.data.files import Files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of a run, and what other programs left beside them."""
    for name in (
        "b.parquet",
        "a.parquet",
        "a b.csv",
        "_SUCCESS",
        ".a.parquet.crc",
        "deep/c.parquet",
        "_temporary/d.parquet",
    ):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "in"


@pytest.mark.parametrize(
    "name",
    ["", "/", "/a.parquet", "/_SUCCESS", "/*.parquet", "/*", "/**/*.parquet", "/[ab].parquet", "/a?b.csv", "/deep"],
)
def test_producer_and_program_agree_on_local_files(folder: Path, name: str) -> None:
    assert fingerprint(f"{folder}{name}") == Files(absolute(f"{folder}{name}")).fingerprint()
    assert fingerprint(f"file://{folder}{name}") == fingerprint(f"{folder}{name}")


@pytest.mark.parametrize("name", ["", "/a.parquet", "/*.parquet", "/deep"])
def test_they_agree_on_what_stands_behind_a_url(folder: Path, name: str) -> None:
    # given
    files = fsspec.filesystem("memory")
    files.put(str(folder), "/agree", recursive=True)
    # then
    url = f"memory://agree{name}"
    assert fingerprint(url) == Files(url).fingerprint()
    assert exists(url) == ("*" not in name)
    files.rm("/agree", recursive=True)


def test_it_changes_with_the_content_and_with_nothing_else(folder: Path) -> None:
    # given
    before = fingerprint(str(folder))
    # then
    (folder / "_SUCCESS").write_bytes(b"again")
    assert fingerprint(str(folder)) == before
    # when
    os.utime(folder / "a.parquet", ns=(1, 1))
    # then
    assert fingerprint(str(folder)) != before


@pytest.mark.parametrize(
    "url", ["/nowhere/at/all.parquet", "memory://nowhere/at/all.parquet", "nosuch://bucket/a.parquet"]
)
def test_what_is_not_there_is_one_line(url: str) -> None:
    with pytest.raises(RunError, match=r"nosuch|at/all\.parquet") as error:
        fingerprint(url)
    assert "\n" not in str(error.value)


def test_paths_are_made_absolute_and_urls_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    assert absolute("a/../b.csv") == f"{tmp_path}/b.csv"
    assert absolute("out/") == f"{tmp_path}/out/"
    assert absolute("~/b.csv") == "/home/ada/b.csv"
    assert absolute("s3://b/a/../c.csv") == "s3://b/a/../c.csv"


@pytest.mark.parametrize("url", ["{folder}/in", "{folder}/in/*.csv", "{folder}/in/**/*.csv", "{folder}/i*/*.csv"])
def test_links_among_the_files_are_the_same_to_those_who_submit_and_to_the_program(tmp_path: Path, url: str) -> None:
    # given: a link to a file, and one to a folder
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "apart").mkdir()
    for name in ("in/a.csv", "in/deep/b.csv", "apart/c.csv"):
        (tmp_path / name).write_text("x\n1\n")
    (tmp_path / "in" / "linked.csv").symlink_to(tmp_path / "apart" / "c.csv")
    (tmp_path / "in" / "door").symlink_to(tmp_path / "apart")
    # then
    files = Files(url.format(folder=tmp_path))
    assert files.fingerprint() == fingerprint(url.format(folder=tmp_path))
    assert "linked.csv" in [entry.name.rpartition("/")[2] for entry in files.entries]
