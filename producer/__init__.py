"""Penstock for upstream apps: submit inference jobs, sync or asyncio, and get their results. Imports only `broker`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from broker.errors import (
    ConfigError,
    InvalidInput,
    JobCancelled,
    JobDead,
    JobExpired,
    JobFailed,
    KeyConflict,
    PayloadTooLarge,
    PenstockError,
    QueueFull,
    RedisUnavailable,
    Refused,
    ResultExpired,
    ResultTimeout,
    RunError,
    RunFailed,
    StaleRequest,
    StoreError,
    SubmitNotDurable,
    SubmitUnknown,
    UnknownModel,
)
from producer.client import Producer
from producer.handle import Handle
from producer.results import Result

if TYPE_CHECKING:
    from producer import runs
    from producer.aio import AsyncHandle, AsyncProducer

__all__ = [
    "AsyncHandle",
    "AsyncProducer",
    "ConfigError",
    "Handle",
    "InvalidInput",
    "JobCancelled",
    "JobDead",
    "JobExpired",
    "JobFailed",
    "KeyConflict",
    "PayloadTooLarge",
    "PenstockError",
    "Producer",
    "QueueFull",
    "RedisUnavailable",
    "Refused",
    "Result",
    "ResultExpired",
    "ResultTimeout",
    "RunError",
    "RunFailed",
    "StaleRequest",
    "StoreError",
    "SubmitNotDurable",
    "SubmitUnknown",
    "UnknownModel",
    "runs",
]


def __getattr__(name: str) -> Any:
    if name in ("AsyncProducer", "AsyncHandle"):  # asyncio is loaded only by those who use it
        from producer import aio

        return getattr(aio, name)
    if name == "runs":
        return import_module("producer.runs")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
