"""Copies beside forwards, pinned slabs, graphs and precision: the logic, on fake streams. The device itself: tests/gpu."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the workers extra")

from broker.errors import ArtifactError, DeviceError  # noqa: E402
from broker.spec import TensorSpec  # noqa: E402
from tests import models  # noqa: E402
from tests.wait import wait_until  # noqa: E402
from tests.workers.fake_cuda import Driver, Graph  # noqa: E402
from tests.workers.fake_cuda import driver as driver  # noqa: E402
from workers import device_loop, exchange  # noqa: E402
from workers.artifact import Artifact, write  # noqa: E402
from workers.backends import Overlapping, load  # noqa: E402
from workers.device_batch import DeviceBatch  # noqa: E402
from workers.engine import load_and_warm  # noqa: E402
from workers.engine_client import make_slabs  # noqa: E402
from workers.exchange import Measure, Ran, Run  # noqa: E402
from workers.forward import Forward  # noqa: E402
from workers.progress import Progress  # noqa: E402
from workers.slabs import Slab  # noqa: E402

BUCKETS = (1, 2, 4)
NET = "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        {body}\n"
SAME = (TensorSpec(name="y", dtype="float32", shape=(4,)),)


def net(folder: Path, body: str = "return 2 * x", **changes: Any) -> Artifact:
    return models.module_source(folder, NET.format(body=body), "Net", **{"outputs": SAME, "max_rows": 4, **changes})


def options(artifact: Artifact, **more: Any) -> Artifact:
    """The same artifact with other backend options."""
    changed = msgspec.structs.replace(artifact.manifest, options={**artifact.manifest.options, **more})
    return write(artifact.folder, changed)


def started(artifact: Artifact) -> tuple[Forward, list[Slab]]:
    slabs = make_slabs(artifact, max_rows=4, raw_bytes=1 << 16)
    forward, ready = load_and_warm(str(artifact.folder), device="cuda:0", threads=1, slabs=slabs, row_buckets=BUCKETS)
    assert ready.device == "cuda:0"
    return forward, slabs


def fill(slab: Slab, value: float, rows: int = 4) -> None:
    np.frombuffer(slab.input, np.float32)[: rows * 4] = value


def output(slab: Slab, rows: int = 4) -> list[float]:
    return [float(value) for value in np.frombuffer(slab.output, np.float32)[: rows * 4]]


# --- slabs ------------------------------------------------------------------------------------


def test_each_slab_is_registered_once_and_given_back_before_its_mapping_goes(driver: Driver, tmp_path: Path) -> None:
    forward, slabs = started(net(tmp_path))
    where = [np.frombuffer(slab.whole, np.uint8).ctypes.data for slab in slabs]
    assert [at for name, at in driver.calls if name == "cuMemHostRegister_v2"] == where
    assert all(at % 4096 == 0 for at in where)
    assert forward.on_device is not None
    forward.on_device.detach()
    forward.on_device.detach()
    assert [at for name, at in driver.calls if name == "cuMemHostUnregister"] == where


def test_a_backend_that_is_dropped_unpins_its_slabs(driver: Driver, tmp_path: Path) -> None:
    forward, _ = started(net(tmp_path))
    del forward
    gc.collect()
    assert driver.count("cuMemHostUnregister") == 2


@pytest.mark.parametrize("is_refused", [False, True])
def test_outputs_are_right_whether_slabs_could_be_pinned_or_not(
    driver: Driver, tmp_path: Path, capsys: pytest.CaptureFixture[str], is_refused: bool
) -> None:
    if is_refused:
        driver.refuses["cuMemHostRegister_v2"] = 801
    forward, slabs = started(net(tmp_path))
    for at in range(6):
        slab = slabs[at % 2]
        fill(slab, at)
        ran = forward.run(Run(at, at % 2, 3, 4))
        assert (ran.error, ran.columns) == ("", (("y", "float32", (4,)),))
        assert output(slab, 3) == [2.0 * at] * 12
    said = capsys.readouterr().err
    assert said.count("slabs not pinned") == (1 if is_refused else 0)
    assert ('"code":801' in said) == is_refused
    if is_refused:
        assert driver.count("cuMemHostUnregister") == 0, "none was registered"


def test_when_the_second_slab_is_refused_the_first_is_given_back(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = type(driver).__getattr__

    def second_fails(self: Driver, name: str) -> Any:
        if name == "cuMemHostRegister_v2" and self.count(name) == 1:
            self.refuses[name] = 2
        return real(self, name)

    monkeypatch.setattr(type(driver), "__getattr__", second_fails)
    started(net(tmp_path))
    assert (driver.count("cuMemHostRegister_v2"), driver.count("cuMemHostUnregister")) == (2, 1)


def test_only_the_rows_of_the_batch_are_written_to_the_slab(driver: Driver, tmp_path: Path) -> None:
    forward, slabs = started(net(tmp_path))
    fill(slabs[0], 1.0)
    np.frombuffer(slabs[0].output, np.float32)[:] = -1
    forward.run(Run(1, 0, 2, 4))
    assert output(slabs[0]) == [2.0] * 8 + [-1.0] * 8


def test_raw_input_and_a_postprocess_work_on_the_device_too(driver: Driver, tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text(models.TEXT)
    forward, slabs = started(net(tmp_path, "return x + 0", takes="text", pipeline="pipeline.py"))
    slabs[1].input[:7] = b"oneofit"
    ran = forward.run(Run(1, 1, 2, 2, lengths=[3, 4]))
    assert ran.error == ""
    lengths = ran.value_lengths
    assert lengths is not None
    first = msgspec.msgpack.decode(slabs[1].output[: lengths[0]])
    assert first == {"length": 3.0}
    assert forward.run(Run(2, 1, 2, 2, lengths=[0, 4])).notes[0].reason == "input_error"


# --- overlap ----------------------------------------------------------------------------------


@pytest.fixture
def serving(driver: Driver, tmp_path: Path) -> Iterator[Any]:
    """A function that serves an artifact from a thread, as the engine's process does; gives the slot's end, slabs, log."""
    ours, theirs = exchange.pair()
    threads = []

    def start(artifact: Artifact) -> tuple[socket.socket, list[Slab], list[str], Forward]:
        forward, slabs = started(artifact)
        told: list[str] = []
        for name in ("prepare", "stage", "launch", "land"):
            _tell(DeviceBatch, name, told)

        def answer(said: Ran | Measure) -> None:
            told.append("measured" if isinstance(said, Measure) else f"answer {said.seq}")
            theirs.send(exchange.encode(exchange.Measured(1) if isinstance(said, Measure) else said))

        def serve() -> None:
            with suppress(BrokenPipeError):  # the process ends then
                device_loop.serve(theirs, board=forward.board, answer=answer, progress=Progress())

        threads.append(threading.Thread(target=serve))
        threads[0].start()
        return ours, slabs, told, forward

    kept = {name: getattr(DeviceBatch, name) for name in ("prepare", "stage", "launch", "land")}
    yield start
    ours.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    for name, method in kept.items():
        setattr(DeviceBatch, name, method)
    theirs.close()


def _tell(kind: type[DeviceBatch], name: str, told: list[str]) -> None:
    real = getattr(kind, name)

    def telling(self: DeviceBatch) -> None:
        told.append(f"{name} {self._message.seq}")
        real(self)

    setattr(kind, name, telling)


def ran(end: socket.socket) -> Ran:
    said = exchange.read_for_slot(end)
    assert isinstance(said, Ran)
    return said


def test_the_next_batch_is_staged_while_one_computes_and_launched_only_when_it_landed(
    serving: Any, tmp_path: Path
) -> None:
    end, slabs, told, _ = serving(net(tmp_path))
    fill(slabs[1], 1.0)
    fill(slabs[0], 2.0)
    end.send(exchange.encode(Run(1, 1, 4, 4)))
    end.send(exchange.encode(Run(2, 0, 4, 4)))
    assert [ran(end).seq, ran(end).seq] == [1, 2]
    assert (output(slabs[1]), output(slabs[0])) == ([2.0] * 16, [4.0] * 16)
    steps = [one for one in told if one.split()[0] != "prepare"]
    assert steps == ["launch 1", "stage 2", "land 1", "launch 2", "answer 1", "land 2", "answer 2"]


def test_a_slab_rewritten_right_after_its_answer_changes_no_output(serving: Any, tmp_path: Path) -> None:
    end, slabs, _, _ = serving(net(tmp_path))
    for seq in (1, 2):
        fill(slabs[seq % 2], seq)
        end.send(exchange.encode(Run(seq, seq % 2, 4, 4)))
    for seq in range(1, 60):
        said = ran(end)
        slab = slabs[said.seq % 2]
        assert (said.seq, output(slab)) == (seq, [2.0 * seq] * 16)
        fill(slab, seq + 2)
        end.send(exchange.encode(Run(seq + 2, said.seq % 2, 4, 4)))


def test_memory_is_measured_when_nothing_is_under_way(serving: Any, tmp_path: Path) -> None:
    end, slabs, told, _ = serving(net(tmp_path))
    fill(slabs[1], 1.0)
    end.send(exchange.encode(Run(1, 1, 4, 4)))
    end.send(exchange.encode(Measure()))
    assert ran(end).seq == 1
    assert isinstance(exchange.read_for_slot(end), exchange.Measured)
    assert told[-2:] == ["answer 1", "measured"]


def test_a_batch_that_fails_is_answered_before_the_next_one_starts(serving: Any, tmp_path: Path) -> None:
    body = "return 2 * x if not (x == 13).any() else x.nonsense"
    end, slabs, told, _ = serving(net(tmp_path, body))
    fill(slabs[1], 13.0)
    fill(slabs[0], 2.0)
    end.send(exchange.encode(Run(1, 1, 4, 4)))
    end.send(exchange.encode(Run(2, 0, 4, 4)))
    first, second = ran(end), ran(end)
    assert (first.seq, first.reason, second.seq, second.error) == (1, "model_error", 2, "")
    assert told.index("answer 1") < told.index("launch 2")


def test_a_staging_that_fails_beside_another_forward_is_tried_again_alone(
    serving: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, slabs, _, forward = serving(net(tmp_path))
    real, calls = forward.overlapping.stage, []

    def stage(*args: Any) -> Any:
        calls.append(args[0])
        if len(calls) == 2:
            raise MemoryError("while the other one held the memory")
        return real(*args)

    monkeypatch.setattr(forward.overlapping, "stage", stage)
    for seq in (1, 2):
        fill(slabs[seq % 2], seq)
        end.send(exchange.encode(Run(seq, seq % 2, 4, 4)))
    assert [ran(end).error, ran(end).error] == ["", ""]
    assert calls == [1, 0, 0]
    assert output(slabs[0]) == [4.0] * 16


def test_asking_the_device_after_a_failure_leaves_the_staged_batch_as_it_was(driver: Driver, tmp_path: Path) -> None:
    # given a row that does not fit, for which an empty one is tried, while the next batch lies on the device already
    body = "\n        ".join(["if (x == 13).any():", "    raise MemoryError('too much')", "return 2 * x"])
    forward, slabs = started(net(tmp_path, body))
    fill(slabs[1], 13.0)
    fill(slabs[0], 2.0)
    said: list[Any] = []
    ours, theirs = exchange.pair()
    with ours, theirs:
        ours.send(exchange.encode(Run(1, 1, 1, 1)))
        ours.send(exchange.encode(Run(2, 0, 1, 1)))

        def answer(one: Any) -> None:
            said.append(one)
            if one.seq == 2:
                ours.close()

        device_loop.serve(theirs, board=forward.board, answer=answer, progress=Progress())
    assert [one.reason for one in said] == ["out_of_memory", ""]
    assert output(slabs[0], 1) == [4.0] * 4


ASSERT = "CUDA error: device-side assert triggered\nSearch for `cudaErrorAssert' in https://docs.nvidia.com"


def test_an_error_that_surfaces_late_is_blamed_on_its_own_batch_and_the_staged_one_never_runs(
    serving: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, _, told, forward = serving(net(tmp_path))
    real = forward.overlapping.launch

    def launch(staged: Any, rows: int) -> Any:
        landing = real(staged, rows)
        if staged.index == 1:

            def finish() -> Any:
                raise RuntimeError(ASSERT)

            landing.finish = finish
        return landing

    monkeypatch.setattr(forward.overlapping, "launch", launch)
    end.send(exchange.encode(Run(1, 1, 4, 4)))
    end.send(exchange.encode(Run(2, 0, 4, 4)))
    said = ran(end)
    assert (said.seq, said.reason) == (1, "device_fault")
    assert "launch 2" not in told[: told.index("answer 1")], "the engine's process ends with that answer"


def test_the_device_is_not_asked_about_one_batch_while_another_computes(driver: Driver, tmp_path: Path) -> None:
    forward, _ = started(net(tmp_path))
    asked: list[int] = []
    forward.backend.probe = lambda: bool(asked.append(1))  # type: ignore[method-assign]
    device_batch = forward.board(Run(1, 0, 4, 4))
    device_batch.prepare()
    device_batch.launch()
    device_batch.land()
    forward._postprocess = lambda *_: [][1 // 0]
    assert device_batch.ran(is_alone=False).reason == "model_error"
    device_batch = forward.board(Run(2, 0, 4, 4))
    device_batch.prepare()
    device_batch.launch()
    device_batch.land()

    def hopeless(*_: Any) -> Any:
        raise RuntimeError("something of the runtime")

    forward._postprocess = hopeless
    assert device_batch.ran(is_alone=False).reason == "model_error"
    assert asked == []


def test_a_backend_on_the_cpu_is_served_one_by_one(tmp_path: Path) -> None:
    backend = load(net(tmp_path), device="cpu", threads=1)
    assert not isinstance(backend, Overlapping)


# --- graphs -----------------------------------------------------------------------------------


def captured(forward: Forward) -> int:
    return len(forward.backend._graphs._captured)  # type: ignore[attr-defined]


def test_every_bucket_is_captured_in_the_warm_up_where_the_manifest_asks_for_it(driver: Driver, tmp_path: Path) -> None:
    forward, _ = started(options(net(tmp_path / "a"), cuda_graphs=True))
    assert captured(forward) == len(BUCKETS)
    plain, _ = started(net(tmp_path / "b"))
    assert plain.backend._graphs is None  # type: ignore[attr-defined]


def test_a_capture_that_fails_is_logged_once_and_the_model_runs_eagerly(
    driver: Driver, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Graph.fails = "operation not permitted when stream is capturing"
    forward, slabs = started(options(net(tmp_path), cuda_graphs=True))
    said = capsys.readouterr().err
    assert said.count("cuda graphs off") == 1
    assert Graph.fails in said
    fill(slabs[0], 3.0)
    assert forward.run(Run(1, 0, 4, 4)).error == ""
    assert output(slabs[0]) == [6.0] * 16


def test_a_device_that_broke_in_a_capture_is_not_served(driver: Driver, tmp_path: Path) -> None:
    Graph.fails = "capture failed"
    artifact = options(net(tmp_path), cuda_graphs=True)
    backend = load(artifact, device="cuda:0", threads=1)
    backend.run({"x": np.ones((1, 4), np.float32)})
    backend.probe = lambda: False  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="broke while a CUDA graph was captured: RuntimeError: capture failed"):
        backend.prepare({"x": np.ones((1, 4), np.float32)})  # type: ignore[attr-defined]


def test_out_of_memory_gives_the_graphs_memory_back_and_ends_capturing(driver: Driver, tmp_path: Path) -> None:
    forward, slabs = started(options(net(tmp_path), cuda_graphs=True))
    forward.backend.free()
    assert captured(forward) == 0
    fill(slabs[0], 3.0)
    forward.run(Run(1, 0, 4, 4))
    assert output(slabs[0]) == [6.0] * 16
    assert not forward.backend.prepare({"x": np.ones((1, 4), np.float32)})  # type: ignore[attr-defined]


# --- precision --------------------------------------------------------------------------------

PRECISE = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(4, 4)
        torch.nn.init.constant_(self.line.weight, 0.1)
    def forward(self, x):
        assert x.dtype == self.line.weight.dtype == torch.{dtype}
        return self.line(x)
"""


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_model_computes_in_the_precision_asked_for_and_jobs_keep_their_dtypes(
    driver: Driver, tmp_path: Path, dtype: str, device: str
) -> None:
    artifact = models.module_source(tmp_path, PRECISE.format(dtype=dtype), "Net", outputs=SAME, max_rows=4)
    backend = load(options(artifact, precision=dtype), device=device, threads=1)
    y: Any = backend.run({"x": np.ones((2, 4), np.float32)})["y"]
    assert (y.dtype, y.shape) == (np.float32, (2, 4))
    wide = load(options(artifact, precision=""), device=device, threads=1)
    with pytest.raises(AssertionError):
        wide.run({"x": np.ones((2, 4), np.float32)})


def test_a_program_is_exported_in_its_precision_not_cast(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"refused before it is read")
    artifact = write(tmp_path, models.manifest("pytorch", {"program": "model.pt2"}))
    with pytest.raises(ArtifactError, match="export the program in the precision"):
        options(artifact, precision="float16")


def test_integers_go_in_as_they_are_and_the_module_normalises_them(tmp_path: Path) -> None:
    body = "return ((x.to(torch.float16) - 128) / 64).float()"
    artifact = net(tmp_path, body, inputs=(TensorSpec(name="x", dtype="uint8", shape=(4,)),))
    backend: Any = load(options(artifact, precision="float16"), device="cpu", threads=1)
    assert backend.run({"x": np.full((1, 4), 192, np.uint8)})["y"].tolist() == [[1.0] * 4]


def test_the_engine_ends_when_the_slot_does(serving: Any, tmp_path: Path) -> None:
    end, slabs, told, _ = serving(net(tmp_path))
    fill(slabs[1], 1.0)
    end.send(exchange.encode(Run(1, 1, 4, 4)))
    end.close()
    wait_until(lambda: "launch 1" in told, "the last Run was taken")
