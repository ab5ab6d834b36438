"""What a wrong input, a wrong artifact or a lost Redis gives: a typed error with its mend, while the pool goes on.

Each refusal is followed by a good job. docs/errors.md lists them all; the last test holds that list to the tests there are.
"""

from __future__ import annotations

import ast
import json
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from broker import embedded, keys, redis_conf, settings
from broker.connection import LOST, Link
from broker.errors import ArtifactError, SupervisorError
from broker.settings import Settings
from broker.spec import TensorSpec
from producer import (
    InvalidInput,
    JobDead,
    JobExpired,
    JobFailed,
    PayloadTooLarge,
    PenstockError,
    Producer,
    QueueFull,
    ResultExpired,
    ResultTimeout,
    UnknownModel,
)
from tests import models
from tests.wait import wait_until
from workers.devices import _driver_devices
from workers.testing import LocalPool, local_pool

pytest.importorskip("torch", reason="needs the workers extra")

ROOT = Path(__file__).resolve().parent.parent.parent
ROW = np.linspace(-1, 1, 64, dtype=np.float32)
QUEUE = {"max_jobs": 200, "max_bytes": 2_000_000, "payload_limit_bytes": 100_000}
TIMEOUT_S = 20

SLOW = '''
import time, torch

class Slow(torch.nn.Module):
    """Takes as many seconds as the largest first value of a row says; gives the square root."""

    def forward(self, x):
        time.sleep(float(x[:, 0].max()))
        return torch.sqrt(x)
'''
FINITE = TensorSpec(name="y", dtype="float32", shape=(4,), finite=True)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPool]:
    folder = tmp_path_factory.mktemp("artifacts")
    models.mlp(folder / "mlp")
    models.text_length(folder / "text")
    models.module_source(folder / "slow", SLOW, "Slow", name="slow", outputs=(FINITE,))
    with local_pool(folder / "mlp", folder / "text", folder / "slow", queue=QUEUE) as running:
        yield running


@pytest.fixture(scope="module")
def producer(pool: LocalPool) -> Iterator[Producer]:
    with Producer(pool.url) as producer:
        yield producer


@pytest.fixture
def link(pool: LocalPool) -> Iterator[Link]:
    link = Link(pool.url)
    link.connect()
    yield link
    link.close()


