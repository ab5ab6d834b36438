"""Sending a parcel of jobs until all of it is queued, or its refusal is final: what the sync client does for a submit."""

from __future__ import annotations

import time
from typing import Any

from broker.errors import PenstockError, QueueFull
from producer import talks
from producer.channel import Packer
from producer.tickets import SPEC_TRIES, Parcel, not_durable
from producer.waiter import Model, Waiter

DRAIN_EVERY = 4096  # jobs submitted while nobody waits, before the reply list is emptied in passing


class Sender(Waiter):
    """The sending half of a Producer, which builds on it."""

    def _send(self, place: Model, packer: Packer, parcel: Parcel, until: float) -> list[Any]:
        """Queues all of the parcel, which is empty then; the handles. An error says in `.accepted` what was queued."""
        started = time.monotonic()
        mailbox = place.mailbox
        handles: list[Any] = []
        spec_tries = 0
        mailbox.expect(parcel.tickets)
        try:
            while True:
                try:
                    if parcel.bodies and not parcel.apart.is_redis:
                        self._line.run(talks.note_bodies(place, parcel))
                        parcel.apart.write(parcel.bodies)
                    terms = packer.options.after(time.monotonic() - started)
                    talk = talks.submit(
                        place, (parcel,), lane=terms.lane, delay_ms=terms.delay_ms, deadline_ms=terms.deadline_ms
                    )
                    answer = self._line.run(talk, job_id=parcel.tickets[0].id)
                    handles += parcel.accept(place, answer)
                    if parcel.bodies or parcel.spare:
                        parcel.apart.discard(parcel)
                    if answer.doubt:
                        raise not_durable(handles[-1], answer)
                    if answer.code == "ok":
                        break
                    if answer.code == "new_spec" and spec_tries < SPEC_TRIES:
                        spec_tries += 1
                        self._line.run(talks.learn_spec(place))
                        parcel.repack(place, packer)
                        continue
                    raise place.refusal(answer)
                except QueueFull as full:
                    parcel.apart.discard(parcel)
                    left = until - time.monotonic()
                    if left <= 0:
                        raise
                    time.sleep(min(full.retry_after_s, left))
        except BaseException as error:
            for ticket in parcel.tickets:
                mailbox.forget(ticket)
            if isinstance(error, PenstockError):
                error.accepted = handles
            raise
        place.unread += len(handles)
        if place.unread >= DRAIN_EVERY:
            place.unread = 0
            place.reader.drain()
        return handles
