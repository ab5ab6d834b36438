"""Bulk scoring runs from Python: a file or data set in, a scored file out, worked by the pool beside live traffic.

    run = producer.runs.submit("s3://b/day.parquet", model="mlp", output="s3://b/scored.parquet")
    print(run.wait().rows_failed)

The same input, model version, mapping and output are the same run: a pipeline that is retried attaches to it. Needs neither rq
nor pyarrow; the columns are checked by the program that works the run, so a wrong mapping ends it in its first seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from broker import audit, runs
from broker.connection import LOST, Link, NoPermissionError, refused
from broker.errors import InvalidInput, RedisUnavailable, ResultTimeout, RunFailed
from broker.runs import IfExists, Priority, Request, RowError, View
from broker.settings import load
from producer import run_order

__all__ = ["IfExists", "Priority", "Progress", "RowError", "Run", "View", "attach", "ls", "submit"]

REACH_S = 10.0  # how long each call tries to reach Redis
LOOK_S = 0.5  # between two looks at a run that is waited for

Progress = Callable[[View], None]


class Run:
    """One run. Each call has a connection of its own, so it may be kept, sent to another thread or used behind a fork."""

    def __init__(self, id: str, *, url: str | None = None, is_new: bool = False, warning: str = "") -> None:
        """By its id; see `submit` and `attach`. `warning`: what will hold it up, if anything."""
        self.id = id
        self.is_new = is_new
        self.warning = warning
        self._url = url

    def __repr__(self) -> str:
        return f"Run({self.id!r})"

    def view(self) -> View:
        """How it stands: state, rows_done of rows_total, rows_failed, rows_per_s, eta_s. Raises RunError when it was forgotten."""
        with reached(self._url) as link:
            return runs.view(link, self.id)

    def wait(
        self, timeout: float | None = None, *, on_progress: Progress | None = None, look_s: float = LOOK_S
    ) -> View:
        """Waits for its end and gives it: state `done`, or `done_with_errors` when rows failed (`rows_failed`, `errors()`).

        `on_progress` is called with each look. A Redis that goes away is waited for. Raises RunFailed when it failed or was
        cancelled, ResultTimeout after `timeout` seconds; the run goes on then, and waiting again is safe.
        """
        view = self.wait_final(timeout, on_progress=on_progress, look_s=look_s)
        if view.state in ("failed", "cancelled"):
            raise RunFailed(f"run {self.id} {_end(view)}", view=view)
        return view

    def wait_final(
        self, timeout: float | None = None, *, on_progress: Progress | None = None, look_s: float = LOOK_S
    ) -> View:
        """As `wait`, without judging how it ended."""
        until = None if timeout is None else time.monotonic() + timeout
        view: View | None = None
        for view in self._looks(until, look_s):
            if on_progress is not None:
                on_progress(view)
            if view.is_final:
                return view
        said = f"{view.state}, {view.rows_done} rows done" if view else "not seen, for Redis is away"
        raise ResultTimeout(f"run {self.id} did not end within {timeout:g} s ({said}); it goes on, wait again")

    def errors(self, limit: int = 100) -> list[RowError]:
        """The first rows that failed: number, key columns, reason. The output's `error` column has all of them."""
        with reached(self._url) as link:
            return runs.errors(link, self.id, limit)

    def pause(self) -> View:
        """Stops it after the rows it has sent; what is done stays done. Raises RunError for one that has ended."""
        return self._ask("pause")

    def resume(self) -> View:
        """Lets it go on: one that was paused, or that failed, from where it stopped."""
        return self._ask("resume")

    def cancel(self) -> View:
        """Ends it and throws away its parts; nothing stands under the output's name."""
        return self._ask("cancel")

    def retry(self) -> View:
        """Scores the rows again that failed, and no others."""
        return self._ask("retry")

    def _ask(self, what: runs.Ask) -> View:
        with reached(self._url) as link:
            return runs.ask(link, self.id, what)

    def _looks(self, until: float | None, look_s: float) -> Iterator[View]:
        """Views until the time is over, at least one try."""
        link = Link(self._url or load().redis_url)
        try:
            link.connect_within(REACH_S)
            while True:
                try:
                    yield runs.view(link, self.id)
                except LOST:
                    _connect_again(link, until)
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return
                time.sleep(look_s if left is None else min(look_s, left))
        finally:
            link.close()


def submit(
    input: str,
    *,
    model: str,
    output: str,
    mapping: Mapping[str, Any] | None = None,
    if_exists: IfExists = "resume",
    priority: Priority = "normal",
    rate: float = 0.0,
    error_limit: int = -1,
    rows_per_job: int = 0,
    input_kind: str = "",
    output_kind: str = "",
    is_shared: bool = False,
    url: str | None = None,
    host: str = "",
) -> Run:
    """Submits a run, or attaches to the one that is there already (`run.is_new` tells).

    `input`: a file, folder, glob or fsspec URL of Parquet, CSV, JSONL, Arrow or any files; `output`: a file, or a folder that
    ends in /. `mapping`: `{"inputs": {"x": ["f*"]}, "keys": ["id"], "outputs": "auto"}`; without one, columns are found by name.
    `if_exists` for a run that is there: "resume" attaches and lets it go on if it failed, "overwrite" begins anew, "fail" raises.
    `rate`: rows a second at most. `error_limit`: failed rows that end it. `is_shared`: local paths are the same files on every
    host. `host`: this machine's name in the pool. Raises UnknownModel, InvalidInput, RunError; nothing was submitted then.
    """
    request = Request(
        input=_text("input", input), output=_text("output", output), model=_text("model", model), mapping=dict(mapping or {}),
        output_kind=output_kind, input_kind=input_kind, rows_per_job=rows_per_job, error_limit=error_limit, rate=rate,
        priority=priority, user=audit.user(),
    )  # fmt: skip
    settings = None if url else load()
    with reached(url) as link:
        order = run_order.prepare(
            link, request, if_exists=if_exists, is_shared=is_shared, host=host or (settings.host if settings else ""),
            roots=settings.run_roots if settings else (),
        )  # fmt: skip
        view, is_new = run_order.submit(link, order)
    return Run(view.id, url=url, is_new=is_new, warning=order.warning)


def attach(id: str, *, url: str | None = None) -> Run:
    """The run of that id, which another process may have submitted. Raises RunError when there is none."""
    run = Run(id, url=url)
    run.view()
    return run


def ls(*, url: str | None = None) -> list[View]:
    """All runs that are remembered, the newest first."""
    with reached(url) as link:
        return runs.views(link)


@contextmanager
def reached(url: str | None) -> Iterator[Link]:
    """A connected link to the pool's Redis, closed at the end."""
    link = Link(url or load().redis_url)
    try:
        link.connect_within(REACH_S)
        yield link
    except NoPermissionError as error:
        raise refused(link.url, error) from None
    except LOST as error:
        raise RedisUnavailable(f"Redis went away ({error}); try again, the same call comes to the same run") from None
    finally:
        link.close()


def _connect_again(link: Link, until: float | None) -> None:
    """Redis is waited for as long as the run would be."""
    while True:
        left = REACH_S if until is None else until - time.monotonic()
        try:
            return link.connect_within(max(0.0, min(left, REACH_S)))
        except RedisUnavailable as error:
            if not error.retryable or left < REACH_S:
                raise


def _end(view: View) -> str:
    if view.state == "cancelled":
        return "was cancelled; submit it again to score it"
    return f"failed: {view.error or 'no reason was left'}; mend it, and submit it again to go on where it stopped"


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{name}={value!r} must be a text: a path or a URL, or the model's name")
    return value
