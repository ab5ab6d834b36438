"""A few whole batches of one job on one message: which jobs, how many, and that nothing else changes by it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from broker.messages import Status
from broker.spec import ModelSpec, TensorSpec
from producer import Producer
from tests import models
from tests.workers.fakes import RAISES, SPEC, Client, Doubler, RunningSlot
from tests.workers.test_batcher import FIXED, RAW, VARYING, job, table
from workers.backends import Arrays
from workers.batch import Batch
from workers.batch_limits import BatchLimits
from workers.batcher import Batcher
from workers.caps import Caps
from workers.chain import LONGEST_MS, most_forwards
from workers.testing import local_pool
from workers.timetable import Timetable

ROWS = (1, 2, 4, 8)
QUICK = ((1, 0.05), (8, 0.1))


def batcher(timetable: Timetable, *, low_batch_ms: float = 0.0, cap: int = 8, most: int = 4) -> Batcher:
    made = Batcher(FIXED, row_buckets=ROWS, max_rows=8, batch_bytes=1 << 20, most_forwards=most)
    made.batch_limits = BatchLimits(timetable, ROWS, low_batch_ms=low_batch_ms, cap=lambda dims: cap)
    return made


def packed(made: Batcher) -> list[Batch]:
    found = []
    while (batch := made.pack()) is not None:
        found.append(batch)
    return found


def shapes(batches: list[Batch]) -> list[tuple[int, int, int]]:
    return [(one.rows, one.bucket, one.forwards) for one in batches]


# --- which, and how many ----------------------------------------------------------------------


def test_a_long_job_of_a_quick_model_goes_in_chains_and_its_rest_alone() -> None:
    made = batcher(table(*QUICK))
    made.add([job(rows=8 * 6 + 3)])

    found = packed(made)

    assert shapes(found) == [(32, 32, 4), (16, 16, 2), (3, 4, 1)]
    assert [(one.pieces[0].start, one.pieces[0].stop) for one in found] == [(0, 32), (32, 48), (48, 51)]
    assert made.rows == 0
    assert found[0].forward_rows == 8


@pytest.mark.parametrize(
    ("times", "forwards"),
    [((), 1), (((1, 0.1), (8, LONGEST_MS / 3.5)), 3), (((1, 1.0), (8, LONGEST_MS)), 1), (((1, 2.0), (8, 9.0)), 1)],
    ids=["not known yet", "three are over soon enough", "one takes as long", "one takes longer"],
)
def test_a_chain_is_over_as_soon_as_a_higher_lane_may_wait(times: tuple[tuple[int, float], ...], forwards: int) -> None:
    made = batcher(table(*times))
    made.add([job(rows=80)])
    batch = made.pack()
    assert batch is not None
    assert batch.forwards == forwards


def test_the_low_lanes_own_limit_holds_for_its_chains() -> None:
    made = batcher(table(*QUICK), low_batch_ms=0.25)
    made.add([job(rows=80, lane=2)])
    low = made.pack()
    made.clear()
    made.add([job(rows=80, lane=1)])
    normal = made.pack()
    assert low is not None
    assert normal is not None
    assert (low.forwards, normal.forwards) == (2, 4)


def test_jobs_of_one_batch_marked_ones_and_a_device_without_room_make_no_chain() -> None:
    made = batcher(table(*QUICK))
    made.add([job(rows=8) for _ in range(4)])
    assert shapes(packed(made)) == [(8, 8, 1)] * 4
    made.add([job(rows=32, deliveries=2)])
    assert {one.forwards for one in packed(made)} == {1}
    full = batcher(table(*QUICK), cap=4)
    full.add([job(rows=32)])
    assert shapes(packed(full)) == [(4, 4, 1)] * 8


def test_a_higher_lane_comes_between_two_chains() -> None:
    made = batcher(table(*QUICK))
    made.add([job(rows=64, lane=2)])
    first = made.pack()
    made.add([job(lane=0)])
    second = made.pack()
    assert first is not None
    assert second is not None
    assert (first.forwards, second.forwards) == (4, 1)
    assert second.pieces[0].job.lane == 0


def test_only_fixed_tensors_without_a_pipeline_on_a_host_are_chained() -> None:
    large = msgspec.structs.replace(FIXED, inputs=(TensorSpec("x", "float32", (3, 224, 224)),))
    values = msgspec.structs.replace(FIXED, has_postprocess=True)

    def most(spec: ModelSpec, device: str = "cpu") -> int:
        return most_forwards(spec, device=device, max_rows=8)

    assert most(FIXED) == 8
    assert [most(FIXED, "cuda:0"), most(VARYING), most(RAW), most(values), most(large)] == [1] * 5


# --- that nothing else changes ----------------------------------------------------------------


def times() -> Timetable:
    return table((1, 0.05), (64, 0.1))


def test_answers_counts_and_times_are_those_of_single_batches(redis_url: str, client: Client) -> None:
    known = times()
    slot = RunningSlot(redis_url, forwards=4, timetable=known)
    rows = np.arange(240 * 4, dtype="float32").reshape(240, 4)
    (id,) = client.submit(rows)
    with slot:
        (outcome,) = client.wait([id])

    assert np.array_equal(np.frombuffer(outcome.data, "float32").reshape(240, 4), rows * 2)
    sizes = [len(batch) for batch in slot.backend.batches]  # on a busy machine the last may be of a smaller size
    assert sizes[:2] == [64, 64]
    assert max(sizes) == 64, "no more than the model takes"
    assert (slot.board.batches, slot.board.rows, slot.board.padded_rows) == (len(sizes), 240, sum(sizes))
    assert max(one.rows for one in known.learned()) == 64


def test_a_model_that_gives_the_same_array_each_time_is_chained_as_any_other(redis_url: str, client: Client) -> None:
    class BodyRemover(Doubler):
        kept = np.zeros((64, 4), "float32")

        def run(self, inputs: Arrays) -> Arrays:
            rows = len(inputs["x"])
            self.kept[:rows] = super().run(inputs)["y"]
            return {"y": self.kept[:rows]}

    rows = np.arange(240 * 4, dtype="float32").reshape(240, 4)
    with RunningSlot(redis_url, backend=BodyRemover(), forwards=4, timetable=times()):
        (outcome,) = client.wait(client.submit(rows))
    assert np.array_equal(np.frombuffer(outcome.data, "float32").reshape(240, 4), rows * 2)


def test_a_bad_row_in_a_chain_fails_its_job_alone(redis_url: str, client: Client) -> None:
    slot = RunningSlot(redis_url, forwards=4, timetable=times())
    bad = np.ones((256, 4), "float32")
    bad[200, 0] = RAISES
    ids = client.submit(np.ones((256, 4), "float32"), bad, np.ones((256, 4), "float32"))
    with slot:
        outcomes = client.wait(ids)
    assert [one.status for one in outcomes] == [Status.DONE, Status.FAILED, Status.DONE]
    assert max(len(batch) for batch in slot.backend.batches) == 64
    assert client.left() == (0, 0)


def test_a_chain_that_finds_no_memory_goes_on_in_smaller_batches(redis_url: str, client: Client) -> None:
    torch = pytest.importorskip("torch", reason="needs the workers extra")
    caps = Caps((1, 2, 4, 8, 16, 32, 64))
    slot = RunningSlot(redis_url, forwards=4, timetable=times(), caps=caps)

    def before() -> None:
        if len(slot.backend.batches[-1]) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    slot.backend.before = before
    rows = np.arange(240 * 4, dtype="float32").reshape(240, 4)
    (id,) = client.submit(rows)
    with slot:
        (outcome,) = client.wait([id])
    assert np.array_equal(np.frombuffer(outcome.data, "float32").reshape(240, 4), rows * 2)
    assert caps.limit((), 0.0) == 16
    assert SPEC.max_rows == 64


@pytest.mark.parametrize("is_inline", [True, False], ids=["inline", "spawned"])
def test_a_real_engine_answers_a_chain_as_it_answers_its_rows(tmp_path: Path, is_inline: bool) -> None:
    models.mlp(tmp_path / "mlp")
    rows = np.random.default_rng(1).normal(size=(5000, 64)).astype("float32")
    with local_pool(tmp_path / "mlp", is_inline=is_inline) as pool, Producer(pool.url) as producer:
        whole = producer.infer("mlp", rows, timeout=20)["logits"]
        parts = [producer.infer("mlp", rows[at : at + 100], timeout=20)["logits"] for at in (0, 2400, 4900)]
    assert whole.shape == (5000, 2)
    for at, part in zip((0, 2400, 4900), parts, strict=True):
        assert np.allclose(whole[at : at + 100], part, atol=1e-5)
