"""One turn of one run: works it until its end, or until others are to go on.

What ends a turn: all rows are written; a user asked; the program ends; its slice is over; it failed; another has the lease.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import structlog

from broker import run_lease, spec
from broker.connection import LOST, Link
from broker.errors import RedisRefused, RedisUnavailable, RunError
from broker.runs import View
from operators.runs.admit import admit
from operators.runs.ahead import Ahead, all_rows
from operators.runs.background import in_background, tidied
from operators.runs.courier import Courier, VersionChanged
from operators.runs.data.manifest import PartNote
from operators.runs.data.sink import Sink
from operators.runs.data.source import Source
from operators.runs.lease import Lease
from operators.runs.opening import Input, finished_parts, open_input, open_output, sink_of
from operators.runs.pace import Plan, Throttle, Window
from operators.runs.pieces import Pieces
from operators.runs.probe import look, make_plan
from operators.runs.program_context import ProgramContext
from operators.runs.retrying import failed_rows
from operators.runs.scorer import Count, Scorer
from operators.runs.watch import Stopped, Watch
from operators.runs.writer import Writer
from producer.client import Producer

PATIENCE_S = 5.0  # of a producer with Redis; the lease is renewed in between
AWAY_S, PAUSE_S = 20.0, 0.2  # how long a turn waits for Redis where it cannot go on without
T = TypeVar("T")

log = structlog.get_logger()


class Stop(Exception):
    """Raised within a turn that is to end now."""

    def __init__(self, stopped: Stopped) -> None:
        self.stopped = stopped


class Turn:
    """The parts of one turn, made one after the other: what cannot be known is told at the earliest moment it can."""

    def __init__(self, view: View, lease: Lease, link: Link, context: ProgramContext) -> None:
        self.view = view
        self.count = Count()
        self._lease = lease
        self._link = link
        self._context = context
        self._scored, self._scored_s = 0, 0.0
        self._watch = Watch(link, context, model=view.request.model, priority=view.request.priority)

    def work(self) -> str:
        """The state the run ends in. Raises Stop, LeaseLost, VersionChanged, and what is wrong with the run."""
        request, run, roots = self.view.request, self.view.id, self._context.settings.run_roots
        self._in_background(lambda: admit(self.view, roots), "looks where it leads")
        if self.view.state == "cancelled":
            self._in_background(lambda: sink_of(self.view, replace=True).discard(), "throws its parts away")
            return "cancelled"
        kept = self._ask(lambda: run_lease.kept(self._link, run))
        self.count = Count(self.view.rows_total, rows=self.view.rows_done, failed=self.view.rows_failed)
        if kept.is_assembled and not self.view.is_retry:
            return self._end()  # by one that died before it could say so
        published = self._ask(lambda: spec.fetch(self._link, request.model))
        self._pin(published.spec.version)
        opened = self._in_background(lambda: open_input(self.view, published, roots), "opens its input")
        source = opened.source
        self._require_same(source)
        self._in_background(lambda: source.check_apart(request.output), "opens its output")
        sink = self._in_background(lambda: open_output(self.view, kept), "opens its output")
        self._note({"is_fresh": "", "is_assembled": ""})
        try:
            if not sink.is_assembled or self.view.is_retry:
                self._fill(sink, kept, published, opened)
            keep, rows = self.count.failed > 0, source.rows or self.count.rows
            self._in_background(lambda: sink.assemble(rows=rows, keep=keep), "puts its output together", is_final=True)
        finally:
            tidied(sink.close)
        self._note({"is_assembled": "1", "rows_done": self.count.rows, "rows_failed": self.count.failed})
        if not keep:
            self._in_background(sink.discard, "tidies up", is_final=True)
        return self._end()

    def _fill(self, sink: Sink, kept: run_lease.Kept, published: spec.Published, opened: Input) -> None:
        """Writes the parts that are not there yet."""
        with Producer(self._context.url, submit_timeout_s=PATIENCE_S) as producer:
            plan = self._plan(kept.plan, opened, published, producer)
            notes = self._in_background(lambda: finished_parts(sink, plan), "looks at its parts")
            self.count = Count(
                opened.source.rows, len(notes), sum(one.rows for one in notes), sum(one.failed for one in notes)
            )
            self._score(producer, plan, kept.round, published, opened, sink, notes)

    def _end(self) -> str:
        return "done_with_errors" if self.count.failed else "done"

    def leave(self, state: str, *, error: str) -> str:
        """Gives the run up; the state it is in then."""
        fields: dict[str, str | int | float] = {
            "error": error, "rows_done": self.count.rows, "rows_failed": self.count.failed,
            "round": secrets.token_hex(4),  # what was under way was cancelled: its jobs are not to be found again
        }  # fmt: skip
        if state in ("done", "done_with_errors"):
            fields["rows_total"] = self.count.rows
        if self._scored_s > 0:
            fields["rows_per_s"] = round(self._scored / self._scored_s, 1)  # of the whole turn
        left = self._ask(lambda: self._lease.leave(state, fields))
        done = {"rows_done": self.count.rows, "rows_failed": self.count.failed, "doing": "", "eta_s": 0.0}
        self._context.tell({"state": left, **done})
        log.info(
            "run left",
            run=self.view.id,
            state=left,
            rows_done=self.count.rows,
            rows_failed=self.count.failed,
            error=error,
        )
        return left

    # --- before the first row ---------------------------------------------------------------

    def _pin(self, version: str) -> None:
        if not self.view.version:
            self.view = msgspec.structs.replace(self.view, version=version)
            self._note({"version": version})
        if self.view.version != version:
            raise VersionChanged(
                f"model {self.view.request.model!r} is now version {version}, and this run is on {self.view.version}; serve that "
                f"version again and `penstock run resume {self.view.id}`, or submit it with --if-exists overwrite"
            )

    def _require_same(self, source: Source) -> None:
        if not self.view.fingerprint:
            self._note({"fingerprint": source.fingerprint})
        elif self.view.fingerprint != source.fingerprint:
            raise RunError(
                f"input {self.view.request.input} is not what it was when the run was submitted; submit it again, as a run of "
                "what it is now"
            )

    def _plan(self, kept: str, opened: Input, published: spec.Published, producer: Producer) -> Plan:
        if kept and not self.view.is_fresh:
            return msgspec.json.decode(kept, type=Plan)
        group = self._in_background(
            lambda: look(opened.source, opened.binding, published.spec.max_rows), "reads its first rows"
        )
        plan = make_plan(
            opened.source, published, producer, job_rows=self.view.request.rows_per_job, rate=self.view.request.rate, group=group,
            tick=self._ticker("measures the model"),
        )  # fmt: skip
        self._note({"plan": msgspec.json.encode(plan).decode()})
        return plan

    # --- the rows ---------------------------------------------------------------------------

    def _score(
        self, producer: Producer, plan: Plan, round: str, published: spec.Published, opened: Input, sink: Sink,
        notes: list[PartNote],
    ) -> None:  # fmt: skip
        source, binding, page_layout = opened
        request, settings = self.view.request, self._context.settings.runs

        def chunks(first: int) -> Any:
            return source.chunks(plan.chunk_rows, first=first, columns=binding.columns)

        if self.view.is_retry:
            self._note({}, forgets_errors=True)
            failed = [note.index for note in notes if note.failed]
            feed = Ahead(lambda: failed_rows(chunks, sink, failed, binding, page_layout))
        else:
            feed = Ahead(lambda: all_rows(chunks(len(notes)), binding, page_layout))
        pieces = Pieces(job_rows=plan.job_rows)
        courier = Courier(
            producer, request.model, run=self.view.id, round=round, version=self.view.version, pieces=pieces,
            window=Window(published.limits, plan, window_bytes=settings.window_bytes), throttle=Throttle(request.rate),
        )  # fmt: skip
        writer = Writer(sink, self._lease, self.view.version)
        limit = settings.error_limit if request.error_limit < 0 else request.error_limit
        feed.start()
        writer.start()
        scorer = Scorer(
            feed=feed, courier=courier, pieces=pieces, writer=writer, lease=self._lease, count=self.count,
            error_limit=self.count.failed + limit if self.view.is_retry else limit, watch=self._watch, tell=self._context.tell,
            is_retry=self.view.is_retry,
        )  # fmt: skip
        began = time.monotonic()
        try:
            stopped = scorer.run()
        finally:
            self._scored, self._scored_s = courier.answered, time.monotonic() - began
        if stopped is not None:
            raise Stop(stopped)

    # --- meanwhile --------------------------------------------------------------------------

    def _note(self, fields: dict[str, str | int | float], *, forgets_errors: bool = False) -> None:
        """What must be known before it goes on."""

        def note() -> None:
            if self._lease.note(fields, forgets_errors=forgets_errors) is None:
                raise RedisUnavailable("Redis went away")

        self._ask(note)

    def _ask(self, question: Callable[[], T]) -> T:
        """An answer of Redis, which may be away for a while. Raises RedisUnavailable when it stays away."""
        give_up_at = time.monotonic() + AWAY_S
        while True:
            try:
                if self._link.fileno() < 0:
                    self._link.connect()
                return question()
            except RedisRefused:
                raise
            except (*LOST, RedisUnavailable) as error:
                self._link.close()
                if time.monotonic() >= give_up_at:
                    raise RedisUnavailable(f"Redis does not answer: {error}") from None
                time.sleep(PAUSE_S)

    def _in_background(self, work: Callable[[], Any], doing: str, *, is_final: bool = False) -> Any:
        return in_background(work, self._ticker(doing, is_final=is_final))

    def _ticker(self, doing: str, *, is_final: bool = False) -> Callable[[], None]:
        """Renews the lease and says what is done, each second; ends the turn when asked to. What `is_final` is not left in its middle."""

        def tick() -> None:
            asked = self._lease.note({"doing": doing})
            self._context.tell({"doing": doing})
            if is_final:
                return
            if asked in ("pause", "cancel"):
                raise Stop(Stopped("queued", asked))
            stopped = self._watch.stopped()
            if stopped is not None:
                raise Stop(stopped)

        return tick
