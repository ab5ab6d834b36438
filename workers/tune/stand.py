"""Engines as slots have them, and the time and memory that batches of real data take in them. No Redis, no slot.

Engines end with this process: by the parent-death signal, and by the end of their socket.
"""

from __future__ import annotations

import select
import time
from statistics import median

import msgspec

from broker.errors import ArtifactError, DeviceError
from workers.artifact import Artifact
from workers.columns import RAW_FLOOR_BYTES, slab_bytes
from workers.engine_client import SLABS, EngineDied, EngineProcess, make_slabs
from workers.exchange import Measure, Measured, Ran, Ready, Run
from workers.failures import POLICIES, Kind
from workers.stow import Stower
from workers.tune.enough import LEAST_RUNS, is_enough, p99
from workers.tune.samples import Samples
from workers.tune.words import Cell, Dims, Raced

OUT_OF_MEMORY = {POLICIES[kind].reason for kind in (Kind.OUT_OF_MEMORY, Kind.DEVICE_FULL)}


class Stand:
    """One model and its data. `time` uses one engine, `race` several."""

    def __init__(
        self,
        artifact: Artifact,
        samples: Samples,
        *,
        device: str,
        threads: int,
        memory_fraction: float = 0.0,
        payload_limit_bytes: int,
        load_timeout_s: float,
        silent_s: float,
    ) -> None:
        """Starts nothing yet."""
        self.device = device
        self.load_s = 0.0
        self._artifact = artifact
        self._samples = samples
        self._threads = threads
        self._memory_fraction = memory_fraction
        self._raw_bytes = max(RAW_FLOOR_BYTES, payload_limit_bytes)
        self._load_timeout_s = load_timeout_s
        self._silent_s = silent_s
        self._stower = Stower(artifact.spec)
        self._engines: list[EngineProcess] = []
        self._warm_for: tuple[tuple[int, ...], int] = ((1,), artifact.row_buckets()[-1])
        self._seq = 0

    def warm(self, row_buckets: tuple[int, ...], *, max_rows: int = 0, engines: int = 1) -> None:
        """So many engines, each warmed for these buckets; those there are for others end. Raises ArtifactError, DeviceError.

        `max_rows` are the most that will be asked of them, where that is more than the last bucket.
        """
        warm_for = (row_buckets, max_rows or row_buckets[-1])
        if warm_for != self._warm_for:
            self.close()
            self._warm_for = warm_for
        began = time.monotonic()
        fresh = [self._start() for _ in range(engines - len(self._engines))]
        self._engines += fresh
        for engine in fresh:
            self.device = self._await_ready(engine).device
        self.load_s = time.monotonic() - began

    def time(self, rows: int, dims: Dims, *, budget_s: float) -> Cell:
        """One cell of T. What the model or the device says to that size stands in `problem`."""
        if not self._engines:  # the last size was too much for it
            row_buckets, max_rows = self._warm_for
            self.warm(row_buckets, max_rows=max_rows)
        engine = self._engines[0]
        cell = Cell(rows, dims)
        taken: list[float] = []
        forward: list[float] = []
        is_first = True
        began = time.monotonic()
        try:
            while not is_enough(taken, elapsed_s=time.monotonic() - began, budget_s=budget_s):
                run = self._stow(engine, rows, dims)
                if isinstance(run, str):
                    return msgspec.structs.replace(cell, problem=run)
                ms, ran = self._run(engine, run)
                if ran.error:
                    return msgspec.structs.replace(cell, problem=_problem(ran))
                if is_first and budget_s > 0:  # it also pays for what is done once
                    is_first = False
                    continue
                taken.append(ms)
                forward.append(ran.forward_ms)
            usage = self._measure(engine)
        except (EngineDied, TimeoutError) as error:
            self.close()
            return msgspec.structs.replace(cell, problem=str(error))
        return Cell(
            rows, dims, median(taken), p99(taken), median(forward), len(taken),
            self._host_bytes(usage, rows), usage.device_bytes,
        )  # fmt: skip

    def race(self, engines: int, row_buckets: tuple[int, ...], *, seconds: float) -> Raced:
        """All engines at once, each given its next batch as soon as it has answered."""
        rows = row_buckets[-1]
        raced = Raced(engines, rows)
        try:
            self.warm(row_buckets, engines=engines)
            taken = self._keep_busy(rows, seconds)
            usages = [self._measure(engine) for engine in self._engines]
        except (EngineDied, TimeoutError, ArtifactError, DeviceError) as error:
            self.close()
            return msgspec.structs.replace(raced, problem=str(error))
        if isinstance(taken, str):
            self.close()  # answers may still be under way
            return msgspec.structs.replace(raced, problem=taken)
        device = [usage.device_bytes for usage in usages]
        every = [ms for one in taken for ms in one]
        return Raced(
            engines, rows, sum(len(one) * rows / sum(one) * 1e3 for one in taken), median(every), p99(every),
            sum(self._host_bytes(usage, rows) for usage in usages),
            None if None in device else sum(one or 0 for one in device),
        )  # fmt: skip

    def close(self) -> None:
        """Ends all engines."""
        for engine in self._engines:
            engine.kill()
            engine.close()
        self._engines = []

    # --- one engine -----------------------------------------------------------------------------

    def _start(self) -> EngineProcess:
        row_buckets, max_rows = self._warm_for
        slabs = make_slabs(self._artifact, max_rows=max_rows, raw_bytes=self._raw_bytes)
        engine = EngineProcess(
            self._artifact, slabs=slabs, device=self.device, threads=self._threads, row_buckets=row_buckets,
            memory_fraction=self._memory_fraction,
        )  # fmt: skip
        engine.start()
        return engine

    def _await_ready(self, engine: EngineProcess) -> Ready:
        _wait(engine, self._load_timeout_s, "the model did not load")
        try:
            ready = engine.poll_ready()
        except EngineDied as error:
            raise ArtifactError(
                f"{self._artifact.folder}: {error} while the model loaded; see its output above"
            ) from None
        assert ready is not None  # its socket was readable
        return ready

    def _run(self, engine: EngineProcess, run: Run) -> tuple[float, Ran]:
        began = time.perf_counter()
        engine.send(run)
        _wait(engine, self._silent_s, f"the engine did not answer {run.rows} rows")
        ran = engine.collect()
        assert isinstance(ran, Ran)
        return (time.perf_counter() - began) * 1e3, ran

    def _measure(self, engine: EngineProcess) -> Measured:
        engine.send(Measure())
        _wait(engine, self._silent_s, "the engine did not tell its memory")
        measured = engine.collect()
        assert isinstance(measured, Measured)
        return measured

    def _stow(self, engine: EngineProcess, rows: int, dims: Dims) -> Run | str:
        """A batch in the next slab; or why no slot would ever pack it."""
        batch = self._samples.batch(rows, dims)
        size = sum(piece.job.size for piece in batch.pieces)
        if rows > 1 and size > self._raw_bytes:
            return f"these rows are {size / 1e6:.1f} MB, a batch takes {self._raw_bytes / 1e6:.1f} MB (payload_limit_bytes)"
        self._seq += 1
        index = self._seq % SLABS
        return self._stower.stow(batch, engine.slabs[index], seq=self._seq, index=index)

    def _host_bytes(self, usage: Measured, rows: int) -> int:
        """With what its slabs would take if `rows` were the most."""
        return usage.host_bytes + SLABS * sum(slab_bytes(self._artifact.spec, rows, raw_bytes=self._raw_bytes))

    # --- several --------------------------------------------------------------------------------

    def _keep_busy(self, rows: int, seconds: float) -> list[list[float]] | str:
        """How long each engine took from one answer to the next, in ms; or why a batch failed."""
        by_fd = {engine.fileno(): engine for engine in self._engines}
        poller = select.poll()
        for fd, engine in by_fd.items():
            poller.register(fd, select.POLLIN)
            run = self._stow(engine, rows, self._samples.any_dims())
            if isinstance(run, str):
                return run
            engine.send(run)
        taken: dict[int, list[float]] = {fd: [] for fd in by_fd}
        last: dict[int, float] = {}  # the first answers start the clocks: by then all engines are at work
        over = time.perf_counter() + seconds
        running = set(by_fd)
        while running:
            ready = poller.poll(self._silent_s * 1e3)
            if not ready:
                raise TimeoutError(f"an engine was silent for {self._silent_s:g} s")
            for fd, _ in ready:
                ran = by_fd[fd].collect()
                assert isinstance(ran, Ran)
                if ran.error:
                    return _problem(ran)
                now = time.perf_counter()
                if fd in last:
                    taken[fd].append((now - last[fd]) * 1e3)
                last[fd] = now
                if now >= over and len(taken[fd]) >= LEAST_RUNS:
                    running.discard(fd)
                    continue
                run = self._stow(by_fd[fd], rows, self._samples.any_dims())
                if isinstance(run, str):
                    return run
                by_fd[fd].send(run)
        return list(taken.values())


def _wait(engine: EngineProcess, seconds: float, text: str) -> None:
    """Until the engine says something. Raises TimeoutError."""
    poller = select.poll()
    poller.register(engine.fileno(), select.POLLIN)
    if not poller.poll(seconds * 1e3):
        raise TimeoutError(f"{text} within {seconds:g} s")


def _problem(ran: Ran) -> str:
    return "out of memory" if ran.reason in OUT_OF_MEMORY else " ".join(ran.error.split())[:300]
