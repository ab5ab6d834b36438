"""The search for one job: by its id, then through the lanes and the dead letters, within a time.

A job that is nowhere under its id may still be named by its replay, so both are searched for. Decides nothing, changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from broker import keys, paused, roster
from broker.connection import Link
from broker.dead import REPLAY_OF, Letter
from broker.dead import read_job as read_dead
from broker.errors import DecodeError, InvalidInput
from broker.intake import split_public_id
from broker.messages import LANES, Job, Kind, Outcome
from broker.traces import Entry, Held, Marks, Traces, read_job
from operators.jobs.life import Life, Step, Timings

SEARCH_S = 10.0


def show(
    link: Link, public_id: str, *, search_s: float = SEARCH_S, clock: Callable[[], float] = time.monotonic
) -> Life:
    """Looks for a job everywhere. Raises InvalidInput for what is no id."""
    model, job_id = split_public_id(public_id)
    return Trail(link, Traces(link, model), job_id, clock() + search_s, clock).life()


class Trail:
    """One look for one job."""

    def __init__(self, link: Link, traces: Traces, job_id: str, until: float, clock: Callable[[], float]) -> None:
        self._link, self._traces, self._job = link, traces, job_id
        self._id = f"{traces.model}:{job_id}"
        self._until, self._clock = until, clock
        self._is_cut = False  # the time was over before all was searched
        self._replays: list[Step] = []

    def life(self) -> Life:
        marks = self._traces.marks(self._job)
        found = self._marked(marks)
        if found is None:
            found = self._searched(marks)
        if found is None and not self._is_cut:  # it may have ended, or come back from a retry, behind the search
            marks = self._traces.marks(self._job)
            found = self._marked(marks)
        return msgspec.structs.replace(found or self._unknown(marks), replays=tuple(self._replays))

    def _marked(self, marks: Marks) -> Life | None:
        if marks.has_outcome:
            return self._ended(marks)
        if marks.delayed is not None:
            return self._delayed(marks, marks.delayed)
        if marks.moved is not None:
            lane, entry = marks.moved
            (found,) = self._traces.entries(lane, [entry])
            return self._in_lane(marks.now_ms, lane, found, None) if found else None
        return None

    # --- the states -------------------------------------------------------------------------

    def _ended(self, marks: Marks) -> Life:
        outcome = marks.outcome
        if outcome is None:
            return Life(
                self._id,
                marks.now_ms,
                "ended",
                "this user may not read results, so not how",
                expires_ms=marks.expires_ms,
                is_stored=True,
            )
        state, (reason, error) = outcome.status.name.lower(), _words(outcome)
        life = Life(
            self._id, marks.now_ms, state, rows=outcome.rows or None, attempt=outcome.attempt, version=outcome.version or None,
            timings=_timings(outcome), is_stored=True, expires_ms=marks.expires_ms, reason=reason or None, error=error or None,
        )  # fmt: skip
        if state == "dead" and (letter := self._letter()) is not None:
            return self._dead(life, *letter)
        if state == "dead":
            self._searched(marks)  # for its replay
            return msgspec.structs.replace(
                life, note="its dead letter was replayed, dropped or pushed out by newer ones"
            )
        return life

    def _dead(self, life: Life, letter: Letter, body: bytes) -> Life:
        life = msgspec.structs.replace(
            life, state="dead", lane=letter.lane, reason=letter.reason, error=letter.error, died_ms=letter.died_ms, attempt=letter.attempts,
            crash_marks=max(0, letter.deliveries - 1), submitted_ms=letter.submitted_ms, size=letter.size,
            note=f"`penstock dead show {letter.id}` says more, `penstock dead replay {letter.id}` runs it again",
        )  # fmt: skip
        try:
            return self._described(life, read_dead(letter, body))
        except DecodeError as error:
            return msgspec.structs.replace(life, note=f"its bytes are garbled: {error}")

    def _delayed(self, marks: Marks, job: Job) -> Life:
        is_retry = job.attempt > 1
        life = Life(
            self._id, marks.now_ms, "delayed", lane=LANES[job.lane], due_ms=marks.due_ms, is_retry=is_retry, attempt=job.attempt,
            note=f"attempt {job.attempt - 1} failed; its error is in the slot's log: `penstock logs slot`" if is_retry else "",
        )  # fmt: skip
        return self._described(life, job)

    def _in_lane(self, now_ms: int, lane: str, found: Entry, ahead: int | None) -> Life:
        entry, fields = found
        (held,) = self._traces.held(lane, [entry])
        life = Life(self._id, now_ms, "waiting", lane=lane, ahead=ahead)
        if held is not None:
            life = msgspec.structs.replace(life, crash_marks=held.deliveries - 1)
            life = self._claimed(life, held) if held.consumer != keys.RETURNED else msgspec.structs.replace(
                life, note="a slot gave it back; the next claim takes it first"
            )  # fmt: skip
        if life.state == "waiting" and (pause := paused.pauses(self._link, self._traces.model).get(lane)) is not None:
            note = f"its lane is paused by {pause.by}: `penstock resume {self._traces.model} --lane {lane}`"
            life = msgspec.structs.replace(life, note=note)
        try:
            return self._described(life, read_job(entry, fields, lane, held))
        except DecodeError as error:
            return msgspec.structs.replace(life, note=f"its bytes are garbled: {error}")

    def _claimed(self, life: Life, held: Held) -> Life:
        slot = held.consumer.rpartition(".")[0] or held.consumer
        state = roster.states(self._link, [slot])[slot]
        is_same = held.consumer.endswith(f".{state.get('incarnation', '')}")
        note = "" if state and is_same else "that slot has ended; its jobs are given back within a lease"
        return msgspec.structs.replace(
            life, state="claimed", slot=slot, slot_state=state.get("state", ""), lease_idle_ms=held.idle_ms, note=note
        )

    def _unknown(self, marks: Marks) -> Life:
        why = (
            "not in the queue, and no outcome of it is left: it was never accepted, or its result's time is over, or was not stored, or its "
            "dead letter is gone"
        )
        if self._replays:
            why = "it was replayed under another id"
        elif self._is_cut:
            why = "not found in the time given; the queue is long: search on with --search-s 120"
        elif self._traces.model not in roster.models(self._link):
            why = f"no model named {self._traces.model!r} is published; see `penstock models`"
        elif marks.may_be_kept:
            why = "not in the queue; an outcome of it may be kept among results, which this user may not read"
        return Life(self._id, marks.now_ms, "unknown", why)

    def _described(self, life: Life, job: Job) -> Life:
        return msgspec.structs.replace(
            life, kind=Kind(job.kind).name.lower() if job.kind in tuple(Kind) else str(job.kind), rows=job.rows, size=job.size,
            submitted_ms=job.submitted_ms, attempt=life.attempt or job.attempt, retries=job.retries, is_stored=job.is_stored,
            result_ttl_s=job.result_ttl_s if job.is_stored else None, deadline_ms=job.deadline_ms or None,
            replay_of=self._before(job),
        )  # fmt: skip

    # --- the chain --------------------------------------------------------------------------

    def _before(self, job: Job) -> Step | None:
        """The job it is a replay of. What that one was a replay of stood in its letter, which went with the replay."""
        named = replayed(job)
        if not named:
            return None
        try:
            model, job_id = split_public_id(named)
            outcome = Traces(self._link, model).marks(job_id).outcome
        except (InvalidInput, DecodeError):
            outcome = None
        if outcome is None:
            return Step(named, "dead")
        return Step(named, outcome.status.name.lower(), *_words(outcome))

    # --- the search -------------------------------------------------------------------------

    def _searched(self, marks: Marks) -> Life | None:
        lanes = {lane: self._traces.lane(lane) for lane in LANES}
        ahead = dict.fromkeys(LANES, 0)
        while lanes:
            for lane, pages in list(lanes.items()):
                page = next(pages, None)
                if page is None:
                    del lanes[lane]
                    continue
                for at, (entry, fields) in enumerate(page):
                    if _id_of(fields) == self._job:
                        return self._in_lane(marks.now_ms, lane, (entry, fields), ahead[lane] + at)
                    self._note_replay(fields[1] if len(fields) > 1 else b"", "waiting")
                ahead[lane] += len(page)
            if self._is_late():
                return None
        letter = self._letter()
        return self._dead(Life(self._id, marks.now_ms, "dead"), *letter) if letter is not None else None

    def _letter(self) -> tuple[Letter, bytes] | None:
        for page in self._traces.letters():
            for letter, body in page:
                if letter.job == self._job:
                    return letter, body
                self._note_replay(body, "dead")
            if self._is_late():
                return None
        return None

    def _note_replay(self, body: bytes, state: str) -> None:
        """Remembers a job that says it is a replay of ours. Its bytes are searched before they are decoded: few do."""
        if REPLAY_OF.encode() not in body or self._id.encode() not in body:
            return
        try:
            job = read_job(b"0-0", [b"b", body], LANES[1], None)
        except DecodeError:
            return
        if replayed(job) == self._id:
            self._replays.append(Step(f"{self._traces.model}:{job.id}", state))

    def _is_late(self) -> bool:
        self._is_cut = self._is_cut or self._clock() > self._until
        return self._is_cut


def replayed(job: Job) -> str:
    """The id under which it died before, '' for most."""
    context = job.context
    return str(context.get(REPLAY_OF, "")) if isinstance(context, dict) else ""


def _id_of(fields: list[bytes]) -> str:
    if len(fields) < 2 or len(fields[1]) < 16:
        return ""
    return fields[1][16 : 16 + fields[1][2]].decode(errors="replace")


def _timings(outcome: Outcome) -> Timings:
    times = outcome.timings
    return Timings(*(round(one, 3) for one in (times.queue_ms, times.batch_wait_ms, times.forward_ms, times.total_ms)))


def _words(outcome: Outcome) -> tuple[str, str]:
    return str(outcome.note.get("reason", "")), str(outcome.note.get("error", ""))
