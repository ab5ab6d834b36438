"""Learned caps in Redis: per device and shape, written at maxmemory too, forgotten in time."""

from __future__ import annotations

from broker import caps, keys
from broker.caps import FORGET_MS, Cap
from broker.connection import Link
from tests.broker.actors import MODEL, now_ms

HERE, THERE = "box/cuda:0", "box/GPU-1a2b"


def test_caps_are_kept_per_device_and_shape_and_taken_away_again(link: Link) -> None:
    at_ms = int(now_ms(link))
    link.call(*caps.save(MODEL, HERE, {(): Cap(8, at_ms), (128, 64): Cap(4, at_ms)}))
    link.call(*caps.save(MODEL, THERE, {(): Cap(2, at_ms)}))
    assert caps.load(link, MODEL, HERE) == {(): Cap(8, at_ms), (128, 64): Cap(4, at_ms)}
    link.call(*caps.save(MODEL, HERE, {(): None, (128, 64): Cap(16, at_ms + 1)}))
    assert caps.load(link, MODEL, HERE) == {(128, 64): Cap(16, at_ms + 1)}
    assert caps.load(link, MODEL, THERE) == {(): Cap(2, at_ms)}


def test_caps_are_written_at_maxmemory(link: Link) -> None:
    at_ms = int(now_ms(link))
    link.call("CONFIG", "SET", "maxmemory", 1)
    link.call(*caps.save(MODEL, HERE, {(): Cap(8, at_ms)}))
    assert caps.load(link, MODEL, HERE) == {(): Cap(8, at_ms)}


def test_what_is_old_leaves_with_the_next_write_and_garbage_is_left_out(link: Link) -> None:
    at_ms = int(now_ms(link))
    link.call("HSET", keys.caps(MODEL), f"{HERE}|3", "nonsense", f"gone/cuda:0|{1}", f"8 {at_ms - FORGET_MS - 1000}")
    assert caps.load(link, MODEL, HERE) == {}
    assert link.call(*caps.save(MODEL, HERE, {(): Cap(8, at_ms)})) == 1
    assert [field.decode() for field in link.call("HKEYS", keys.caps(MODEL))] == [f"{HERE}|"]
