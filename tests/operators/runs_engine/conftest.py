"""A pool in this process, and turns of runs on it as the runs program takes them, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from broker import runs
from broker.connection import Link
from broker.embedded import temporary_server
from broker.runs import Request, View
from broker.settings import Settings
from operators.runs.courier import Courier
from operators.runs.program_context import ProgramContext
from operators.runs.working import take_turn
from tests import models
from workers.testing import LocalPool, local_pool

WHY = "the device was away"  # of rows that `blamed` fails


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with temporary_server(tmp_path_factory.mktemp("redis-runs")) as url:
        yield url


@pytest.fixture(scope="module")
def served(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPool]:
    """`raising`: x [4] -> y [4] = 2x, whose forward fails for a batch with a row that begins with 13."""
    artifact = models.raising(tmp_path_factory.mktemp("raising"))
    with local_pool(artifact.folder, redis_url=redis_url) as pool:
        yield pool


@pytest.fixture
def link(redis_url: str) -> Iterator[Link]:
    link = Link(redis_url)
    link.connect()
    yield link
    link.close()


class Bench:
    """Runs over one input of the test's own. `told` is what RQ's tools would show."""

    def __init__(self, folder: Path, url: str, link: Link, settings: Settings) -> None:
        self.folder = folder
        self.link = link
        self.source = folder / "in.parquet"
        self.output = folder / "out.parquet"
        self.told: list[Mapping[str, Any]] = []
        self.waiting: tuple[str, ...] = ()
        self.settings = settings
        self.url = url
        self._turns = 0

    def write(self, count: int, **columns: Any) -> np.ndarray[Any, Any]:
        """The input: `id`, and x0 to x3; the rows as the model takes them."""
        x = np.arange(count * 4, dtype=np.float32).reshape(count, 4) + 100
        table = {"id": np.arange(count), **{f"x{place}": x[:, place] for place in range(4)}} | columns
        pq.write_table(pa.table(table), self.source, row_group_size=50)
        return x

    def submit(self, *, if_exists: Any = "resume", **changes: Any) -> str:
        given: dict[str, Any] = {
            "input": str(self.source), "output": str(self.output), "model": "raising", "rows_per_job": 10,
            "mapping": {"keys": ["id"], "inputs": {"x": ["x*"]}, "outputs": "raw"},
        }  # fmt: skip
        request = Request(**given | changes)
        return runs.submit(self.link, request, runs.run_id(request, str(self.folder), ""), if_exists=if_exists)[0].id

    def turn(self, run: str, *, stop: Callable[[], bool] = lambda: False, **sections: Any) -> str:
        """One turn, as a program of its own; what came of it."""
        self._turns += 1
        settings = msgspec.structs.replace(
            self.settings, **{name: msgspec.structs.replace(getattr(self.settings, name), **keys)
                               for name, keys in sections.items()}
        )  # fmt: skip
        context = ProgramContext(
            settings, self.url, f"box/runs_00.{self._turns}", is_stopping=stop, waiting=lambda: self.waiting,
            tell=self.told.append, works=lambda _: None,
        )  # fmt: skip
        return take_turn(run, context)

    def view(self, run: str) -> View:
        return runs.view(self.link, run)

    def read(self) -> pa.Table:
        return pq.read_table(self.output)

    def left(self) -> list[str]:
        """What stands beside the input and the output."""
        return sorted(one.name for one in self.folder.iterdir() if one not in (self.source, self.output))


@pytest.fixture
def bench(served: LocalPool, tmp_path: Path, link: Link, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Parts of 50 rows, ticks of 20 ms: a small run has as many turns of fate as a large one."""
    monkeypatch.setattr("operators.runs.pace.CHUNK_ROWS", 50)
    for module in ("scorer", "background", "writer"):
        monkeypatch.setattr(f"operators.runs.{module}.TICK_S", 0.02)
    return Bench(tmp_path, served.url, link, served.settings)


@pytest.fixture
def blamed(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Rows that the pool fails."""
    found = {17, 201}
    real = Courier._take

    def take(self: Any, piece: Any, result: Any) -> None:
        real(self, piece, result)
        for place in piece.rows.tolist():
            if piece.scoring.row(place) in found:
                piece.scoring.page.fail(place, WHY)

    monkeypatch.setattr(Courier, "_take", take)
    return found