@pytest.fixture(autouse=True)
def the_pool_goes_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test a good job of each model is answered, and no job was left behind."""
    yield
    if "producer" not in request.fixturenames:
        return
    producer: Producer = request.getfixturevalue("producer")
    assert producer.infer("mlp", ROW, TIMEOUT_S)["logits"].shape == (2,)
    assert producer.infer("text", "four", TIMEOUT_S).value == {"length": 4}
    assert producer.infer("slow", row(0, 1, 4, 9), TIMEOUT_S)["y"].tolist() == [0, 1, 2, 3]


def row(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def counter(link: Link, model: str, name: str) -> int:
    return int(link.call("HGET", keys.counters(model), name) or 0)


# --- refused at submit ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "inputs", "says"),
    [
        ("mlp", ROW.astype("f8"), r'has dtype float64, wanted float32; convert it with \.astype\("float32"\)'),
        ("mlp", ROW.astype("f2"), "has dtype float16"),
        ("mlp", ROW[:63], r"has shape \(63,\); wanted \(64,\) per row; reshape or pad it"),
        ("mlp", np.zeros((2, 63), "f4"), r"has shape \(2, 63\); wanted \(64,\) per row"),
        ("mlp", {"y": ROW}, 'unknown input "y"; '),
        ("mlp", {}, "needs input x too; add it to the dict"),
        ("mlp", np.zeros((1, 1, 64), "f4"), r"has rank 3, .* or rank 2 with the rows in front; reshape it"),
        ("mlp", np.float32(1), "has rank 0"),
        (
            "mlp",
            np.where(ROW > 0.9, np.nan, ROW),
            "holds NaN or infinity, which the model's manifest forbids; clean or",
        ),
        ("mlp", np.where(ROW > 0.9, np.inf, ROW), "holds NaN or infinity"),
        ("mlp", np.zeros((0, 64), "f4"), "is an empty batch, .* send at least one row"),
        ("mlp", "text", "takes float32, and text came; send numbers"),
        ("mlp", b"bytes", "takes float32, and bytes came; send numbers"),
        ("mlp", {"x": "text"}, "takes float32, and text came"),
        ("mlp", None, "send numbers"),
        ("mlp", [["ragged"], [1, 2]], "is not an array"),
        ("text", ROW, "takes text, a str, and a ndarray came"),
        ("text", b"four", "takes text, a str, and bytes came; decode it first"),
        ("text", {"x": ROW}, "takes text, a str, and a dict came"),
    ],
)
def test_an_input_that_does_not_fit_is_refused_and_leaves_nothing_behind(
    model: str, inputs: Any, says: str, producer: Producer, link: Link
) -> None:
    # given
    before = counter(link, model, "submitted")
    # then also when the shape is known already, and among good ones
    for _ in range(2):
        with pytest.raises(InvalidInput, match=says) as caught:
            producer.submit(model, inputs)
        assert "\n" not in str(caught.value)
        assert not caught.value.retryable
    good = ROW if model == "mlp" else "good"
    with pytest.raises(InvalidInput, match=r"input number 1: .*; nothing was queued"):
        producer.submit_many(model, [good, inputs])
    assert counter(link, model, "submitted") == before


def test_an_unknown_model_is_refused_with_the_command_that_lists_them(producer: Producer) -> None:
    with pytest.raises(UnknownModel, match="no model named 'mlpp' is published; see `penstock models`"):
        producer.submit("mlpp", ROW)


def test_a_payload_over_the_limit_is_refused_with_both_figures(producer: Producer, link: Link) -> None:
    before = counter(link, "mlp", "submitted")
    with pytest.raises(
        PayloadTooLarge, match=r"a job of \d{6} bytes is over the limit of 100000 bytes a job; send fewer rows"
    ):
        producer.submit("mlp", np.zeros((500, 64), "f4"))
    with pytest.raises(PayloadTooLarge):
        producer.submit("text", "a" * 100_001)
    assert counter(link, "mlp", "submitted") == before


def test_a_queue_full_of_jobs_refuses_until_some_have_gone(producer: Producer) -> None:
    # given delayed jobs: they count, and no slot takes them
    with pytest.raises(QueueFull, match=r"at its limit of 200 jobs; try again in .* raise queue\.max_jobs") as caught:
        producer.submit_many("mlp", [ROW] * 201, delay_s=60)
    accepted = caught.value.accepted
    assert len(accepted) == 200
    with pytest.raises(QueueFull, match="200 jobs") as again:
        producer.submit("mlp", ROW)
    assert again.value.retryable
    assert again.value.retry_after_s > 0
    # when
    assert all(handle.cancel() for handle in accepted)
    # then
    producer.infer("mlp", ROW, TIMEOUT_S)


def test_a_queue_full_of_bytes_refuses_until_some_have_gone(producer: Producer) -> None:
    # given
    rows = np.zeros((300, 64), "f4")
    with pytest.raises(
        QueueFull, match=r"at its limit of 2000000 bytes; try again in .* raise queue\.max_bytes"
    ) as caught:
        producer.submit_many("mlp", [rows] * 40, delay_s=60)
    accepted = caught.value.accepted
    assert 0 < len(accepted) <= 2_000_000 // rows.nbytes
    # when
    assert all(handle.cancel() for handle in accepted)
    # then
    assert producer.infer("mlp", rows, TIMEOUT_S)["logits"].shape == (300, 2)


# --- accepted, and ended badly --------------------------------------------------------------


def test_a_deadline_that_passes_behind_a_slow_job_expires_the_job_unrun(producer: Producer, link: Link) -> None:
    # given
    slow = producer.submit("slow", row(0.3, 0, 0, 0))
    wait_until(lambda: slow.status() == "claimed", "the slow one runs")
    # when
    late = producer.submit("slow", row(0, 0, 0, 0), deadline_s=0.02)
    patient = producer.submit("slow", row(0, 4, 0, 0), deadline_s=60)
    # then
    with pytest.raises(JobExpired, match=r"is expired: the deadline passed .* before") as caught:
        late.result(TIMEOUT_S)
    assert (caught.value.reason, caught.value.job_id) == ("deadline", late.id)
    assert late.status() == "expired"
    assert patient.result(TIMEOUT_S)["y"][1] == 2
    assert slow.result(TIMEOUT_S).attempt == 1
    assert counter(link, "slow", "expired") == 1


def test_a_deadline_that_has_passed_already_is_refused(producer: Producer) -> None:
    with pytest.raises(InvalidInput, match="deadline_s=0 has passed"):
        producer.submit("mlp", ROW, deadline_s=0)


def test_waiting_too_short_does_not_end_the_job(producer: Producer) -> None:
    handle = producer.submit("slow", row(0.2, 0, 0, 0))
    with pytest.raises(ResultTimeout, match=r"has no result after 0.01 s \(depth 1, .* 1 slots? ready\); it goes on"):
        handle.result(0.01)
    assert handle.result(TIMEOUT_S).attempt == 1


def test_an_unknown_id_is_told_from_what_is_no_id(producer: Producer) -> None:
    with pytest.raises(ResultExpired, match="the id is unknown, or its result is past its TTL"):
        producer.result("mlp:aaaaaaaaaaaaaaaa-1", 5)
    assert producer.handle("mlp:aaaaaaaaaaaaaaaa-1").status() == "unknown"
    assert producer.handle("mlp:aaaaaaaaaaaaaaaa-1").cancel() is False
    with pytest.raises(InvalidInput, match=r"is not a job id; write it as handle\.id gives it, model:client"):
        producer.result("mlp", 5)


def test_a_result_past_its_ttl_is_gone_for_others_and_kept_by_its_handle(producer: Producer, pool: LocalPool) -> None:
    # given
    handle = producer.submit("mlp", ROW, result_ttl_s=1)
    kept = handle.result(TIMEOUT_S)
    with Producer(pool.url) as other:
        assert other.result(handle.id, TIMEOUT_S).id == handle.id
        # when
        wait_until(lambda: other.handle(handle.id).status() == "unknown", "the result has expired")
        # then
        with pytest.raises(ResultExpired, match="submit again, with a longer result_ttl_s if it was read too late"):
            other.result(handle.id, 5)
    assert handle.result(0).id == kept.id


def test_an_output_that_breaks_its_bound_fails_its_own_row_only(producer: Producer) -> None:
    # given square roots of negative numbers
    good, bad = row(0, 1, 4, 9), row(0, -1, 4, 9)
    # when
    first, second, both = producer.submit_many("slow", [good, bad, np.stack([good, bad])])
    # then
    assert first.result(TIMEOUT_S)["y"].tolist() == [0, 1, 2, 3]
    with pytest.raises(JobFailed, match="y holds NaN or infinity") as caught:
        second.result(TIMEOUT_S)
    assert caught.value.reason == "output_out_of_bounds"
    result = both.result(TIMEOUT_S)
    assert result["y"][0].tolist() == [0, 1, 2, 3]
    assert list(result.row_errors) == [1]
    assert "y holds NaN or infinity" in result.row_errors[1]


def test_an_item_the_pipeline_refuses_fails_alone(producer: Producer) -> None:
    handles = producer.submit_many("text", ["a", "", "ccc"])
    with pytest.raises(JobFailed, match="ValueError: empty text") as caught:
        handles[1].result(TIMEOUT_S)
    assert caught.value.reason == "input_error"
    assert not isinstance(caught.value, JobDead)
    assert [handles[at].result(TIMEOUT_S).value["length"] for at in (0, 2)] == [1, 3]
    with pytest.raises(InvalidInput, match="is not valid Unicode"):
        producer.submit("text", "\ud800")


# --- artifacts and devices ------------------------------------------------------------------


def test_a_pool_with_a_wrong_manifest_does_not_start(tmp_path: Path) -> None:
    models.mlp(tmp_path / "mlp")
    manifest = tmp_path / "mlp" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"max_row": 3}))
    with (
        pytest.raises(ArtifactError, match='unknown key "max_row"; did you mean "max_rows"'),
        local_pool(manifest.parent),
    ):
        pass


def test_a_pool_with_an_altered_model_file_does_not_start(tmp_path: Path) -> None:
    models.mlp(tmp_path / "mlp")
    model = tmp_path / "mlp" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    with (
        pytest.raises(PenstockError, match=r"model\.onnx: altered: .*penstock models seal"),
        local_pool(tmp_path / "mlp"),
    ):
        pass


@pytest.mark.skipif(_driver_devices() is not None, reason="a CUDA driver is here; this is about machines without")
def test_cuda_where_there_is_none_says_so_in_up_and_the_jobs_wait(pooled: Callable[..., Settings]) -> None:
    # given a real pool under supervisord
    with pytest.raises(
        SupervisorError, match=r'slot 0: (load_failed: )?device = "cuda" was asked for, but .*set device = "cpu"'
    ) as up:
        pooled('device = "cuda"\n', slots=1)
    assert "\n" not in str(up.value)
    # then the pool that it names stays up
    log = Path(str(up.value).rpartition(" and ")[2])
    with Producer(settings.load(str(log.parent.parent / "pool.toml"), environ={}).redis_url) as producer:
        handle = producer.submit("mlp", ROW)
        assert "no ready slot serves model 'mlp'; the job waits" in (handle.warning or "")
        assert handle.status() == "waiting"


# --- Redis lost in the middle ---------------------------------------------------------------


@dataclass
class DurableRedis:
    """A server that has on disk what it acknowledged; it may be killed and started again on the same socket."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.folder / 'redis.sock'}"

    def start(self) -> None:
        config = self.folder / "redis.conf"
        text = redis_conf.render(socket_path=self.folder / "redis.sock", folder=self.folder, max_memory_mb=256)
        config.write_text(text.replace("appendfsync everysec", "appendfsync always"))
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                [embedded.find_server(), config], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        link = Link(self.url)
        link.connect_within(10)
        link.close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


