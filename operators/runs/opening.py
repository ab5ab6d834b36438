"""What a run reads and where it writes, opened: each wrong thing is told here, before the first row. May take long, and may hang."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from broker.run_lease import Kept
from broker.runs import View
from broker.spec import Published
from operators.runs.admit import read_mapping
from operators.runs.data.binding import Binding, bind
from operators.runs.data.manifest import PartNote
from operators.runs.data.scored import Layout, layout
from operators.runs.data.sink import Sink, open_sink
from operators.runs.data.source import Source, open_source
from operators.runs.pace import Plan


class Input(NamedTuple):
    """A run's input, as the model takes it, and the columns of its output."""

    source: Source
    binding: Binding
    layout: Layout


def open_input(view: View, published: Published, roots: Sequence[str]) -> Input:
    """Raises RunError, also for an input that leads out of the roots."""
    mapping = read_mapping(view)
    source = open_source(view.request.input, kind=view.request.input_kind, roots=roots)
    binding = bind(mapping, source.schema, published.spec)
    return Input(source, binding, layout(published.spec, mapping.outputs, binding.key_schema))


def sink_of(view: View, *, replace: bool) -> Sink:
    """Raises RunError."""
    request = view.request
    return open_sink(request.output, kind=request.output_kind, run=view.id, replace=replace)


def open_output(view: View, kept: Kept) -> Sink:
    """The sink, without the parts of a run of this id that was forgotten or is to begin anew. Raises RunError."""
    if view.is_fresh or not kept.plan:
        sink_of(view, replace=True).discard()
    return sink_of(view, replace=kept.is_replacing or view.is_retry)


def finished_parts(sink: Sink, plan: Plan) -> list[PartNote]:
    """Notes of the parts that are there from the first on without a gap, and are this plan's."""
    found = sink.finished()
    notes = []
    for index in range(len(found)):
        if index not in found or found[index].first_row != index * plan.chunk_rows:
            break
        notes.append(found[index])
    return notes
