"""From what a user typed, or a schedule says, to a run that can be done: everything that can be known before its first row is.

The columns are looked at here, with the mapping and the model's spec; paths, hosts and the run's id are `producer.run_order`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from broker.connection import Link
from broker.errors import RunError
from broker.runs import IfExists, Request
from broker.spec import ModelSpec
from producer import run_order
from producer.run_order import Order

if TYPE_CHECKING:
    from operators.runs.data.binding import Binding
    from operators.runs.data.mapping import Mapping
    from operators.runs.data.scored import Layout
    from operators.runs.data.source import Source


class Words(msgspec.Struct, frozen=True):
    """The mapping in a user's words, and the TOML file they stand over; "" none."""

    inputs: Sequence[str] = ()
    keys: Sequence[str] = ()
    outputs: Sequence[str] = ()
    file: str = ""


class Bound(NamedTuple):
    """An input that fits its model."""

    spec: ModelSpec
    source: Source
    binding: Binding
    layout: Layout


def make_order(
    link: Link,
    request: Request,
    words: Words,
    *,
    if_exists: IfExists = "resume",
    is_shared: bool = False,
    host: str = "",
    roots: Sequence[str] = (),
) -> Order:
    """A checked order, to be submitted. `roots`: where runs of this host may read and write, () everywhere.

    Raises UnknownModel, InvalidInput or RunError with what is wrong first.
    """
    spec = run_order.known_model(link, request.model)
    mapping = read_mapping(words)
    request = msgspec.structs.replace(request, mapping=msgspec.to_builtins(mapping))
    order = run_order.prepare(link, request, if_exists=if_exists, is_shared=is_shared, host=host, roots=roots)
    if not order.is_known:  # else all this was found right, and its output may stand there
        bound = fit(spec, order.request.input, order.request.input_kind, mapping, roots=roots)
        from operators.runs.admit import check_output
        from operators.runs.data.sink import open_sink

        bound.source.check_apart(order.request.output)
        check_output(order.request.output, order.run, roots)
        open_sink(
            order.request.output, kind=order.request.output_kind, run=order.run, replace=order.if_exists == "overwrite"
        )
    return order


def read_mapping(words: Words) -> Mapping:
    """Raises RunError for a file that cannot be read, or words that are not understood."""
    from operators.runs.data.mapping import parse

    try:
        text = Path(words.file).read_text() if words.file else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise RunError(f"cannot read the mapping {words.file}: {reason}; name a TOML file") from None
    try:
        return parse(words.inputs, text, keys=words.keys, outputs=words.outputs)
    except RunError as error:
        raise RunError(f"{words.file}: {error}" if words.file else str(error)) from None


def fit(spec: ModelSpec, url: str, kind: str, mapping: Mapping, *, roots: Sequence[str] = ()) -> Bound:
    """Opens the input and ties it to the model; reads its schema, not its rows. Raises RunError also for what leads out of the roots."""
    try:
        from operators.runs.data.binding import bind
        from operators.runs.data.scored import layout
        from operators.runs.data.source import open_source
    except ImportError as error:
        raise RunError(
            f"looking at {url} needs {error.name}, which is not installed; pip install 'penstock[local]'"
        ) from None

    source = open_source(url, kind=kind, roots=roots)
    binding = bind(mapping, source.schema, spec)
    return Bound(spec, source, binding, layout(spec, mapping.outputs, binding.key_schema))
