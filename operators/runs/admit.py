"""Whether a run that stands in Redis may be worked on this host: what it says is believed in nothing. Reads no input, writes nothing.

A request was decoded by `broker.run_request`, with its types, sizes and names; here are the id, which becomes part of file names, the
mapping, and the places. The files that an input leads to, through links and patterns, are looked at when it is listed and opened.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from broker.errors import RunError
from broker.roots import check_within
from broker.runs import View
from operators.runs.data.mapping import Mapping

_ID = re.compile(r"[0-9a-f]{12}")


def admit(view: View, roots: Sequence[str]) -> None:
    """Raises RunError for what may not be worked. May hang on a dead file system, whose links it follows."""
    require_id(view.id)
    read_mapping(view)
    check_within(roots, view.request.input, "input")
    check_output(view.request.output, view.id, roots)


def require_id(run: str) -> None:
    """Raises RunError for what is no run's id."""
    if not _ID.fullmatch(run):
        raise RunError(f"{run[:100]!r} is no run's id, which is 12 hex digits; submit it by `penstock run submit`")


def check_output(output: str, run: str, roots: Sequence[str]) -> None:
    """Raises RunError unless the output, and the folder of its parts beside it, lie within the roots."""
    check_within(roots, output, "output")
    check_within(roots, f"{output.rstrip('/')}.run-{run}", "the folder of parts")


def read_mapping(view: View) -> Mapping:
    """Raises RunError for one that no program of ours wrote."""
    try:
        return msgspec.convert(view.request.mapping, Mapping)
    except (msgspec.ValidationError, RecursionError) as error:
        raise RunError(f"the mapping of run {view.id} is not understood: {error}; submit it again") from None
