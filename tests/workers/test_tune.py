"""The measuring program of `penstock tune`: what it makes of data, when it has measured enough, what engines tell it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from broker.errors import InvalidInput
from tests import models
from workers.artifact import Artifact, open_artifact
from workers.tune import data
from workers.tune.enough import MOST_RUNS, is_enough, p99
from workers.tune.samples import Samples
from workers.tune.stand import Stand
from workers.tune.words import Share

LIMIT = 4 << 20


def samples(artifact: Artifact, path: Path | str, *, limit: int = LIMIT) -> Samples:
    return Samples(artifact, str(path), payload_limit_bytes=limit)


def lengths(folder: Path, *sizes: int) -> Path:
    """A file for each length, one row each, of the model `seq_mean`."""
    folder.mkdir()
    for number, size in enumerate(sizes):
        np.savez(folder / f"{number}.npz", x=np.ones((1, size, 3), np.float32), mask=np.ones((1, size), np.float32))
    return folder


def test_rows_fall_into_the_buckets_that_slots_would_pad_them_to(tmp_path: Path) -> None:
    artifact = models.seq_mean(tmp_path / "model")
    found = samples(artifact, lengths(tmp_path / "data", 3, 3, 8, 9, 16, 99))
    assert found.shares() == [Share((8,), 3), Share((16,), 2)]
    assert found.sizes == {"seq": {3: 2, 8: 1, 9: 1, 16: 1}}
    assert found.skipped == ["1 left out: dimension 'seq' is 99, the largest bucket is 32"]
    batch = found.batch(5, (16,))
    assert (batch.rows, batch.bucket, batch.dims) == (5, 5, (16,))
    assert {piece.job.signature.columns[0].shape[0] for piece in batch.pieces} <= {9, 16}


def test_items_that_preprocess_refuses_are_left_out_and_told(tmp_path: Path) -> None:
    artifact = models.text_length(tmp_path / "model")
    lines = tmp_path / "lines.txt"
    lines.write_text("one\n\ntwo words\nthree\n")
    assert samples(artifact, lines).rows == 3
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "empty").write_text("")
    (folder / "full").write_text("text")
    (folder / "long").write_text("x" * 200)
    found = samples(artifact, folder, limit=100)
    assert found.rows == 1
    assert found.skipped == [
        "1 left out: over queue.payload_limit_bytes, 100",
        "1 left out: preprocess says ValueError: empty text",
    ]


def test_data_that_cannot_be_used_is_one_line_with_the_mend(tmp_path: Path) -> None:
    mlp, text = models.mlp(tmp_path / "mlp").spec, models.text_length(tmp_path / "text").spec
    empty = tmp_path / "empty"
    empty.mkdir()
    for spec in (mlp, text):
        with pytest.raises(InvalidInput, match=r"no such file or folder; name"):
            data.read(tmp_path / "nowhere", spec)
        with pytest.raises(InvalidInput, match=r"holds (no \.npy or \.npz; save|nothing to read; name)"):
            data.read(empty, spec)
    files = {
        "names.npz": (r"holds y, the inputs are x; save it with numpy.savez\(FILE, x=...\)", {"y": np.zeros((2, 64))}),
        "kind.npz": (r"is float64 \(2, 64\), wanted float32 \(rows, 64\)", {"x": np.zeros((2, 64))}),
        "none.npz": (r"its arrays hold no row", {"x": np.zeros((0, 64), np.float32)}),
    }
    for name, (said, arrays) in files.items():
        np.savez(tmp_path / name, **arrays)  # type: ignore[arg-type]  # numpy takes arrays by any name
        with pytest.raises(InvalidInput, match=said):
            data.read(tmp_path / name, mlp)
    for name in ("garbage.npy", "garbage.npz"):
        (tmp_path / name).write_bytes(b"no array")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "objects.npy", np.array([{}, {}], object), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", x=np.array([{}], object))
    for name in ("garbage.npy", "garbage.npz", "empty.npy", "objects.npy", "objects.npz"):
        with pytest.raises(InvalidInput, match=rf"{name}: is no .npy or .npz, or holds Python objects; save it"):
            data.read(tmp_path / name, mlp)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match=r"cannot be read: .*; correct or remove it"):
        data.read(tmp_path / "binary", text)


def test_measuring_stops_when_the_median_is_known_or_the_time_is_over() -> None:
    steady, wild = [10.0, 10.1] * 15, [1.0, 30.0] * 15
    assert is_enough(steady, elapsed_s=0.1, budget_s=9)
    assert not is_enough(wild, elapsed_s=0.1, budget_s=9)
    assert is_enough(wild, elapsed_s=9.1, budget_s=9)
    assert not is_enough(steady[:2], elapsed_s=9.1, budget_s=9)
    assert is_enough(wild * MOST_RUNS, elapsed_s=0.1, budget_s=9)
    assert (is_enough([], elapsed_s=0, budget_s=0), is_enough([1.0], elapsed_s=0, budget_s=0)) == (False, True)
    assert (p99([3.0, 1.0, 2.0]), p99([*map(float, range(200))])) == (3.0, 197.0)


def test_engines_tell_time_and_memory_by_size_and_a_model_that_raises_is_a_problem(tmp_path: Path) -> None:
    # given: a model that gives up above four rows
    source = models.TEXT.replace("    return [{", "    if rows > 4: raise ValueError('too many for me')\n    return [{")
    artifact = open_artifact(models.text_length(tmp_path / "model", source=source).folder)
    rows = tmp_path / "rows.txt"
    rows.write_text("a\nbb\nccc\n")
    stand = Stand(
        artifact, samples(artifact, rows), device="cpu", threads=1, payload_limit_bytes=LIMIT, load_timeout_s=30, silent_s=10
    )  # fmt: skip
    try:
        stand.warm((1,), max_rows=64)
        # when
        few, many = stand.time(4, (), budget_s=0.05), stand.time(8, (), budget_s=0.05)
        raced = stand.race(1, (1, 4), seconds=0.05)
        # then
        assert few.problem == raced.problem == ""
        assert few.ms >= few.forward_ms > 0
        assert few.host_bytes > 1e6
        assert "too many for me" in many.problem
        assert raced.rows_per_s > 0
        # and: an engine that died is started again
        stand._engines[0].kill()
        assert "signal 9" in stand.time(1, (), budget_s=0.0).problem
        assert stand.time(1, (), budget_s=0.0).ms > 0
    finally:
        stand.close()
