"""The sync client: submits jobs and waits for their results. One per process is enough; threads may share it.

It starts no thread: who waits for a result reads for all (see `reader`). What is said to Redis stands in `talks`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

from broker.durability import Durability, check
from broker.errors import InvalidInput, PenstockError
from broker.intake import new_client, split_public_id
from broker.settings import load
from producer import forks, talks
from producer.apart import check_apart
from producer.channel import JobNumbers, at_input
from producer.handle import Handle
from producer.line import Line
from producer.options import Options, check_model, check_names, keys_for, many, options_of, seconds, until
from producer.results import Result
from producer.sender import Sender
from producer.tickets import Parcel, Sink
from producer.waiter import Model
from producer.window import run_window


class Producer(Sender):
    """Submits jobs to models and gives their results. A context manager; `close()` waits for submits under way.

    `url` defaults to the pool's (PENSTOCK_REDIS_URL, or redis.url in pool.toml). It connects at first use and raises
    RedisUnavailable when Redis cannot be reached for `submit_timeout_s`. A forked child goes on with a client id and
    connections of its own.

    `durability="fsync"`: a submit returns when Redis has proven that its jobs are on disk, which takes up to a second with
    appendfsync everysec, so submit many at once. Raises ConfigError at the first submit when Redis cannot prove it.

    Data above the pool's `large_bytes` stands apart from its job, in the store that pool.toml names; `large_apart=False` sends it
    in the job, from a machine that cannot reach that store.
    """

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
        self._line = Line(self.url, patience_s=submit_timeout_s)
        self._models: dict[str, Model] = {}
        self._mutex = threading.Lock()  # guards _models
        self._numbers = JobNumbers(new_client())
        forks.remember(self)

    @property
    def client(self) -> str:
        """The client id, the part of a job's id before its number."""
        return self._numbers.client

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for submits under way, then hangs up. Does not wait for results; jobs go on."""
        self._line.close()
        for model in list(self._models.values()):
            model.reader.close()

    # --- submitting -------------------------------------------------------------------------

    def submit(
        self,
        model: str,
        inputs: Any,
        *,
        wait_s: float | None = None,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> Handle:
        """Queues one job.

        `inputs`: an array (models with one input), a dict name -> array, each with the shape of one row or one axis of
        rows in front; bytes or str where the model brings a preprocess. Options: `lane` ("high", "normal", "low"),
        `deadline_s` (its forward must begin within), `delay_s`, `context` (dict for the artifact's code), `retries` (3),
        `result_ttl_s` (600), `store` (True: the result can be had by id). `wait_s` waits for room in a full queue.
        Same `idempotency_key`, same content: the job queued before.

        Raises UnknownModel, InvalidInput, PayloadTooLarge, QueueFull, KeyConflict, StaleRequest, SubmitUnknown,
        RedisUnavailable; SubmitNotDurable, where durability was asked for; StoreError, for data too large to travel in the job
        when the pool's store for it cannot be used from here.
        """
        keys = iter((idempotency_key,)) if idempotency_key is not None else None
        terms = options_of("submit", options)
        return self._submit_all(model, (inputs,), terms, until(wait_s), keys=keys, is_many=False)[0]

    def infer(self, model: str, inputs: Any, timeout: float | None = None, **options: Any) -> Result:
        """`submit` and `result` in one. Raises what either raises."""
        check_names("infer", options)
        timeout = seconds(timeout)  # before the job is queued
        return self.submit(model, inputs, **options).result(timeout)

    def submit_many(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        wait_s: float | None = None,
        idempotency_keys: Iterable[str] | None = None,
        **options: Any,
    ) -> list[Handle]:
        """Queues many jobs, up to 256 or 1 MB a round trip, beside 8 MB of bodies in a folder; options as in `submit`.

        What is refused raises what `submit` raises; its `.accepted` holds the handles of the prefix that was queued.
        With `wait_s`, a full queue is waited for so long in all, and only the rest is sent again. Arrays must stay as they are
        until this returns: they are read again when the model's spec changes meanwhile.
        """
        inputs = many("submit_many", inputs)
        keys = keys_for(inputs, idempotency_keys)
        return self._submit_all(model, inputs, options_of("submit_many", options), until(wait_s), keys=keys)

    def map(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        window: int = 1024,
        ordered: bool = True,
        timeout: float | None = None,
        return_errors: bool = False,
        **options: Any,
    ) -> Iterator[Any]:
        """Results of many jobs, with at most `window` of them queued or unread at any time.

        Yields Result in the order of `inputs`, or as completed with `ordered=False`; `.index` is the place in `inputs`.
        Many of `inputs` are taken before the first of them is sent, so each must be an array of its own, not one buffer filled
        anew. A full queue is waited for. `timeout` bounds the wait for each next result. A job that failed raises, or with
        `return_errors` its JobFailed is yielded in its place.
        """
        return run_window(
            self, model, many("map", inputs), options_of("map", options), size=window, is_ordered=ordered,
            timeout=seconds(timeout), return_errors=return_errors,
        )  # fmt: skip

    def result(self, id: str, timeout: float | None = None) -> Result:
        """The result of a job submitted by any process, by its handle's id, until its TTL.

        Raises as `Handle.result`; ResultExpired when the id is unknown or its result past its TTL.
        """
        return self.handle(id).result(timeout)

    def handle(self, id: str) -> Handle:
        """A handle of a job submitted by any process. Raises InvalidInput for what is not a job's id."""
        name, job = split_public_id(id)
        place = self._model(name)
        return Handle(self, place, job, 0)

    # --- sending ----------------------------------------------------------------------------

    def _model(self, name: str) -> Model:
        place = self._models.get(check_model(name))
        if place is None:
            with self._mutex:
                place = self._models.get(name)
                if place is None:
                    place = Model(name, self.client, self.url, self._patience_s, self._durability)
                    place.apart.is_wanted = self._is_apart
                    self._models[name] = place
        return place

    def _submit_all(
        self,
        model: str,
        inputs: Iterable[Any],
        terms: Options,
        until: float,
        *,
        keys: Iterator[str] | None = None,
        sink: Sink | None = None,
        is_many: bool = True,
    ) -> list[Handle]:
        place = self._model(model)
        if place.must_learn:
            self._line.run(talks.learn_spec(place))
        packer = place.packer(terms)
        handles: list[Handle] = []
        # A generator may fill one array anew for each job; those in a list are as they are until this returns.
        parcel = Parcel(sink, borrows=isinstance(inputs, list | tuple))
        try:
            for index, one in enumerate(inputs):
                try:
                    parcel.pack(Handle, self, place, packer, one, next(keys) if keys is not None else None)
                except InvalidInput as error:
                    raise (at_input(error, index, len(handles)) if is_many else error) from None
                if parcel.is_full:
                    handles += self._send(place, packer, parcel, until)
            if parcel.tickets:
                handles += self._send(place, packer, parcel, until)
        except PenstockError as error:
            error.accepted = handles + error.accepted
            raise
        return handles

    def _renew(self) -> None:
        """In a forked child: another client, other connections; the parent's tickets become another client's jobs."""
        self._mutex = threading.Lock()
        self._numbers = JobNumbers(new_client())
        self._line.renew()
        for place in self._models.values():
            place.renew(self.client)
