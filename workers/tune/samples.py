"""The data by shape bucket: which rows a model takes, how long they are, and batches drawn from them.

Runs the artifact's preprocess where there is one, to learn what it refuses and how long its rows become; so the caller has
made sure that the artifact is trusted.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from broker.errors import ArtifactError, InvalidInput
from broker.messages import Job
from broker.spec import ModelSpec
from workers.artifact import Artifact
from workers.batch import Batch, Piece
from workers.pipeline import load_pipeline
from workers.shapes import Shapes
from workers.tune import data
from workers.tune.words import Dims, Share

CHUNK = 32
PREPROCESS_BUDGET_S = 5.0  # what was looked at by then is the sample
MOST_SHAPES = 64  # of zeros


class Samples:
    """Rows to measure with. `sizes`: varying dimension -> size -> rows; `skipped` says which rows are left out and why."""

    def __init__(self, artifact: Artifact, path: str, *, payload_limit_bytes: int) -> None:
        """Raises InvalidInput when there is nothing to measure with."""
        self.spec = artifact.spec
        self.has_data = bool(path)
        self.sizes: dict[str, Counter[int]] = {}
        self._reasons: Counter[str] = Counter()
        self._texts: dict[str, str] = {}
        self._by_dims: dict[Dims, list[Job]] = defaultdict(list)
        self._random = random.Random(0)
        self._shapes = Shapes(self.spec)
        jobs = data.read(Path(path), self.spec) if path else _zeros(self.spec, self._shapes.varying)
        fit = [job for job in jobs if job.size <= payload_limit_bytes]
        self._skip(f"over queue.payload_limit_bytes, {payload_limit_bytes}", len(jobs) - len(fit))
        if self.spec.takes != "tensors":
            fit = self._preprocessed(artifact, fit)
        for job in fit:
            self._sort(job)
        if not self._by_dims:
            why = "; ".join(self.skipped) or "there is none"
            raise InvalidInput(f"no row of the data can be used: {why}; name inputs that this model takes")

    @property
    def skipped(self) -> list[str]:
        return [f"{count} left out: {self._texts[kind]}" for kind, count in self._reasons.most_common()]

    @property
    def rows(self) -> int:
        return sum(map(len, self._by_dims.values()))

    def shares(self) -> list[Share]:
        """Shape buckets, the commonest first."""
        found = [Share(dims, len(jobs)) for dims, jobs in self._by_dims.items()]
        return sorted(found, key=lambda share: (-share.rows, share.dims))

    def batch(self, rows: int, dims: Dims) -> Batch:
        """A full batch of rows drawn from that shape bucket, as the slot would have packed it."""
        jobs = self._by_dims[dims]
        drawn = self._random.choices(jobs, k=rows) if rows > len(jobs) else self._random.sample(jobs, rows)
        return Batch([Piece(job, 0, 1) for job in drawn], rows, rows, dims)

    def any_dims(self) -> Dims:
        """A shape bucket, each as often as the data has it."""
        kinds = list(self._by_dims)
        return self._random.choices(kinds, [len(self._by_dims[dims]) for dims in kinds])[0]

    def _skip(self, text: str, count: int = 1, *, kind: str = "") -> None:
        """Rows of one `kind` are told together, in the words of the first."""
        if count:
            self._texts.setdefault(kind or text, text)
            self._reasons[kind or text] += count

    def _sort(self, job: Job) -> None:
        dims = self._shapes.dims(job)
        if isinstance(dims, str):
            self._skip(dims)
            return
        self._by_dims[dims].append(job)
        self._count([column.shape for column in job.signature.columns])

    def _count(self, shapes: list[tuple[int, ...]]) -> None:
        """One row's varying dimensions; raw rows are counted when preprocess has made them."""
        own: dict[str, int] = {}
        for tensor, have in zip(self.spec.inputs, shapes, strict=False):
            own.update((dim, size) for dim, size in zip(tensor.shape, have, strict=True) if isinstance(dim, str))
        for dim, size in own.items():
            self.sizes.setdefault(dim, Counter())[size] += 1

    def _preprocessed(self, artifact: Artifact, jobs: list[Job]) -> list[Job]:
        """Those that the artifact's preprocess takes."""
        try:
            pipeline = load_pipeline(artifact)
        except Exception as error:  # the edge of the artifact's own code
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise ArtifactError(f"{artifact.folder}: its pipeline does not load: {text[:600]}; correct it") from error
        preprocess = pipeline.preprocess if pipeline is not None else None
        assert preprocess is not None  # open_artifact saw it
        kept: list[Job] = []
        deadline = time.monotonic() + PREPROCESS_BUDGET_S
        for at in range(0, len(jobs), CHUNK):
            chunk = jobs[at : at + CHUNK]
            items: list[Any] = [job.data.decode() if self.spec.takes == "text" else job.data for job in chunk]
            try:
                made = preprocess(items)
            except Exception as error:  # noqa: BLE001 - the same
                made = [error] * len(chunk)
            kept += [job for job, one in zip(chunk, made, strict=False) if self._is_taken(one)]
            if time.monotonic() > deadline:
                break
        return kept

    def _is_taken(self, one: dict[str, Any] | Exception) -> bool:
        if isinstance(one, Exception):
            kind = type(one).__name__
            self._skip(" ".join(f"preprocess says {kind}: {one}".split())[:200], kind=kind)
            return False
        shapes = [np.shape(one.get(tensor.name, ())) for tensor in self.spec.inputs]
        for tensor, have in zip(self.spec.inputs, shapes, strict=True):
            if len(tensor.shape) != len(have):
                self._skip(f"preprocess gave {tensor.name!r} with another rank than the manifest says")
                return False
            for dim, size in zip(tensor.shape, have, strict=True):
                if isinstance(dim, str) and size > self.spec.buckets[dim][-1]:
                    self._skip(f"dimension {dim!r} is over the largest bucket, {self.spec.buckets[dim][-1]}")
                    return False
        self._count(shapes)
        return True


def _zeros(spec: ModelSpec, varying: list[str]) -> list[Job]:
    if spec.takes != "tensors":
        raise InvalidInput(f"model {spec.name!r} takes {spec.takes}: give --data, a folder of real inputs")
    every = list(product(*(spec.buckets[name] for name in varying)))
    return [data.zeros(spec, dims) for dims in every[:MOST_SHAPES]]
