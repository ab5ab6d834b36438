"""What a user asks a run for, checked as far as it can be without reading the input: no pyarrow, no rq. What the columns are, `penstock run` checks.

The command, the Python API and the schedules all come through here, so the same order is the same run.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from broker import runs
from broker.connection import Link, ResponseError
from broker.errors import InvalidInput, RunError, UnknownModel
from broker.fingerprint import absolute, exists, fingerprint, is_local
from broker.roots import check_within
from broker.roster import models
from broker.run_request import check
from broker.runs import IfExists, Request, View
from broker.settings import unknown
from broker.spec import ModelSpec, fetch

IF_EXISTS: tuple[IfExists, ...] = ("resume", "fail", "overwrite")
NO_PROGRAM = "no program works runs now, so it waits: `penstock up` on a host with [runs] workers above 0 starts one"


class Order(msgspec.Struct, frozen=True):
    """A request that may be submitted as it stands. `is_known`: there is such a run already, and it is not to begin anew.

    `warning` says what will hold it up, if anything.
    """

    request: Request
    run: str
    version: str
    fingerprint: str
    if_exists: IfExists
    is_known: bool
    warning: str


def prepare(
    link: Link, request: Request, *, if_exists: IfExists = "resume", is_shared: bool = False, host: str = "",
    roots: Sequence[str] = (),
) -> Order:  # fmt: skip
    """Makes paths absolute and finds the run's id. `is_shared`: local paths lead to the same files on every host of the pool.

    `roots`: where runs may read and write on this host, as its pool.toml says; () is everywhere. Raises UnknownModel, InvalidInput for an option that cannot be, RunError for an input that is not there, a path that no
    runs program can see, an output that exists.
    """
    if if_exists not in IF_EXISTS:
        raise InvalidInput(unknown("if_exists", if_exists, IF_EXISTS))
    spec = known_model(link, request.model)
    host = host or socket.gethostname()
    request = msgspec.structs.replace(
        request, input=absolute(request.input), output=absolute(request.output), mapping=canonical(request.mapping)
    )
    check(request)
    for name in request.mapping.get("inputs", {}):
        _check_input(spec, name)
    check_within(roots, request.input, "input")
    check_within(roots, request.output, "output")
    hosts = {beat.host for beat in runs.beats(link)}
    locals_ = [path for path in (request.input, request.output) if is_local(path)]
    if locals_ and not is_shared:
        if hosts and host not in hosts:
            raise RunError(
                f"{locals_[0]} is a path of host {host}, and runs are worked on {', '.join(sorted(hosts))}, which cannot see it; give a "
                "URL, or a path that leads to the same files on both with --shared (is_shared=True)"
            )
        request = msgspec.structs.replace(request, host=host)
    mark = fingerprint(request.input)
    run = runs.run_id(request, mark, spec.version)
    if_exists, is_known = _check_output(link, request, run, if_exists)
    return Order(request, run, spec.version, mark, if_exists, is_known, "" if hosts else NO_PROGRAM)


def submit(link: Link, order: Order) -> tuple[View, bool]:
    """The run, and whether it is new."""
    return runs.submit(
        link, order.request, order.run, if_exists=order.if_exists, version=order.version, fingerprint=order.fingerprint
    )


def known_model(link: Link, model: str) -> ModelSpec:
    """Its spec. Raises UnknownModel with the nearest name."""
    try:
        return fetch(link, model).spec
    except UnknownModel as error:
        try:
            known = models(link)
        except ResponseError:  # a producer's user may not list them
            raise error from None
        raise UnknownModel(f"{unknown('model', model, known)}; see `penstock models`") from None


def canonical(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping in the one form that makes the run's id: lists for single names, no defaults. Raises InvalidInput."""
    for name in mapping:
        if name not in ("inputs", "keys", "outputs"):
            raise InvalidInput(f"mapping: {unknown('key', name, ('inputs', 'keys', 'outputs'))}")
    inputs, keys, outputs = mapping.get("inputs") or {}, mapping.get("keys") or (), mapping.get("outputs") or "auto"
    if not isinstance(inputs, Mapping):
        raise InvalidInput('mapping: inputs must name columns for each input, e.g. {"x": ["f*"]}')
    if isinstance(outputs, str) and outputs not in ("auto", "raw"):
        raise InvalidInput(f"mapping: {unknown('outputs', outputs, ('auto', 'raw'))}")
    said = {
        "inputs": {str(name): _names(columns) for name, columns in inputs.items()},
        "keys": _names(keys),
        "outputs": outputs if isinstance(outputs, str) else dict(outputs),
    }
    return {name: value for name, value in said.items() if value and value != "auto"}


def _names(value: Any) -> list[str]:
    names = [value] if isinstance(value, str) else list(value)
    if not all(isinstance(name, str) for name in names):
        raise InvalidInput(f"mapping: {value!r} must be a column's name or a list of them")
    return names


def _check_input(spec: ModelSpec, name: str) -> None:
    known = [tensor.name for tensor in spec.inputs]
    if spec.takes == "tensors" and name not in known:
        raise InvalidInput(f"model {spec.name!r}: {unknown('input', name, known)}")


def _check_output(link: Link, request: Request, run: str, if_exists: IfExists) -> tuple[IfExists, bool]:
    """How to submit it, and whether that goes on with a run that is there. One whose output somebody took away is done again."""
    if request.output == request.input:
        raise RunError(f"the output is the input, {request.input}; name another output")
    same = [one for one in runs.views(link) if one.request.output.rstrip("/") == request.output.rstrip("/")]
    for one in same:
        if one.id != run and not one.is_final:
            raise RunError(runs.output_taken(request.output, one.id, one.state))
    is_there = exists(request.output)
    known = next((one for one in same if one.id == run), None)
    if known is not None:
        is_lost = known.state in ("done", "done_with_errors") and not is_there
        how: IfExists = "overwrite" if is_lost and if_exists == "resume" else if_exists
        return how, how == "resume"
    if is_there and if_exists != "overwrite":
        raise RunError(
            f"the output {request.output} exists, and no run of this input, model version and mapping wrote it; remove it, name another, "
            'or submit with --if-exists overwrite (if_exists="overwrite")'
        )
    folder = os.path.dirname(request.output.rstrip("/"))
    if is_local(request.output) and os.path.isdir(folder) and not os.access(folder, os.W_OK | os.X_OK):
        raise RunError(
            f"the output's folder {folder} cannot be written to by this user; name another, or see to its rights"
        )
    return if_exists, False
