"""Errors as torch and ONNX Runtime raise them, and what the table says of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from broker.errors import ArtifactError
from workers.failures import HARDWARE, KNOWN, POLICIES, STICKY, Action, Kind, backoff_ms, classify, describe, policy_of

ASSERT = """CUDA error: device-side assert triggered
Search for `cudaErrorAssert' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more information.
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
"""
ORT_700 = (
    "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=a ; expr=cudaMemcpy(dst, src, 4);"
)


def raised(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the test asks about
        return error
    raise AssertionError("nothing was raised")


# --- torch ------------------------------------------------------------------------------------


def test_torch_errors_are_read_by_class_code_and_text() -> None:
    torch = pytest.importorskip("torch")
    with_code: Any = torch.AcceleratorError("CUDA error: something nobody has seen")
    with_code.error_code = 719
    for error, kind, needs_probe in (
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), Kind.OUT_OF_MEMORY, False),
        (torch.OutOfMemoryError("CUDA error: device-side assert triggered"), Kind.OUT_OF_MEMORY, False),
        (torch.AcceleratorError(ASSERT), Kind.DEVICE_FAULT, False),
        (torch.AcceleratorError("CUDA error: out of memory"), Kind.OUT_OF_MEMORY, False),
        (torch.AcceleratorError("CUDA error: invalid configuration argument"), Kind.USER_CODE_ERROR, True),
        (torch.AcceleratorError("CUDA error: too many resources requested for launch"), Kind.USER_CODE_ERROR, True),
        (with_code, Kind.DEVICE_FAULT, False),
    ):
        found = classify(error)
        assert (found.kind, found.needs_probe) == (kind, needs_probe), error
    assert describe(with_code, classify(with_code)).startswith("cudaErrorLaunchFailure (719): AcceleratorError: CUDA")


def test_torch_without_memory_on_the_host_is_out_of_memory_too() -> None:
    torch = pytest.importorskip("torch")
    assert classify(raised(lambda: torch.empty(1 << 50))).kind is Kind.OUT_OF_MEMORY
    assert classify(raised(lambda: torch.empty(2) @ torch.empty(3))).kind is Kind.USER_CODE_ERROR


# --- ONNX Runtime -----------------------------------------------------------------------------


def filled() -> Any:
    """A session of one ConstantOfShape: its input is the shape of its output."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("ConstantOfShape", ["n"], ["y"])], "filled",
        [helper.make_tensor_value_info("n", TensorProto.INT64, [None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_onnx_runtime_without_memory_is_out_of_memory_and_its_other_errors_are_the_models() -> None:
    session = filled()

    def run(shape: object) -> Exception:
        return raised(lambda: session.run(None, {"n": np.array(shape, np.int64)}))

    too_much, wrong_rank, overflow = run([1 << 44]), run([[1, 1]]), run([1 << 62, 4])
    assert classify(too_much).kind is Kind.OUT_OF_MEMORY
    assert "Failed to allocate memory for requested buffer" in str(too_much)
    for error in (wrong_rank, overflow):
        assert classify(error).kind is Kind.USER_CODE_ERROR, error


def test_device_errors_of_onnx_runtime_are_read_from_their_text() -> None:
    state = pytest.importorskip("onnxruntime").capi.onnxruntime_pybind11_state
    for kind_of_error, text, kind in (
        (state.RuntimeException, f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : {ORT_700}", Kind.DEVICE_FAULT),
        (state.Fail, f"[ONNXRuntimeError] : 1 : FAIL : {ORT_700}", Kind.DEVICE_FAULT),
        (state.EPFail, ORT_700, Kind.DEVICE_FAULT),
        (state.Fail, "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size);", Kind.OUT_OF_MEMORY),
        (state.Fail, "Available memory of 1024 is smaller than requested bytes of 4096", Kind.OUT_OF_MEMORY),
        (state.Fail, "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ;", Kind.OUT_OF_MEMORY),
    ):
        assert classify(kind_of_error(text)).kind is kind, text
    unclear = classify(state.Fail("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0 ;"))
    assert (unclear.kind, unclear.needs_probe) == (Kind.USER_CODE_ERROR, True), "only a kernel can tell"


# --- everything else --------------------------------------------------------------------------


def test_what_users_raise_is_theirs_whatever_its_text_says() -> None:
    for error in (
        ValueError("CUDA error: device-side assert triggered"),
        KeyError("x"),
        ArtifactError("out of memory"),
    ):
        found = classify(error)
        assert (found.kind, found.needs_probe) == (Kind.USER_CODE_ERROR, False)
    assert classify(MemoryError()).kind is Kind.OUT_OF_MEMORY
    assert classify(ConnectionError("the feature store is away")).kind is Kind.TRANSIENT
    assert classify(TimeoutError()).kind is Kind.TRANSIENT


def test_a_device_error_that_was_wrapped_is_one_all_the_same() -> None:
    def wrap(first: Exception, then: Exception) -> Exception:
        try:
            try:
                raise first
            except Exception:  # noqa: BLE001 - as users do
                raise then from None
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the test asks about
            return error

    assert classify(wrap(RuntimeError(ASSERT), ValueError("my model failed"))).kind is Kind.DEVICE_FAULT
    assert classify(wrap(RuntimeError(ASSERT), ConnectionError("away"))).kind is Kind.DEVICE_FAULT
    assert classify(wrap(MemoryError(), ValueError("my model failed"))).kind is Kind.OUT_OF_MEMORY
    assert classify(wrap(KeyError("x"), ConnectionError("away"))).kind is Kind.TRANSIENT
    assert classify(wrap(ConnectionError("away"), ValueError("no features"))).kind is Kind.USER_CODE_ERROR
    loop = ValueError("its own cause")
    loop.__cause__ = loop
    assert classify(loop).kind is Kind.USER_CODE_ERROR


def test_every_documented_sticky_error_is_found_by_name_and_by_number() -> None:
    documented = {226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911}
    assert documented | {46, 214, 220, 709, 999} == STICKY
    assert {2, 701, *range(900, 909)} & STICKY == set()
    for known in KNOWN:
        by_name = classify(RuntimeError(f"CUDA error: some text\nSearch for `{known.name}' in https://docs.nvidia.com"))
        by_number = classify(RuntimeError(f"CUDA failure {known.code}: some text ; GPU=0 ;"))
        for found in (by_name, by_number):
            is_sticky = found.kind in (Kind.DEVICE_FAULT, Kind.DEVICE_BROKEN)
            assert (found.code, is_sticky) == (known, known.code in STICKY), known
            assert (found.kind is Kind.DEVICE_BROKEN) == (known.code in HARDWARE), known


def test_every_kind_has_its_row_and_every_reason_leads_back_to_it() -> None:
    assert set(POLICIES) == set(Kind)
    assert len({policy.reason for policy in POLICIES.values()}) == len(Kind)
    for policy in POLICIES.values():
        assert policy_of(policy.reason) is policy
        assert policy.is_retried == (policy.first_ms > 0) == (policy.most_ms > 0)
    assert policy_of("output_out_of_bounds").action is Action.FAIL_ROW


def test_back_off_doubles_up_to_the_most_and_is_drawn_from_zero_up() -> None:
    policy = POLICIES[Kind.TRANSIENT]
    assert [backoff_ms(policy, attempt, 1.0) for attempt in (1, 2, 3, 7, 255)] == [1000, 2000, 4000, 60_000, 60_000]
    assert (backoff_ms(policy, 3, 0.0), backoff_ms(policy, 3, 0.5)) == (0, 2000)
