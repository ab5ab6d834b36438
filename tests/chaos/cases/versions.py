"""Old and new messages in one consumer group, as during an upgrade."""

from __future__ import annotations

import time

from broker import codec, keys, outcome_codec
from broker.intake import Intake, client_of, new_client
from broker.messages import Kind
from tests.chaos.case import Case, Seen, judged
from tests.chaos.fake import MODEL, OK
from tests.chaos.stage import READY_WITHIN_S, Stage, staged
from tests.chaos.traffic import Tally, Traffic, new_serials, row

LATER_FORMAT = codec.FORMAT + 1


def versions(jobs: int) -> Seen:
    """A quarter comes from a later version: with a field we do not know (it runs), or in a format we cannot read (dead)."""
    seen = Seen()
    with staged() as stage, judged(stage, seen) as hand_in:
        client = new_client()
        with Traffic(stage.url, per_s=1_000, count=jobs) as traffic:
            sent = [_send_later(stage, f"{client}-{n}", is_readable=n % 2 == 0) for n in range(1, jobs // 4 + 1)]
            hand_in(traffic.finish(stop=False))
        tally = Tally(submitted=len(sent))
        for number, job_id in enumerate(sent, 1):
            status = _outcome(stage, job_id)
            setattr(tally, status, getattr(tally, status) + 1)
            wanted = "done" if number % 2 == 0 else "dead"
            seen.expect(status == wanted, f"a message that must end {wanted} ended {status}")
        seen.faults = len(sent)
        hand_in(tally)
    return seen


def _send_later(stage: Stage, job_id: str, *, is_readable: bool) -> str:
    """What the later version's submit script does, without its checks."""
    head, tail = codec.encode_job_head(
        kind=Kind.TENSORS, rows=1, is_one_row=True, is_stored=True, retries=0, result_ttl_s=600,
        descriptor=codec.pack_columns([("x", "int64", (2,))]), context=None,
    )  # fmt: skip
    (serial,) = new_serials(1)
    blob = codec.encode_job(head, job_id.encode(), tail, row(serial, OK).tobytes())
    fields = ["b", blob, "z", "of a later version"] if is_readable else ["b", bytes((LATER_FORMAT,)) + blob[1:]]
    stage.call("HINCRBY", keys.counters(MODEL), "bytes", len(blob))
    stage.call("HINCRBY", keys.counters(MODEL), "submitted", 1)
    stage.call("XADD", keys.lane(MODEL, "normal"), "*", *fields)
    return job_id


def _outcome(stage: Stage, job_id: str) -> str:
    deadline = time.monotonic() + READY_WITHIN_S
    intake = Intake(MODEL, client_of(job_id))
    while (blob := stage.call(*intake.results([job_id]))[0]) is None:
        if time.monotonic() > deadline:
            return "lost"
        time.sleep(0.01)
    return outcome_codec.decode(blob).status.name.lower()


CASES = (Case("old and new messages in one group", versions, "jobs", 80, 400, 4_000),)
