"""What can go wrong under a batch, how it is recognised, and what follows: one row a kind. Pure; imports neither torch nor redis.

Errors of torch and ONNX Runtime are read by type name, error code and, as a last resort, text. What the text leaves open
is settled by whoever asks: `needs_probe` means that only a kernel on the device can tell whether its context still works.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import Literal

import msgspec


class Kind(Enum):
    """The kinds of failure the pool tells apart."""

    INPUT_ERROR = "input error"
    USER_CODE_ERROR = "user code error"
    TRANSIENT = "transient"
    OUT_OF_MEMORY = "out of memory"
    DEVICE_FULL = "no memory for anyone"
    DEVICE_FAULT = "sticky device error"
    DEVICE_BROKEN = "the hardware's own error"
    ENGINE_DEATH = "engine death"
    HANG = "hang"
    REDIS_LOSS = "redis loss"
    STORE_AWAY = "store of large bodies away"


class Action(Enum):
    """What the slot does with the batch."""

    FAIL_ROW = "the row fails alone, the batch goes on"
    BISECT = "halve it by jobs until those at fault stand alone"
    HALVE = "free memory, halve it by rows, remember the cap"
    RETURN = "return it unharmed and exit: the next life serves once there is room, and says so until then"
    GIVE_BACK = "give it back with a crash mark and exit: only a new process helps"
    HOLD = "keep it, back off, settle late"


class Policy(msgspec.Struct, frozen=True):
    """One row of the table. `reason` is what outcomes, counters and logs carry."""

    reason: str
    action: Action
    ends: Literal["failed", "dead"]  # how a job that stands alone with it ends
    alone_reason: str = ""  # the reason of that end, where it is another
    is_retried: bool = False  # while the job has retries left
    first_ms: int = 0  # back-off before the second attempt, doubled from there on
    most_ms: int = 0


POLICIES = {
    Kind.INPUT_ERROR: Policy("input_error", Action.FAIL_ROW, "failed"),
    Kind.USER_CODE_ERROR: Policy("model_error", Action.BISECT, "failed"),
    # What another try may mend: a pipeline that asks elsewhere and was not answered.
    Kind.TRANSIENT: Policy("transient_error", Action.BISECT, "failed", is_retried=True, first_ms=1_000, most_ms=60_000),
    Kind.OUT_OF_MEMORY: Policy("out_of_memory", Action.HALVE, "dead", alone_reason="does_not_fit"),
    # Not even an empty row fits, though it did in the warm-up: no job is to blame, and none must die of it.
    Kind.DEVICE_FULL: Policy("device_full", Action.RETURN, "failed"),
    # Nor here: a GPU that fails in traffic would mark whoever is on it, batch after batch, until they are dead.
    Kind.DEVICE_BROKEN: Policy("device_broken", Action.RETURN, "failed"),
    # Marked jobs come back alone; the third mark ends them, so these need no retries of their own.
    Kind.DEVICE_FAULT: Policy("device_fault", Action.GIVE_BACK, "dead"),
    Kind.ENGINE_DEATH: Policy("engine_died", Action.GIVE_BACK, "dead"),
    Kind.HANG: Policy("hang", Action.GIVE_BACK, "dead"),
    Kind.REDIS_LOSS: Policy("redis_lost", Action.HOLD, "failed", is_retried=True, first_ms=50, most_ms=2_000),
    # A folder of another machine, an object store that does not answer: the job never ran, and keeps its body as a dead letter.
    Kind.STORE_AWAY: Policy("store_away", Action.FAIL_ROW, "dead", is_retried=True, first_ms=1_000, most_ms=60_000),
}
RETRIES_EXHAUSTED = "retries_exhausted"  # the reason of a job that asked for retries and had them all
_BY_REASON = {policy.reason: kind for kind, policy in POLICIES.items()}


def policy_of(reason: str) -> Policy:
    """The row a reason stands for; reasons of single rows (`output_out_of_bounds`, ...) end like an input error."""
    return POLICIES[_BY_REASON.get(reason, Kind.INPUT_ERROR)]


def backoff_ms(policy: Policy, attempt: int, draw: float) -> int:
    """Full jitter: `draw` (0 to 1) of the exponential wait after `attempt` (from 1) attempts."""
    return round(draw * min(policy.most_ms, policy.first_ms << min(attempt - 1, 32)))


# --- device errors ----------------------------------------------------------------------------


class DeviceCode(msgspec.Struct, frozen=True):
    """A CUDA error: number and name of the runtime, and its text where a message may carry that alone."""

    code: int
    name: str
    text: str = ""


# cudaError_t of driver_types.h (CUDA 13.0) whose comment says "the process must be terminated and relaunched".
_DOCUMENTED_STICKY = (
    DeviceCode(226, "cudaErrorContained", "Invalid access of peer GPU memory over nvlink or a hardware error"),
    DeviceCode(700, "cudaErrorIllegalAddress", "an illegal memory access was encountered"),
    DeviceCode(702, "cudaErrorLaunchTimeout", "the launch timed out and was terminated"),
    DeviceCode(710, "cudaErrorAssert", "device-side assert triggered"),
    DeviceCode(714, "cudaErrorHardwareStackError", "hardware stack error"),
    DeviceCode(715, "cudaErrorIllegalInstruction", "an illegal instruction was encountered"),
    DeviceCode(716, "cudaErrorMisalignedAddress", "misaligned address"),
    DeviceCode(717, "cudaErrorInvalidAddressSpace", "operation not supported on global/shared address space"),
    DeviceCode(718, "cudaErrorInvalidPc", "invalid program counter"),
    DeviceCode(719, "cudaErrorLaunchFailure", "unspecified launch failure"),
    DeviceCode(721, "cudaErrorTensorMemoryLeak"),
    DeviceCode(810, "cudaErrorMpsClientTerminated"),
    DeviceCode(911, "cudaErrorExternalDevice"),
)
# Not called sticky there, and still no context to go on with: the device is gone, or its memory is not to be trusted.
_FATAL_TOO = (
    DeviceCode(46, "cudaErrorDevicesUnavailable", "CUDA-capable device(s) is/are busy or unavailable"),
    DeviceCode(214, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"),
    DeviceCode(220, "cudaErrorNvlinkUncorrectable", "uncorrectable NVLink error detected during the execution"),
    DeviceCode(709, "cudaErrorContextIsDestroyed", "context is destroyed"),
    DeviceCode(999, "cudaErrorUnknown", "unknown error"),
)
_MEMORY = DeviceCode(2, "cudaErrorMemoryAllocation", "out of memory")
# The call failed, the context goes on: what the model did is to blame.
_HARMLESS = (
    DeviceCode(701, "cudaErrorLaunchOutOfResources", "too many resources requested for launch"),
    DeviceCode(900, "cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"),
    DeviceCode(901, "cudaErrorStreamCaptureInvalidated"),
    DeviceCode(902, "cudaErrorStreamCaptureMerge"),
    DeviceCode(903, "cudaErrorStreamCaptureUnmatched"),
    DeviceCode(904, "cudaErrorStreamCaptureUnjoined"),
    DeviceCode(905, "cudaErrorStreamCaptureIsolation"),
    DeviceCode(906, "cudaErrorStreamCaptureImplicit"),
    DeviceCode(907, "cudaErrorCapturedEvent"),
    DeviceCode(908, "cudaErrorStreamCaptureWrongThread"),
)
STICKY = frozenset(known.code for known in _DOCUMENTED_STICKY + _FATAL_TOO)
# Of these no kernel can be the cause: a device or a link that fails, or another process on it (MPS, an external device).
HARDWARE = frozenset((46, 214, 220, 226, 810, 911))
KNOWN = (*_DOCUMENTED_STICKY, *_FATAL_TOO, _MEMORY, *_HARMLESS)
_BY_CODE = {known.code: known for known in KNOWN}
_BY_NAME = {known.name: known for known in KNOWN}

_NAME = re.compile(r"\bcudaError[A-Z]\w+")
_ORT_CODE = re.compile(r"\bCUDA failure (\d+):")  # onnxruntime's cuda_call.cc: "CUDA failure 700: ... ; GPU=0 ; ..."
_SPEAKS_OF_CUDA = re.compile(r"\bCUDA(?: driver)? (?:error|failure)|Triton Error \[CUDA\]")
_MEMORY_TEXTS = (
    "CUDA out of memory",
    "HIP out of memory",
    "DefaultCPUAllocator: can't allocate memory",  # torch on the host
    "DefaultCPUAllocator: not enough memory",
    "Failed to allocate memory for requested buffer",  # onnxruntime's BFCArena, host and device
    " is smaller than requested bytes of ",  # the same with gpu_mem_limit
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
)
CHAIN = 8  # causes of an error that are looked at


class Finding(msgspec.Struct, frozen=True):
    """What an error is, as far as it tells itself. `code` is the device's, where it names one."""

    kind: Kind
    needs_probe: bool = False
    code: DeviceCode | None = None


