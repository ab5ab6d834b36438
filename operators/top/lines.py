"""A frame as lines of text that fit a screen: cells and widths, no colours. What does not fit is counted, worst first."""

from __future__ import annotations

import time
from typing import Literal

import msgspec

from operators import table
from operators.table import age, clean, cut, size
from operators.top.frame import Frame, ModelRow, SlotRow

Tone = Literal["plain", "head", "title", "error", "warning", "good", "faint"]
MOST_PROBLEMS = 5
WIDE = 110  # columns from which restarts are told by reason for each slot
NAME, REASON = 16, 40


class Text(msgspec.Struct, frozen=True):
    """One line and how it is meant."""

    text: str
    tone: Tone = "plain"


def draw(frame: Frame, *, width: int = 80, height: int | None = None) -> list[Text]:
    """The frame in `width` columns and, if told, `height` lines; problems stand on top."""
    head = [_title(frame, width), *_problems(frame, width)]
    foot = [Text(cut(f"restarts  {_reasons(frame.restarts)}", width), "faint")] if frame.restarts else []
    models, slots = len(frame.models), len(frame.slots)
    if height is not None:
        models, slots = _shared(height - len(head) - len(foot) - 3, models, slots)
    blocks = [block for block in (head, _models(frame, width, models), _slots(frame, width, slots), foot) if block]
    lines = [line for block in blocks for line in (*block, Text(""))][:-1]
    return lines if height is None else lines[:height]


