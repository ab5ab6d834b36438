"""Each backend behind a real slot on a real Redis: what comes back is what numpy gives, whoever asks and however much."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from producer import AsyncProducer, JobFailed, Producer
from tests import models
from workers.artifact import Artifact, write
from workers.testing import LocalPool, local_pool

pytest.importorskip("torch", reason="needs the workers extra")

Floats = NDArray[np.float32]
TIMEOUT_S = 20
LONGEST = 32


def renamed(artifact: Artifact, name: str) -> Artifact:
    return write(artifact.folder, msgspec.structs.replace(artifact.manifest, name=name))


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    folder = tmp_path_factory.mktemp("artifacts")
    return [
        models.mlp(folder / "mlp"),
        models.torch_module(folder / "module", name="module"),
        renamed(models.program(folder / "program"), "program"),
        renamed(models.torchscript(folder / "torchscript"), "torchscript"),
        models.seq_mean(folder / "seq"),
        models.text_length(folder / "text"),
        models.raising(folder / "raising"),
    ]


@pytest.fixture(scope="module")
def pool(artifacts: list[Artifact]) -> Iterator[LocalPool]:
    """One slot per model, all in this process."""
    with local_pool(*(artifact.folder for artifact in artifacts)) as running:
        yield running


@pytest.fixture(scope="module")
def producer(pool: LocalPool) -> Iterator[Producer]:
    with Producer(pool.url) as producer:
        yield producer


def normal(*shape: int) -> Floats:
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


def linear(x: Floats) -> Floats:
    return x @ models.LINEAR_WEIGHT.T + models.LINEAR_BIAS


def mlp(artifact: Artifact) -> Callable[[Floats], Floats]:
    """The example's graph, computed by numpy from its own weights."""
    import onnx

    graph = onnx.load_from_string((artifact.folder / "model.onnx").read_bytes()).graph
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def run(x: Floats) -> Floats:
        for layer in range(3):
            x = x @ weights[f"w{layer}"] + weights[f"b{layer}"]
            x = np.maximum(x, 0) if layer < 2 else x
        return x

    return run


def reference(name: str, artifacts: list[Artifact]) -> tuple[int, str, Callable[[Floats], Floats]]:
    """(width of a row, name of the output, what numpy computes)."""
    return (64, "logits", mlp(artifacts[0])) if name == "mlp" else (4, "y", linear)


@pytest.mark.parametrize("name", ["mlp", "module", "program", "torchscript"])
def test_a_flood_to_each_backend_is_answered_with_what_numpy_gives(
    name: str, producer: Producer, artifacts: list[Artifact]
) -> None:
    # given
    width, output, wanted = reference(name, artifacts)
    x = normal(500, width)
    # when
    handles = producer.submit_many(name, list(x))
    results = [handle.result(TIMEOUT_S) for handle in handles]
    # then each job has its own row's answer
    got = np.stack([result[output] for result in results])
    np.testing.assert_allclose(got, wanted(x), rtol=1e-4, atol=1e-5)
    assert {(type(result[output]), result.version, result.attempt) for result in results} == {(np.ndarray, "1", 1)}
    assert all(result.timings.total_ms >= result.timings.forward_ms > 0 for result in results)


@pytest.mark.parametrize("name", ["mlp", "module", "program", "torchscript"])
def test_a_job_of_more_rows_than_a_batch_takes_comes_back_whole(
    name: str, producer: Producer, artifacts: list[Artifact]
) -> None:
    width, output, wanted = reference(name, artifacts)
    x = normal(600, width)
    result = producer.infer(name, x, TIMEOUT_S)
    np.testing.assert_allclose(result[output], wanted(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "module", "program", "torchscript"])
def test_the_asyncio_producer_gets_the_same_from_every_backend(
    name: str, pool: LocalPool, artifacts: list[Artifact]
) -> None:
    # given
    width, output, wanted = reference(name, artifacts)
    x = normal(100, width)

    async def ask() -> list[Floats]:
        async with AsyncProducer(pool.url) as producer:
            alone = asyncio.gather(*(producer.infer(name, row, TIMEOUT_S) for row in x[:50]))
            together = await producer.submit_many(name, list(x[50:]))
            return [result[output] for result in await alone] + [
                (await handle.result(TIMEOUT_S))[output] for handle in together
            ]

    # when
    got = asyncio.run(ask())
    # then
    np.testing.assert_allclose(np.stack(got), wanted(x), rtol=1e-4, atol=1e-5)


