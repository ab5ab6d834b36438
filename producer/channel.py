"""One model as one client sees it: its spec, its request numbers, whether slots are ready. Pure; no I/O."""

from __future__ import annotations

import itertools
import time
from typing import Any

from broker import bodies, codec, refusals
from broker.answer import Answer
from broker.bodies import Body
from broker.durability import Durability, Proof
from broker.errors import InvalidInput, PenstockError
from broker.intake import Intake
from broker.spec import Published
from producer.apart import Apart
from producer.inputs import Fitted, Form
from producer.mailbox import Mailbox
from producer.options import PLAIN, Options

READY_CHECK_S = 1.0
HEADS_KEPT = 64


class Channel:
    """State kept per model and client. `form` and `published` are None until the spec was read."""

    def __init__(self, model: str, client: str, durability: Durability = "none") -> None:
        self.model = model
        self.client = client
        self.durability = durability
        self.proof: Proof | None = None  # how Redis proves that a submit is on disk, where that is asked for
        self.intake = Intake(model, client)
        self.mailbox = Mailbox()
        self.published: Published | None = None
        self.form: Form | None = None
        self.no_ready: str | None = None
        self.apart = Apart()
        self._plain = Packer(PLAIN)
        self._check_at = 0.0
        self._load: tuple[float, str] = (0.0, "")

    @property
    def must_learn(self) -> bool:
        """Whether Redis must be asked something before the first submit."""
        return self.form is None or (self.durability == "fsync" and self.proof is None)

    def learn(self, published: Published) -> None:
        """Takes a spec as read from Redis. Its generation last: what another thread packs meanwhile counts as packed under the
        one before, and is refused and packed again."""
        self.apart = self.apart.learned(published.limits)
        self.form = Form(published.spec)
        self.published = published

    def packer(self, terms: Options) -> Packer:
        """Of one call; calls without options share one, and its heads."""
        return self._plain if terms is PLAIN else Packer(terms)

    def renew(self, client: str) -> None:
        """After a fork: another client, with request numbers of its own."""
        self.client = client
        self.intake = Intake(self.model, client)
        self.mailbox = Mailbox()
        self.apart.renew()

    def refusal(self, answer: Answer) -> PenstockError:
        """The error of an answer that is not `ok`."""
        assert self.published is not None
        return refusals.of(answer, self.model, self.published.limits)

    @property
    def wants_ready_check(self) -> bool:
        """At most once a second: whether the next submit should ask for ready slots in the same round trip."""
        now = time.monotonic()
        if now < self._check_at:
            return False
        self._check_at = now + READY_CHECK_S
        return True

    def note_ready(self, replies: list[Any]) -> None:
        """Takes the replies of `Intake.newest_ready`."""
        if any(isinstance(reply, Exception) for reply in replies) or self.intake.has_ready(replies):
            self.no_ready = None
        else:
            self.no_ready = (
                f"no ready slot serves model {self.model!r}; the job waits until one does, see `penstock status`"
            )

    @property
    def load_text(self) -> str:
        """The pool's state as read within the last second, '' when it must be read again."""
        read_at, text = self._load
        return text if time.monotonic() - read_at < 1.0 else ""

    @load_text.setter
    def load_text(self, text: str) -> None:
        self._load = (time.monotonic(), text)


class Packer:
    """Turns inputs into job blobs; heads repeat over a chunk, so they are made once per shape, the last few of them kept."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._heads: dict[tuple[int, int, bool, bytes], tuple[bytes, bytes]] = {}

    def pack(self, fitted: Fitted, job: str) -> bytes:
        """The job on the wire. Raises InvalidInput for a context that cannot travel."""
        kind, rows, is_one_row, descriptor, data, _ = fitted
        shape = (kind, rows, is_one_row, descriptor)
        head = self._heads.get(shape)
        if head is None:
            if len(self._heads) >= HEADS_KEPT:
                self._heads.clear()
            head = self._heads[shape] = self.options.head(fitted)
        return codec.encode_job(head[0], job.encode(), head[1], data)

    def pack_apart(self, fitted: Fitted, job: str, token: str, *, borrows: bool) -> tuple[bytes, Body]:
        """The job with a reference in place of its data, and the data: the body that stands apart. Raises as `pack`.

        `borrows`: the body is the array itself, no copy of it.
        """
        head, tail = self.options.head(fitted, is_apart=True)
        data: Any = fitted.data
        body = data if isinstance(data, bytes) else data.reshape(-1).view("u1").data if borrows else data.tobytes()
        reference = bodies.encode(bodies.refer(token, job, body))
        return codec.encode_job(head, job.encode(), tail, reference), body


class JobNumbers:
    """Job ids of one client: `client-number`, unique over all its models and threads."""

    def __init__(self, client: str) -> None:
        self.client = client
        self._count = itertools.count(1)

    def next(self) -> str:
        return f"{self.client}-{next(self._count)}"


def at_input(error: InvalidInput, index: int, queued: int) -> InvalidInput:
    """The same error, saying which of many inputs it was and what had been queued before."""
    before = f"; the first {queued} were queued" if queued else "; nothing was queued"
    return type(error)(f"input number {index}: {error}{before}")