def _shared(room: int, models: int, slots: int) -> tuple[int, int]:
    """How many of each are shown in `room` lines; each table has a head, and a line that counts what is left out."""
    if models + slots + 2 <= room:
        return models, slots
    of_models = max(room // 2, room - slots - 1)
    shown = models if models + 1 <= of_models else max(1, of_models - 2)
    rest = room - min(models + 1, shown + 2)
    return shown, slots if slots + 1 <= rest else max(1, rest - 2)


def _title(frame: Frame, width: int) -> Text:
    clock = time.strftime("%H:%M:%S", time.localtime(frame.at_ms / 1000 if frame.at_ms else time.time()))
    used = (
        f" {size(frame.used_bytes)}" + (f" of {size(frame.max_bytes)}" if frame.max_bytes else "")
        if frame.used_bytes
        else ""
    )
    state = "up" if frame.is_up else "down"
    left = f"penstock {clean(frame.host)}  {state}  {clean(frame.redis)}{used}  {rate(frame.jobs_per_s)} jobs/s"
    room = max(0, width - len(clock) - 2)
    return Text(f"{left[:room].ljust(room)}  {clock}"[-width:], "title")


def _problems(frame: Frame, width: int) -> list[Text]:
    shown = frame.problems[:MOST_PROBLEMS]
    lines = [
        Text(
            cut(f"{one.level}: {one.text}" + (f" -> {one.mend}" if one.mend else ""), width),
            "error" if one.level == "error" else "warning",
        )
        for one in shown
    ]
    if len(frame.problems) > len(shown):
        lines.append(Text(f"and {len(frame.problems) - len(shown)} more: `penstock status`", "faint"))
    return lines


def _models(frame: Frame, width: int, most: int) -> list[Text]:
    if not frame.models:
        return []
    worst = sorted(
        frame.models, key=lambda one: (_tone_of_model(one) == "plain", -(one.oldest_age_ms or 0), -one.jobs_per_s)
    )
    kept = {one.name for one in worst[:most]}
    shown = [one for one in frame.models if one.name in kept]
    paused = ("PAUSED",) if any(one.paused for one in shown) else ()
    head = (
        "MODEL",
        "READY",
        "HIGH",
        "NORMAL",
        "LOW",
        "CLAIMED",
        "DELAYED",
        "DEAD",
        "OLDEST",
        "JOBS/S",
        "FULL",
        *paused,
    )
    rows = [
        (
            cut(one.name, NAME), f"{one.ready}/{one.wanted}", *(count(depth) for depth in one.depth.values()), count(one.claimed),
            count(one.delayed), count(one.dead), age(one.oldest_age_ms), rate(one.jobs_per_s), f"{one.full:.0%}", *(("/".join(one.paused) or "-",) if paused else ()),
        )
        for one in shown
    ]  # fmt: skip
    texts = _table([head, *rows], range(1, len(head) - len(paused)), [_tone_of_model(one) for one in shown], width)
    if left := len(frame.models) - len(shown):
        texts.append(Text(f"and {table.count_of(left, 'more model')} with younger jobs", "faint"))
    return texts


def _slots(frame: Frame, width: int, most: int) -> list[Text]:
    if not frame.slots:
        return []
    shown, rest = frame.slots[:most], frame.slots[most:]
    has_device = any(one.device_bytes is not None for one in frame.slots)
    is_ours = all(one.name.rpartition("/")[0] == frame.host for one in frame.slots)
    device = ("DEVICE",) if has_device else ()
    head = ("SLOT", "MODEL", "STATE", "ROWS", "FILL", "JOBS/S", "p50", "p99", "MEMORY", *device, "UP", "RESTARTS")
    rows = []
    for one in shown:
        state = f"{one.state}: {cut(one.reason, REASON)}" if one.reason and width >= WIDE else one.state
        rows.append(
            (
                str(one.number) if is_ours else cut(one.name, NAME), cut(one.model, NAME) or "-", clean(state) or "-",
                "-" if one.rows_per_batch is None else f"{one.rows_per_batch:.3g}", "-" if one.fill is None else f"{one.fill:.0%}",
                rate(one.jobs_per_s), _ms(one.p50_ms), _ms(one.p99_ms), _memory(one.host_bytes, one.host_growth_bytes),
                *((_memory(one.device_bytes, one.device_growth_bytes),) if has_device else ()), age(one.up_ms),
                (_reasons(one.restarts) if width >= WIDE else count(sum(one.restarts.values()))) or "-",
            )
        )  # fmt: skip
    texts = _table([head, *rows], range(3, len(head) - (width >= WIDE)), [_tone_of_slot(one) for one in shown], width)
    if rest:
        ready = sum(one.is_ready for one in rest)
        texts.append(
            Text(f"and {table.count_of(len(rest), 'more slot')}, {ready} ready: `penstock status` shows all", "faint")
        )
    return texts


def _table(rows: list[tuple[str, ...]], right: range, tones: list[Tone], width: int) -> list[Text]:
    texts = table.align(rows, right=right, gap=1 if width < 100 else 2)
    return [Text(text[:width], tone) for text, tone in zip(texts, ("head", *tones), strict=True)]


def _tone_of_model(one: ModelRow) -> Tone:
    if one.wanted and not one.ready:
        return "error"
    return "warning" if one.paused or one.ready < one.wanted or one.full >= 0.8 else "plain"


def _tone_of_slot(one: SlotRow) -> Tone:
    if one.state in ("failing", "backing off", "silent"):
        return "error"
    return "plain" if one.is_ready else "warning"


def _memory(used: int | None, growth: int | None) -> str:
    """1.2 GB +12, the growth in MB."""
    if used is None:
        return "-"
    return size(used) + (f" {growth / 1e6:+.0f}" if growth is not None else "")


def _reasons(restarts: dict[str, int]) -> str:
    return "  ".join(
        f"{clean(reason)} {number}" for reason, number in sorted(restarts.items(), key=lambda one: -one[1])
    )


def count(number: int) -> str:
    """0 to 99999, then 123k, 4.5M: six characters at most."""
    if number < 100_000:
        return str(number)
    return f"{number / 1e3:.0f}k" if number < 1e6 else f"{number / 1e6:.1f}M"


def rate(per_s: float) -> str:
    """A rate in six characters at most."""
    return f"{per_s:.1f}" if 0 < per_s < 10 else count(round(per_s))


def _ms(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.1f}" if milliseconds < 1000 else f"{milliseconds / 1000:.1f}s"