@contextmanager
def durable_redis(folder: Path) -> Iterator[DurableRedis]:
    server = DurableRedis(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def test_redis_killed_with_jobs_in_flight_loses_none_and_answers_none_twice(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("r")
    models.mlp(folder / "mlp")
    x = np.random.default_rng(5).normal(size=(12_000, 64)).astype(np.float32)
    with durable_redis(folder) as server, local_pool(folder / "mlp", redis_url=server.url) as pool:
        link = Link(server.url)
        link.connect()
        with Producer(pool.url) as producer:
            # given jobs in every state: done, claimed, waiting, and still being submitted
            alone = [producer.infer("mlp", row, TIMEOUT_S)["logits"] for row in x[:20]]
            handles: list[Any] = []
            submitting = threading.Thread(target=lambda: handles.extend(producer.submit_many("mlp", list(x))))
            submitting.start()
            wait_until(lambda: counter(link, "mlp", "done") > 1000, "some are done")
            assert counter(link, "mlp", "done") < len(x), "and some are not"
            # when
            server.kill()
            with pytest.raises(LOST):
                link.call("PING")
            server.start()
            # then
            submitting.join(30)
            results = [handle.result(TIMEOUT_S) for handle in handles]
            assert len({result.id for result in results}) == len(x)
            got = np.stack([result["logits"] for result in results])
            np.testing.assert_allclose(got[:20], np.stack(alone), rtol=1e-4, atol=1e-5)
            whole = producer.infer("mlp", x[:3000], TIMEOUT_S)["logits"]
            np.testing.assert_allclose(got[:3000], whole, rtol=1e-4, atol=1e-5)
        link.connect()
        assert counter(link, "mlp", "done") == counter(link, "mlp", "submitted") == len(x) + 21
        assert link.call("XLEN", keys.lane("mlp", "normal")) == 0
        assert link.call("XPENDING", keys.lane("mlp", "normal"), keys.GROUP)[0] == 0
        link.close()


def test_a_batch_that_ends_while_redis_is_away_is_settled_late(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("r")
    models.module_source(folder / "slow", SLOW, "Slow", name="slow", outputs=(FINITE,))
    with (
        durable_redis(folder) as server,
        local_pool(folder / "slow", redis_url=server.url) as pool,
        Producer(pool.url) as producer,
    ):
        # given
        handle = producer.submit("slow", row(0.3, 1, 4, 9))
        wait_until(lambda: handle.status() == "claimed", "it runs")
        # when its forward ends without a Redis to tell
        server.kill()
        slot = pool.lives[0].slot
        assert slot is not None
        wait_until(lambda: slot._runner.is_empty, "the forward ended")
        server.start()
        # then
        result = handle.result(TIMEOUT_S)
        assert result["y"][1:].tolist() == [1, 2, 3]
        assert result.attempt == 1
        assert producer.infer("slow", row(0, 1, 4, 9), TIMEOUT_S)["y"].tolist() == [0, 1, 2, 3]


# --- the list of them -----------------------------------------------------------------------

ROWS = [line for line in (ROOT / "docs" / "errors.md").read_text().splitlines() if line.startswith("|") and "`" in line]


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("line", ROWS, ids=[line.split("|")[1].strip() for line in ROWS])
def test_every_row_of_the_table_of_errors_names_tests_that_exist(line: str) -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", line.split("|")[-2])
    assert named, "a row without a test"
    for file, name in named:
        assert name in names_in(file), f"{file} has no {name}"
