"""Every case of the chaos suite at its smallest size: one fault each. `make chaos` plays the sizes that prove something."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from tests.chaos.cases import CASES
from tests.chaos.run import Told

AT_ONCE = 3  # a case mostly waits for processes; they share nothing
ROOT = Path(__file__).resolve().parent.parent.parent
WITHIN_S = 100
ENDS_WITHIN_S = 15


def _play(name: str, report: Path) -> str:
    command = [sys.executable, "-m", "tests.chaos", "--small", "--case", name, "--report", str(report)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            return process.communicate(timeout=WITHIN_S)[0]
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # it takes its pool down; killed, it would leave that behind
            try:
                return process.communicate(timeout=ENDS_WITHIN_S)[0]
            finally:
                process.kill()


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, Future[str]]]]:
    """Case name -> its report and its output, under way in processes of their own."""
    folder = tmp_path_factory.mktemp("chaos")
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield {
            case.name: (folder / f"{number}.json", pool.submit(_play, case.name, folder / f"{number}.json"))
            for number, case in enumerate(CASES)
        }
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_the_promise_is_kept(name: str, played: dict[str, tuple[Path, Future[str]]]) -> None:
    report, output = played[name]
    said = output.result(WITHIN_S + ENDS_WITHIN_S)
    assert report.exists(), said
    (told,) = msgspec.json.decode(report.read_bytes(), type=list[Told])
    if told.verdict == "skipped":
        pytest.skip(str(told.notes["skipped"]))
    assert told.verdict in ("kept", "lossy"), said
    assert told.twice == 0
    assert told.tried > 0
    assert told.faults > 0
