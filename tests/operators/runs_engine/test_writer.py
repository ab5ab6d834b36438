"""Parts are written in order, by one thread, only while the run is ours; and a write that hangs does not hold the run for ever."""

from __future__ import annotations

import threading
from typing import Any

import pyarrow as pa
import pytest

from operators.runs import writer as writing
from operators.runs.writer import STUCK, WAITING, Part, Writer
from tests.wait import wait_until


class Sink:
    def __init__(self) -> None:
        self.written: list[int] = []
        self.goes_on = threading.Event()
        self.goes_on.set()

    def write(self, index: int, table: pa.Table, *, first_row: int) -> None:
        self.goes_on.wait(10)
        self.written.append(index)


class Lease:
    def __init__(self) -> None:
        self.is_sure = True
        self.is_lost = False

    def wait_sure(self, is_over: threading.Event) -> bool:
        while not self.is_sure:
            if self.is_lost or is_over.wait(0.005):
                return False
        return True


def part(index: int) -> Part:
    return Part(index, index * 2, 2, 0, 0, lambda version: pa.table({"v": [version]}))


def begun(sink: Sink, lease: Lease) -> Writer:
    writer: Any = Writer(sink, lease, "1")  # type: ignore[arg-type]
    writer.start()
    return writer  # type: ignore[no-any-return]


def test_parts_are_written_in_order_and_told() -> None:
    sink, lease = Sink(), Lease()
    writer = begun(sink, lease)
    for index in range(5):
        wait_until(lambda index=index: writer.give(part(index)), "room")  # type: ignore[misc]
    wait_until(writer.end, "room for the last word")
    wait_until(lambda: writer.is_ended, "all is written")
    assert sink.written == [one.index for one in writer.written] == [0, 1, 2, 3, 4]


def test_what_waits_is_bounded() -> None:
    sink, lease = Sink(), Lease()
    sink.goes_on.clear()
    writer = begun(sink, lease)
    assert sum(writer.give(part(index)) for index in range(10)) in (WAITING, WAITING + 1)  # one may be in its hand
    sink.goes_on.set()
    writer.stop()


def test_nothing_is_written_while_the_run_may_be_anothers_and_nothing_once_it_is() -> None:
    sink, lease = Sink(), Lease()
    lease.is_sure = False
    writer = begun(sink, lease)
    writer.give(part(0))
    lease.is_sure = True
    wait_until(lambda: sink.written == [0], "it is ours again")
    lease.is_sure, lease.is_lost = False, True
    writer.give(part(1))
    wait_until(lambda: not writer.is_alive(), "the thread ends")
    assert sink.written == [0]


def test_an_error_of_writing_is_told_to_who_asks() -> None:
    sink, lease = Sink(), Lease()
    writer = begun(sink, lease)
    broken = Part(0, 0, 2, 0, 0, lambda version: {}["no space"])
    writer.give(broken)
    wait_until(lambda: not writer.is_alive(), "the thread ends")
    with pytest.raises(KeyError, match="no space"):
        writer.check()


def test_a_write_that_hangs_ends_the_program_once_the_run_is_to_be_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "HANGS_S", 0.03)
    monkeypatch.setattr(writing, "TICK_S", 0.01)
    sink, lease = Sink(), Lease()
    sink.goes_on.clear()
    writer = begun(sink, lease)
    writer.give(part(0))
    ends: list[int] = []
    ticks: list[bool] = []
    writer.stop(lambda: ticks.append(True), give_up=ends.append)
    assert ends == [STUCK]
    assert ticks, "the lease is kept until then"
    sink.goes_on.set()
    writer.stop()
    assert ends == [STUCK]
