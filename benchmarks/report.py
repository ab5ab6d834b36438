"""Figures as a plain table and as one flat JSON file. Nothing is written here that was not measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import machine
from broker.connection import Link

Row = Sequence[str]


def table(rows: Sequence[Row], *, right: Sequence[int] = (1,)) -> str:
    """Aligned columns, two spaces apart; the first row is the head, `right` are columns set to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
        if number == 0:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)


def markdown(rows: Sequence[Row], *, right: Sequence[int] = (1,)) -> str:
    """The same as a Markdown table."""
    marks = ["---:" if column in right else "---" for column in range(len(rows[0]))]
    lines = [rows[0], marks, *rows[1:]]
    return "\n".join(f"| {' | '.join(cell.strip() for cell in row)} |" for row in lines)


def about(link: Link) -> dict[str, Any]:
    """Where and when: what every file of figures carries."""
    return {
        "machine": machine.cpu_model(),
        "cores": machine.cores(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "server": machine.server(link),
        "versions": machine.versions(),
    }


def verdict(value: float | None, *, least: float | None = None, most: float | None = None) -> str:
    """`>= 0.65  ok`, `<= 2  MISSED`, or `skipped` for what was not measured."""
    bound = f">= {least:g}" if least is not None else f"<= {most:g}"
    if value is None:
        return f"{bound}  not measured"
    is_met = value >= least if least is not None else value <= (most or 0)
    return f"{bound}  {'ok' if is_met else 'MISSED'}"


def write(path: Path, figures: dict[str, Any]) -> None:
    """One JSON object, a key per line."""
    text = msgspec.json.format(msgspec.json.encode(figures), indent=2).decode()
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """The file with this text, and never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text.rstrip("\n") + "\n")
    fresh.replace(path)


def figure(value: float | None, digits: int = 2) -> str:
    """A number with thousands apart by a space, or a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}".replace(",", " ")
