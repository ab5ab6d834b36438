"""Sending a parcel of jobs until all of it is queued, or its refusal is final: `sender` with awaits."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from broker.errors import PenstockError, QueueFull, SubmitNotDurable, SubmitUnknown
from producer import talks
from producer.awaiter import AsyncWaiter
from producer.channel import Packer
from producer.outbox import AsyncModel, Letter
from producer.tickets import SPEC_TRIES, Parcel, not_durable


class AsyncSender(AsyncWaiter):
    """The sending half of an AsyncProducer, which builds on it."""

    async def _send_and_await(self, place: AsyncModel, packer: Packer, parcel: Parcel, until: float) -> None:
        """Sends a parcel of one job without a body apart, and waits a second for its outcome. As long as all goes well the
        task is woken once, by the outcome; being woken is the most of what a job costs a client with many in flight."""
        ticket = parcel.tickets[0]
        place.mailbox.expect((ticket,))
        try:
            bell = place.reader.bell(ticket)
            letter = place.drop(parcel, packer.options, bell, is_asked=False)
            await bell
            if ticket._blob is None and ticket._answer is None and letter.answer is None:
                letter.is_asked, letter.bell = True, asyncio.get_running_loop().create_future()
                await letter.bell
        except BaseException:
            place.mailbox.forget(ticket)
            raise
        finally:
            place.reader.silence(ticket)
        if ticket._blob is None and letter.answer is not None:
            await self._send(place, packer, parcel, until, letter)

    async def _send(
        self, place: AsyncModel, packer: Packer, parcel: Parcel, until: float, letter: Letter | None = None
    ) -> list[Any]:
        """As the sync one; `letter` was answered already."""
        started = time.monotonic()
        mailbox = place.mailbox
        handles: list[Any] = []
        spec_tries = 0
        mailbox.expect(parcel.tickets)
        try:
            while True:
                try:
                    if parcel.bodies and not parcel.apart.is_redis:
                        await self._line.run(talks.note_bodies(place, parcel))
                        await asyncio.to_thread(parcel.apart.write, parcel.bodies)
                    if letter is None:
                        answer, offset = await place.post(parcel, packer.options.after(time.monotonic() - started))
                    else:
                        sent, letter = letter, None
                        answer, offset = sent.read()
                    handles += parcel.accept(place, answer, offset)
                    if parcel.bodies or parcel.spare:
                        await self._discard(parcel)
                    if answer.doubt and handles:
                        raise not_durable(handles[-1], answer)
                    if answer.code == "ok":
                        break
                    if answer.code == "new_spec" and spec_tries < SPEC_TRIES:
                        spec_tries += 1
                        await self._line.run(talks.learn_spec(place))
                        parcel.repack(place, packer)
                        continue
                    raise place.refusal(answer)
                except QueueFull as full:
                    await self._discard(parcel)
                    left = until - time.monotonic()
                    if left <= 0:
                        raise
                    await asyncio.sleep(min(full.retry_after_s, left))
        except BaseException as error:
            for ticket in parcel.tickets:
                mailbox.forget(ticket)
            # One error is shared by all who travelled together: each gets its own id.
            if isinstance(error, SubmitUnknown) and not isinstance(error, SubmitNotDurable):
                job_id = parcel.tickets[0].id
                error = SubmitUnknown(str(error).replace(error.job_id, job_id), job_id=job_id)
            if isinstance(error, PenstockError):
                error.accepted = handles
            raise error
        return handles

    async def _discard(self, parcel: Parcel) -> None:
        if not parcel.apart.is_redis and (parcel.bodies or parcel.spare):
            await asyncio.to_thread(parcel.apart.discard, parcel)