def classify(error: BaseException) -> Finding:
    """Reads an error and what it was raised from: a wrapped device error is one all the same."""
    findings = [_read(one) for one in _chain(error)]
    for finding in findings:
        if finding.kind in (Kind.DEVICE_FAULT, Kind.DEVICE_BROKEN):
            return finding
    needs_probe = any(finding.needs_probe for finding in findings)
    if findings[0].kind is not Kind.TRANSIENT:
        for finding in findings:
            if finding.kind is Kind.OUT_OF_MEMORY:
                return finding
    kind = Kind.TRANSIENT if findings[0].kind is Kind.TRANSIENT else Kind.USER_CODE_ERROR
    return Finding(kind, needs_probe, next((one.code for one in findings if one.code is not None), None))


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    for _ in range(CHAIN):
        if one is None:
            return
        yield one
        one = one.__cause__ or one.__context__


def _read(error: BaseException) -> Finding:
    """One error by itself."""
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    # Before AcceleratorError: the two are siblings, and older torch raises the first with the text of the second.
    if "torch.OutOfMemoryError" in kinds or isinstance(error, MemoryError):
        return Finding(Kind.OUT_OF_MEMORY)
    if isinstance(error, ConnectionError | TimeoutError):
        return Finding(Kind.TRANSIENT)
    is_runtime = isinstance(error, RuntimeError) or any(kind.startswith("onnxruntime.capi.") for kind in kinds)
    if not is_runtime:
        return Finding(Kind.USER_CODE_ERROR)  # a text of the user's own says nothing about the device
    text = str(error)
    code = _code_of(error, text)
    if code is not None and code.code in STICKY:
        return Finding(Kind.DEVICE_BROKEN if code.code in HARDWARE else Kind.DEVICE_FAULT, code=code)
    if code is _MEMORY or any(known in text for known in _MEMORY_TEXTS):
        return Finding(Kind.OUT_OF_MEMORY, code=code)
    # Any error of a runtime may be the first sign of a broken context: errors of the device come late.
    return Finding(Kind.USER_CODE_ERROR, needs_probe=True, code=code)


def _code_of(error: BaseException, text: str) -> DeviceCode | None:
    """The CUDA error by attribute, name, number or text, in this order of trust."""
    number = getattr(error, "error_code", None)
    if isinstance(number, int) and number in _BY_CODE:
        return _BY_CODE[number]
    for name in _NAME.findall(text):
        if name in _BY_NAME:
            return _BY_NAME[name]
    if found := _ORT_CODE.search(text):
        return _BY_CODE.get(int(found[1]))
    if _SPEAKS_OF_CUDA.search(text):
        return next((known for known in KNOWN if known.text and known.text in text), None)
    return None


def describe(error: BaseException, finding: Finding) -> str:
    """One line for people: the device error's name first, since the rest is often three lines of advice."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{finding.code.name} ({finding.code.code}): {text}" if finding.code is not None else text
