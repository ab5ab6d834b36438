"""Which files an ONNX graph keeps tensors in, read off its bytes. Workers have no `onnx` package; opens no file."""

from __future__ import annotations

from collections.abc import Iterator

# Fields that lead to tensors, by message: number -> message; from onnx.proto (IR 3 to 13). Others are skipped unread.
_LEADS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}


def external_files(graph: bytes) -> set[str]:
    """Files a serialized ModelProto keeps tensors in. A graph that is not protobuf gives what was found up to there.

    Reads the protobuf wire format itself: workers have no `onnx` package.
    """
    found: set[str] = set()
    view = memoryview(graph)
    todo = [("model", view)]
    while todo:
        message, body = todo.pop()
        leads = _LEADS.get(message, {})
        if message == "entry":
            fields = {number: bytes(value) for number, value in _fields(body)}
            if fields.get(1) == b"location":
                found.add(fields.get(2, b"").decode(errors="replace"))
            continue
        todo.extend((leads[number], value) for number, value in _fields(body) if number in leads)
    return found


def _fields(body: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, bytes) of the length-delimited fields of one message; stops where the bytes stop making sense."""
    at, end = 0, len(body)
    while at < end:
        key, at = _varint(body, at)
        kind = key & 7
        if kind == 2:
            length, at = _varint(body, at)
            yield key >> 3, body[at : at + length]
            at += length
        elif kind == 0:
            _, at = _varint(body, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            return


def _varint(body: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(body):
        byte = body[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            break
        shift += 7
    return value, at
