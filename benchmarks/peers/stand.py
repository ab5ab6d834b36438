"""One peer as it runs: its worker and its client, two processes in its own virtual environment, and a Redis where it needs one."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.latency import Latency, latency_of
from benchmarks.peers import venvs
from benchmarks.peers.venvs import Missing
from benchmarks.stand import ROOT
from broker.embedded import temporary_server

READY_WITHIN_S = 60.0
ANSWER_WITHIN_S = 120.0
END_WITHIN_S = 10.0


class Client(msgspec.Struct, frozen=True):
    """A way into a peer: its name in keys, its name for readers, and how many jobs make about a second of it."""

    name: str
    title: str
    flood_jobs: int
    latency_jobs: int
    in_flight_jobs: int


class Kind(msgspec.Struct, frozen=True):
    """A peer: the name of its module and environment, and its clients, the one the ratios are taken to first."""

    name: str
    clients: tuple[Client, ...]
    has_redis: bool = True


KINDS = (
    Kind(
        "mosec",
        (
            Client("mosec", "mosec 0.9.8, HTTP", flood_jobs=6_400, latency_jobs=250, in_flight_jobs=6_400),
            Client("mosec_raw", "mosec, HTTP by hand", flood_jobs=16_000, latency_jobs=250, in_flight_jobs=9_600),
        ),
        has_redis=False,
    ),
    Kind(
        "celery_batches",
        (Client("celery_batches", "celery-batches 0.11", flood_jobs=512, latency_jobs=150, in_flight_jobs=512),),
    ),
    Kind("rq", (Client("rq", "RQ 3.0 SimpleWorker", flood_jobs=384, latency_jobs=200, in_flight_jobs=384),)),
)


class Peer:
    """A running peer. Every order is measured by its client process; raises RuntimeError with its last words."""

    def __init__(self, kind: Kind, process: subprocess.Popen[str], log: Path) -> None:
        self.kind = kind
        self._process = process
        self._log = log
        self._read(READY_WITHIN_S)

    def flood(self, client: Client, jobs: int) -> float:
        """Jobs a second."""
        return jobs / float(self._order(client, what="flood", jobs=jobs)["seconds"])

    def one_in_flight(self, client: Client, jobs: int) -> Latency:
        """Milliseconds, one job after another."""
        return latency_of(self._order(client, what="one", jobs=jobs)["took_ms"])

    def in_flight(self, client: Client, jobs: int, width: int) -> tuple[float, Latency]:
        """(jobs a second, milliseconds) with `width` jobs in flight."""
        answer = self._order(client, what="many", jobs=jobs, width=width)
        return jobs / float(answer["seconds"]), latency_of(answer["took_ms"])

    def _order(self, client: Client, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"client": client.name, **order}) + "\n")
        self._process.stdin.flush()
        return self._read(ANSWER_WITHIN_S)

    def _read(self, within_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], within_s)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            said = self._log.read_text(errors="replace").strip()[-500:]
            raise RuntimeError(f"{self.kind.name} gave no answer within {within_s:g} s: {said or 'it said nothing'}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def running(kind: Kind, folder: Path, graph: Path) -> Iterator[Peer]:
    """The peer, up and warm, until the block ends. Raises venvs.Missing when it cannot be installed or does not start."""
    python = venvs.python_of(kind.name)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    with contextlib.ExitStack() as stack:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT), "PEER_MODEL": str(graph),
            "C_FORCE_ROOT": "1",  # Celery refuses pickled bodies where root runs it, as in a container
        }  # fmt: skip
        if kind.has_redis:
            environment["PEER_URL"] = stack.enter_context(temporary_server(folder))
        else:
            environment |= {
                "MOSEC_PORT": str(free_port()), "MOSEC_ADDRESS": "127.0.0.1", "MOSEC_PATH": str(folder / "sockets"),
                "MOSEC_LOG_LEVEL": "error", "MOSEC_TIMEOUT": "60000",
            }  # fmt: skip
        command = [str(python), "-m", f"benchmarks.peers.{kind.name}_peer"]
        stack.enter_context(_process([*command, "worker"], environment, log))
        client = stack.enter_context(_process([*command, "client"], environment, log, is_asked=True))
        try:
            peer = Peer(kind, client, log)
        except RuntimeError as error:
            raise Missing(f"{kind.name} is left out: {error}") from None
        yield peer


def free_port() -> int:
    """A port of the loopback nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _process(
    command: list[str], environment: dict[str, str], log: Path, *, is_asked: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own, which ends with the block and takes its children with it."""
    pipe = subprocess.PIPE if is_asked else None
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=log.parent, env=environment, stdin=pipe or subprocess.DEVNULL, stdout=pipe or output,
            stderr=output, text=True, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        for pipe_end in (process.stdin, process.stdout):
            if pipe_end is not None:
                pipe_end.close()
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_WITHIN_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left behind
        process.wait()