def sequences(count: int) -> list[dict[str, Floats]]:
    random = np.random.default_rng(3)
    lengths = [1, LONGEST, 8, 9, *random.integers(1, LONGEST + 1, count - 4)]
    return [
        {"x": random.normal(size=(length, 3)).astype(np.float32), "mask": np.ones(length, np.float32)}
        for length in lengths
    ]


def test_sequences_of_all_lengths_in_one_flood_are_not_mixed_up(producer: Producer) -> None:
    many = sequences(400)
    results = list(producer.map("seq", many, window=400, timeout=TIMEOUT_S))
    for one, result in zip(many, results, strict=True):
        np.testing.assert_allclose(result["mean"], one["x"].mean(axis=0), rtol=1e-4, atol=1e-5)


def test_sequences_asked_for_by_asyncio_come_as_completed_with_their_place(pool: LocalPool) -> None:
    many = sequences(200)

    async def ask() -> dict[int, Floats]:
        async with AsyncProducer(pool.url) as producer:
            found = producer.map("seq", many, ordered=False, timeout=TIMEOUT_S)
            return {result.index: result["mean"] async for result in found}

    got = asyncio.run(ask())
    assert sorted(got) == list(range(200))
    for index, mean in got.items():
        np.testing.assert_allclose(mean, many[index]["x"].mean(axis=0), rtol=1e-4, atol=1e-5)


def test_texts_go_through_the_artifacts_own_pipeline_and_an_empty_one_fails_alone(producer: Producer) -> None:
    # given
    texts = ["a" * length for length in range(1, 101)]
    texts[41] = ""
    texts[7] = "\u00e5\u00df\u6f22\U0001f600"  # of two, two, three and four bytes: characters are counted, not bytes
    # when
    handles = producer.submit_many("text", texts)
    # then
    with pytest.raises(JobFailed, match="ValueError: empty text") as caught:
        handles[41].result(TIMEOUT_S)
    assert (caught.value.reason, caught.value.job_id) == ("input_error", handles[41].id)
    for text, handle in zip(texts, handles, strict=True):
        if text:
            assert handle.result(TIMEOUT_S).value == {"length": len(text)}


def test_a_model_that_raises_fails_the_bad_job_only(producer: Producer) -> None:
    # given
    x = normal(64, 4)
    x[17, 0] = 13
    # when
    handles = producer.submit_many("raising", list(x))
    # then
    with pytest.raises(JobFailed, match="ValueError: 13 is not to my taste") as caught:
        handles[17].result(TIMEOUT_S)
    assert (caught.value.reason, caught.value.job_id) == ("model_error", handles[17].id)
    for at, handle in enumerate(handles):
        if at != 17:
            np.testing.assert_array_equal(handle.result(TIMEOUT_S)["y"], x[at] * 2)


def test_a_model_that_raises_fails_the_bad_job_only_under_asyncio_too(pool: LocalPool) -> None:
    x = normal(40, 4)
    x[3, 0] = x[30, 0] = 13

    async def ask() -> list[Any]:
        async with AsyncProducer(pool.url) as producer:
            handles = await producer.submit_many("raising", list(x))
            return await asyncio.gather(*(handle.result(TIMEOUT_S) for handle in handles), return_exceptions=True)

    got = asyncio.run(ask())
    assert [at for at, one in enumerate(got) if isinstance(one, JobFailed)] == [3, 30]
    for at, one in enumerate(got):
        if at not in (3, 30):
            np.testing.assert_array_equal(one["y"], x[at] * 2)


def test_a_spawned_engine_gives_the_same_and_survives_a_job_that_raises(artifacts: list[Artifact]) -> None:
    # given a torch model in a process of its own
    x = normal(300, 4)
    x[100, 0] = 13
    with local_pool(artifacts[6].folder, is_inline=False) as pool, Producer(pool.url) as producer:
        # when
        handles = producer.submit_many("raising", list(x))
        # then
        with pytest.raises(JobFailed, match="13 is not to my taste"):
            handles[100].result(TIMEOUT_S)
        for at, handle in enumerate(handles):
            if at != 100:
                np.testing.assert_array_equal(handle.result(TIMEOUT_S)["y"], x[at] * 2)

        async def ask() -> Floats:
            async with AsyncProducer(pool.url) as other:
                answer: Floats = (await other.infer("raising", x[:5], TIMEOUT_S))["y"]
                return answer

        np.testing.assert_array_equal(asyncio.run(ask()), x[:5] * 2)
