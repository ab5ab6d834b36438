"""Tables and figures as a terminal shows them. Text in, text out; colours are the caller's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `logs` sets text too, and must not load redis for it
    from operators.snapshot import ModelStatus, SlotStatus, Snapshot


def models(snapshot: Snapshot) -> list[str]:
    """A line per model, headed."""
    head = ("MODEL", "VERSION", "READY", "WAITING h/n/l", "DELAYED", "OLDEST", "BYTES", "DONE", "FAILED", "DEAD")
    return align([head, *(_model(model) for model in snapshot.models)], right=range(2, len(head)))


def slots(snapshot: Snapshot) -> list[str]:
    """A line per slot, headed."""
    head = (
        "SLOT",
        "MODEL",
        "STATE",
        "DEVICE",
        "PID",
        "JOBS",
        "BATCH",
        "HELD",
        "p50 ms",
        "p99 ms",
        "MEMORY",
        "UP",
        "LAST EXIT",
        "RESTARTS",
    )
    rows = [_slot(slot, snapshot.at_ms) for slot in snapshot.slots]
    return align([head, *rows], right=range(4, 12))


def align(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), gap: int = 2) -> list[str]:
    """Columns `gap` spaces apart, as wide as their widest cell; `right` are those set to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )  # fmt: skip
        lines.append((" " * gap).join(cells).rstrip())
    return lines


def clean(text: str) -> str:
    """One line without control characters: ids, errors and logs may be anybody's bytes, and terminals obey some."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


def cut(text: str, most: int) -> str:
    """As `clean`, and no longer than `most` characters."""
    text = clean(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def count_of(number: int, noun: str) -> str:
    """1 slot, 2 slots."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def numbered(numbers: Iterable[int]) -> str:
    """slots 0, 1; slot 2; no slot."""
    listed = ", ".join(map(str, numbers))
    return f"slots {listed}" if "," in listed else f"slot {listed}" if listed else "no slot"


def size(count: int | None) -> str:
    """Bytes as an operator reads them: 512 B, 1.5 MB; `-` when not known."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def age(milliseconds: float | None) -> str:
    """A span: 12 ms, 3.4 s, 5 min, 2.1 h; `-` when there is none."""
    if milliseconds is None:
        return "-"
    seconds = milliseconds / 1000
    if seconds < 1:
        return f"{milliseconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _model(model: ModelStatus) -> tuple[str, ...]:
    return (
        model.name, model.version or "-", f"{model.ready}/{model.wanted}", "/".join(str(count) for count in model.depth.values()),
        str(model.delayed), age(model.oldest_age_ms), size(model.bytes + model.stored_bytes), str(model.ended["done"]),
        str(model.ended["failed"]), str(model.dead),
    )  # fmt: skip


def _slot(slot: SlotStatus, now_ms: int) -> tuple[str, ...]:
    growth = ""
    if slot.host_bytes is not None and slot.host_baseline_bytes is not None:
        growth = f" ({(slot.host_bytes - slot.host_baseline_bytes) / 1e6:+.0f})"
    return (
        slot.name, slot.model or "-", slot.state or "-", slot.gpu[:12] or slot.device or "-", str(slot.pid or "-"), str(slot.jobs),
        f"{slot.mean_batch:.1f}", str(slot.held), _ms(slot.p50_ms), _ms(slot.p99_ms),
        size(slot.host_bytes) + growth, age(now_ms - slot.since_ms if slot.since_ms else None), slot.last_exit or "-",
        " ".join(f"{reason}:{count}" for reason, count in sorted(slot.restarts.items())) or "-",
    )  # fmt: skip


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f}" if milliseconds else "-"  # 0 is what stands there before the first sample
