"""The asyncio client: the sync one's names, awaited. What is said to Redis, and what it means, is shared with it.

Submits of one tick of the event loop travel together: 64 tasks that infer cost one script call, not 64. An event loop
does not survive a fork: make the AsyncProducer in the child.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from broker.durability import Durability, check
from broker.errors import InvalidInput, JobFailed, PenstockError, QueueFull
from broker.intake import new_client, split_public_id
from broker.settings import load
from producer import talks
from producer.aline import RINGS_AFTER_S, AsyncLine
from producer.apart import check_apart
from producer.asender import AsyncSender
from producer.channel import JobNumbers, at_input
from producer.options import Options, check_model, check_names, keys_for, many, options_of, seconds, until
from producer.outbox import AsyncModel
from producer.results import Result
from producer.tickets import Parcel, Sink, Ticket
from producer.window import Window, with_index


class AsyncHandle(Ticket, eq=False, gc=False):
    """One submitted job; see `Handle`."""

    async def result(self, timeout: float | None = None) -> Result:
        """As `Handle.result`."""
        timeout = seconds(timeout)
        if self._blob is None:
            await self._producer._await(self, timeout)
        result: Result = await self._producer._read(self)
        return result

    async def status(self) -> str:
        """As `Handle.status`."""
        status: str = await self._producer._status(self)
        return status

    async def cancel(self) -> bool:
        """As `Handle.cancel`."""
        return bool(await self._producer._cancel(self))


class AsyncProducer(AsyncSender):
    """Submits jobs to models and gives their results, for asyncio. An async context manager; see `Producer`."""

    def __init__(
        self,
        url: str | None = None,
        *,
        submit_timeout_s: float = 10.0,
        durability: Durability = "none",
        large_apart: bool = True,
    ) -> None:
        self.url = url or load().redis_url
        self._durability = check(durability)
        self._is_apart = check_apart(large_apart)
        self._patience_s = submit_timeout_s
        self._line = AsyncLine(self.url, patience_s=submit_timeout_s)
        self._models: dict[str, AsyncModel] = {}
        self._numbers = JobNumbers(new_client())

    @property
    def client(self) -> str:
        """The client id, the part of a job's id before its number."""
        return self._numbers.client

    async def __aenter__(self) -> AsyncProducer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Waits for submits under way, then hangs up. Does not wait for results; jobs go on."""
        for model in self._models.values():
            if model.flusher is not None:
                await asyncio.wait((model.flusher,))
        for model in self._models.values():
            await model.reader.close()
        await self._line.close()

    # --- submitting -------------------------------------------------------------------------

    async def submit(
        self,
        model: str,
        inputs: Any,
        *,
        wait_s: float | None = None,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> AsyncHandle:
        """As `Producer.submit`."""
        keys = iter((idempotency_key,)) if idempotency_key is not None else None
        terms = options_of("submit", options)
        return (await self._submit_all(model, (inputs,), terms, until(wait_s), keys=keys, is_many=False))[0]

    async def infer(self, model: str, inputs: Any, timeout: float | None = None, **options: Any) -> Result:
        """As `Producer.infer`."""
        check_names("infer", options)
        timeout = seconds(timeout)
        if "idempotency_key" in options or (timeout is not None and timeout < RINGS_AFTER_S):
            return await (await self.submit(model, inputs, **options)).result(timeout)
        place, room_until = await self._place(model), until(options.pop("wait_s", None))
        packer, parcel = place.packer(options_of("infer", options)), Parcel()
        parcel.pack(AsyncHandle, self, place, packer, inputs, None)
        handle: AsyncHandle = parcel.tickets[0]
        if parcel.bodies:
            await self._send(place, packer, parcel, room_until)
        else:
            await self._send_and_await(place, packer, parcel, room_until)
        if handle._blob is None:
            await self._await(handle, timeout, since=handle._since)
        return await self._read(handle)

    async def submit_many(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        wait_s: float | None = None,
        idempotency_keys: Iterable[str] | None = None,
        **options: Any,
    ) -> list[AsyncHandle]:
        """As `Producer.submit_many`."""
        inputs = many("submit_many", inputs)
        keys = keys_for(inputs, idempotency_keys)
        return await self._submit_all(model, inputs, options_of("submit_many", options), until(wait_s), keys=keys)

    async def map(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        window: int = 1024,
        ordered: bool = True,
        timeout: float | None = None,
        return_errors: bool = False,
        **options: Any,
    ) -> AsyncIterator[Any]:
        """As `Producer.map`."""
        terms, timeout = options_of("map", options), seconds(timeout)
        state = Window(many("map", inputs), size=window, is_ordered=ordered)
        while not state.is_done():
            if state.to_submit(time.monotonic()):
                try:
                    state.submitted(await self._submit_all(model, state.rest, terms, 0.0, sink=state.sink))
                except QueueFull as full:
                    state.submitted(full.accepted, not_before=time.monotonic() + full.retry_after_s)
                continue
            first = state.next_out()
            if first is None:
                await asyncio.sleep(state.pause_s(time.monotonic()))
                continue
            await self._await(first, timeout, state.sink)
            ticket, index = state.take()
            try:
                yield await self._read(ticket, index)
            except JobFailed as error:
                if not return_errors:
                    raise
                yield with_index(error, index)

    async def result(self, id: str, timeout: float | None = None) -> Result:
        """As `Producer.result`."""
        return await self.handle(id).result(timeout)

    def handle(self, id: str) -> AsyncHandle:
        """As `Producer.handle`."""
        name, job = split_public_id(id)
        return AsyncHandle(self, self._model(name), job, 0)

    # --- sending ----------------------------------------------------------------------------

    def _model(self, name: str) -> AsyncModel:
        place = self._models.get(check_model(name))
        if place is None:
            place = self._models[name] = AsyncModel(
                name, self.client, self.url, self._line, self._patience_s, self._durability
            )
            place.apart.is_wanted = self._is_apart
        return place

    async def _place(self, name: str) -> AsyncModel:
        place = self._model(name)
        if place.must_learn:
            async with place.learning:
                if place.must_learn:
                    await self._line.run(talks.learn_spec(place))
        return place

    async def _submit_all(
        self,
        model: str,
        inputs: Iterable[Any],
        terms: Options,
        until: float,
        *,
        keys: Iterator[str] | None = None,
        sink: Sink | None = None,
        is_many: bool = True,
    ) -> list[AsyncHandle]:
        place = await self._place(model)
        packer = place.packer(terms)
        handles: list[AsyncHandle] = []
        parcel = Parcel(sink)
        try:
            for index, one in enumerate(inputs):
                try:
                    parcel.pack(AsyncHandle, self, place, packer, one, next(keys) if keys is not None else None)
                except InvalidInput as error:
                    raise (at_input(error, index, len(handles)) if is_many else error) from None
                if parcel.is_full:
                    handles += await self._send(place, packer, parcel, until)
            if parcel.tickets:
                handles += await self._send(place, packer, parcel, until)
        except PenstockError as error:
            error.accepted = handles + error.accepted
            raise
        return handles
