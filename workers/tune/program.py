"""The measuring program: `python -m workers.tune`. Questions come in on stdin, a line each; each is answered on stdout.

Started by `penstock tune`, so that the command itself loads no model. It ends with its stdin; its engines end with it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import BinaryIO

import msgspec

from broker.errors import PenstockError
from workers import trust
from workers.artifact import open_artifact
from workers.tune.samples import Samples
from workers.tune.stand import Stand
from workers.tune.words import Answer, Failed, Open, Opened, Question, Race, Time, Warm, Warmed


def main() -> None:
    """The process: the artifact's own prints go to stderr, since stdout carries the answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the command decides
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    sys.exit(serve(sys.stdin.buffer, answers))


def serve(questions: BinaryIO, answers: BinaryIO) -> int:
    """Answers until there are no more questions, or one cannot be answered."""
    stand: Stand | None = None
    decode = msgspec.json.Decoder(Question).decode
    try:
        for line in questions:
            question = decode(line)
            answer: Answer
            try:
                if isinstance(question, Open):
                    stand, answer = _opened(question)
                else:
                    assert stand is not None, "a question before Open"
                    answer = _answered(stand, question)
            except (PenstockError, TimeoutError) as error:
                answer = Failed(" ".join(str(error).split()))
            answers.write(msgspec.json.encode(answer) + b"\n")
            if isinstance(answer, Failed):
                return 1
    except BrokenPipeError:  # the command is gone
        return 1
    finally:
        if stand is not None:
            stand.close()
    return 0


def _opened(question: Open) -> tuple[Stand, Opened]:
    artifact = open_artifact(question.folder)
    trust.require(artifact, Path(question.trusted))
    samples = Samples(artifact, question.data, payload_limit_bytes=question.payload_limit_bytes)
    stand = Stand(
        artifact, samples, device=question.device, threads=question.threads, memory_fraction=question.memory_fraction,
        payload_limit_bytes=question.payload_limit_bytes, load_timeout_s=question.load_timeout_s, silent_s=question.silent_s,
    )  # fmt: skip
    spec = artifact.spec
    stand.warm((1,), max_rows=spec.max_rows)
    return stand, Opened(
        name=spec.name, version=spec.version, digest=artifact.digest, device=stand.device, takes=spec.takes, max_rows=spec.max_rows,
        buckets=spec.buckets, rows=samples.rows, has_data=samples.has_data, shares=samples.shares(),
        sizes={dim: dict(sizes) for dim, sizes in samples.sizes.items()}, skipped=samples.skipped, load_s=stand.load_s,
    )  # fmt: skip


def _answered(stand: Stand, question: Time | Warm | Race) -> Answer:
    match question:
        case Time():
            return stand.time(question.rows, question.dims, budget_s=question.budget_s)
        case Warm():
            stand.warm(question.row_buckets)
            return Warmed(stand.load_s)
        case Race():
            return stand.race(question.engines, question.row_buckets, seconds=question.seconds)
