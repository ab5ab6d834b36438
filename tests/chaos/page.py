"""`python -m tests.chaos.page [REPORT]`: the table of docs/reliability.md from a report, on stdout."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from tests.chaos.run import REPORT, Told

HEAD = ("case", "size", "jobs", "faults", "lost", "twice", "recovery, worst", "seen beside")


def table(told: list[Told]) -> str:
    """Markdown. A case that was skipped says why."""
    rows = [HEAD, tuple("---" for _ in HEAD)]
    for one in told:
        recovery = "" if one.recovery_max_s is None else f"{one.recovery_max_s:.2f} s"
        notes = ", ".join(
            f"{key.replace('_', ' ')} {value}" for key, value in one.notes.items() if value not in (0, None)
        )
        verdict = "" if one.verdict == "kept" else f"**{one.verdict}** "
        cells = (one.case, one.size, one.tried, one.faults, one.lost, one.twice, recovery, verdict + notes)
        rows.append(tuple(map(str, cells)))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    report = Path(sys.argv[1]) if len(sys.argv) > 1 else REPORT
    print(table(msgspec.json.decode(report.read_bytes(), type=list[Told])))
