"""The sync client's command connection: threads share it under a lock, and what was lost on the way is sent again."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from typing import Any, TypeVar

from broker.connection import LOST, Command, Link, ResponseError, refused
from broker.errors import PenstockError, RedisUnavailable, SubmitUnknown
from broker.replies import has_forgotten
from producer.talks import Talk

T = TypeVar("T")


class Line:
    """Drives talks, one at a time. Connects at first use; `patience_s` bounds how long Redis may be away."""

    def __init__(self, url: str, *, patience_s: float) -> None:
        self.url = url
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._link = Link(url)
        self._is_closed = False

    def run(self, talk: Talk[T], *, job_id: str | None = None) -> T:
        """The talk's value. Raises RedisUnavailable, or SubmitUnknown with `job_id` when that may have been queued."""
        give_up_at = time.monotonic() + self._patience_s
        with self._lock:
            if self._is_closed:
                raise closed()
            replies: Any = None
            while True:
                try:
                    commands = talk.send(replies)
                except StopIteration as stop:
                    value: T = stop.value
                    return value
                try:
                    replies = self._exchange(commands, give_up_at, job_id)
                except BaseException:
                    talk.close()
                    raise

    def _exchange(self, commands: Sequence[Command], give_up_at: float, job_id: str | None) -> list[Any]:
        link = self._link
        pause, was_sent, has_reloaded = 0.02, False, False
        while True:
            try:
                if link.fileno() < 0:
                    link.connect_within(max(0.0, give_up_at - time.monotonic()))
                was_sent = True
                replies = link.call_all(commands)
                if not has_forgotten(replies):
                    return replies
                link.reload()
                if has_reloaded:
                    raise RedisUnavailable("it forgets its scripts as soon as they are loaded")
                has_reloaded = True
            except ResponseError as error:
                link.close()
                raise refused(link.url, error) from None
            except (*LOST, RedisUnavailable) as error:
                link.close()
                if isinstance(error, RedisUnavailable) and not was_sent:
                    raise
                if time.monotonic() >= give_up_at:
                    raise unanswered(error, self._patience_s, job_id) from None
                time.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(2 * pause, 1.0)
            except BaseException:
                link.close()  # replies may be under way; they must not be taken for those of the next talk
                raise

    def close(self) -> None:
        """Waits for the talk under way, then hangs up."""
        with self._lock:
            self._is_closed = True
            self._link.close()

    def renew(self) -> None:
        """In a forked child: a lock and a link of its own. Closing our copy leaves the parent's connection as it was."""
        self._link.close()
        self._lock = threading.Lock()
        self._link = Link(self.url)


def closed() -> PenstockError:
    return PenstockError("this Producer is closed; open another one (a result can be asked for by its id)")


def unanswered(error: Exception, patience_s: float, job_id: str | None) -> PenstockError:
    """What to raise when Redis did not answer something that was sent."""
    if job_id is None:
        return RedisUnavailable(f"Redis did not answer for {patience_s:g} s ({error}); see `penstock doctor`")
    return SubmitUnknown(
        f"Redis did not answer for {patience_s:g} s ({error}): job {job_id} may or may not be queued; ask for its result "
        "by that id before you submit it again",
        job_id=job_id,
    )
