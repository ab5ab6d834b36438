"""Where the asyncio client's parcels of one tick wait for each other, and travel as one chunk."""

from __future__ import annotations

import asyncio
from collections import deque

from broker.answer import Answer
from broker.durability import Durability
from broker.errors import PenstockError
from broker.intake import CHUNK_BYTES, CHUNK_JOBS
from producer import talks
from producer.aline import AsyncLine, AsyncReader
from producer.channel import Channel
from producer.options import Options
from producer.tickets import Parcel


class Letter:
    """A parcel in the outbox, who waits for its answer, and what came: (answer, place in the chunk) or an error.

    What is accepted whole from a parcel that nobody asks about is marked as queued at once: its sender waits for the outcome.
    """

    __slots__ = ("answer", "bell", "is_asked", "parcel")

    def __init__(self, parcel: Parcel, bell: asyncio.Future[None], *, is_asked: bool) -> None:
        self.parcel = parcel
        self.bell = bell
        self.is_asked = is_asked
        self.answer: tuple[Answer, int] | PenstockError | None = None

    def settle(self, answer: tuple[Answer, int] | PenstockError) -> None:
        """Its answer came, if not what was hoped for: its sender is to look."""
        self.answer = answer
        if not self.bell.done():
            self.bell.set_result(None)

    def read(self) -> tuple[Answer, int]:
        """What was settled. Raises the error."""
        assert self.answer is not None
        if isinstance(self.answer, PenstockError):
            raise self.answer
        return self.answer


class AsyncModel(Channel):
    """One model as this producer uses it: beside the channel, the outbox and the reader of its reply list."""

    def __init__(
        self, name: str, client: str, url: str, line: AsyncLine, patience_s: float, durability: Durability
    ) -> None:
        super().__init__(name, client, durability)
        self.reader = AsyncReader(url, self.intake, self.mailbox, patience_s=patience_s)
        self.learning = asyncio.Lock()
        self.flusher: asyncio.Task[None] | None = None
        self._line = line
        self._outbox: dict[tuple[int, int, int, str], deque[Letter]] = {}

    async def post(self, parcel: Parcel, terms: Options) -> tuple[Answer, int]:
        """Puts a parcel in the outbox; its answer, and where in the answered chunk the parcel began."""
        bell: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        letter = self.drop(parcel, terms, bell)
        await bell
        return letter.read()

    def drop(self, parcel: Parcel, terms: Options, bell: asyncio.Future[None], *, is_asked: bool = True) -> Letter:
        """Puts a parcel in the outbox. It is not sent when `bell` was cancelled meanwhile."""
        letter = Letter(parcel, bell, is_asked=is_asked)
        key = (terms.lane, terms.delay_ms, terms.deadline_ms, parcel.generation)
        self._outbox.setdefault(key, deque()).append(letter)
        if self.flusher is None:
            self.flusher = asyncio.get_running_loop().create_task(self._flush())
        return letter

    async def _flush(self) -> None:
        try:
            while self._outbox:
                terms = next(iter(self._outbox))
                letters = self._take(terms)
                if letters:
                    await self._deliver(letters, terms)
                    await asyncio.sleep(0)  # lets those answered submit again before the next chunk is closed
        finally:
            self.flusher = None

    def _take(self, terms: tuple[int, int, int, str]) -> list[Letter]:
        """As many letters of the same terms and generation as make a chunk."""
        box = self._outbox[terms]
        letters: list[Letter] = []
        jobs = size = 0
        while box:
            parcel = box[0].parcel
            if letters and (jobs + len(parcel.blobs) > CHUNK_JOBS or size + parcel.size > CHUNK_BYTES):
                return letters
            letter = box.popleft()
            if not letter.bell.cancelled():  # its task may have been cancelled before it was sent
                letters.append(letter)
                jobs += len(parcel.blobs)
                size += parcel.size
        del self._outbox[terms]
        return letters

    async def _deliver(self, letters: list[Letter], terms: tuple[int, int, int, str]) -> None:
        lane, delay_ms, deadline_ms, _ = terms
        parcels = [letter.parcel for letter in letters]
        talk = talks.submit(self, parcels, lane=lane, delay_ms=delay_ms, deadline_ms=deadline_ms)
        try:
            answer = await self._line.run(talk, job_id=parcels[0].tickets[0].id)
        except PenstockError as error:
            for letter in letters:
                letter.settle(error)
            return
        offset = 0
        for at, letter in enumerate(letters):
            count = len(letter.parcel.tickets)
            part = answer.of(offset, count)
            if letter.is_asked or part.code != "ok" or part.doubt:
                letter.settle((part, offset))
            else:
                letter.parcel.accept(self, part, offset)
            offset += count
            if answer.accepted < offset and answer.is_of_one_job:
                # One job stopped the chunk; those behind it have done nothing wrong and go first in the next.
                self._outbox.setdefault(terms, deque()).extendleft(reversed(letters[at + 1 :]))
                return
