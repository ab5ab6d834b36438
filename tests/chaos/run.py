"""`python -m tests.chaos`: plays the cases, prints the table, writes var/chaos.json, and fails when a promise was not kept."""

from __future__ import annotations

import argparse
import time
import traceback
from pathlib import Path

import msgspec

from tests.chaos.case import Case, Seen, Skipped
from tests.chaos.cases import CASES

REPORT = Path("var/chaos.json")


class Told(msgspec.Struct, frozen=True):
    """One case in the report. `recovery_max_s` is None where nothing had to recover."""

    case: str
    size: str
    tried: int
    faults: int
    lost: int
    twice: int
    recovery_max_s: float | None
    took_s: float
    verdict: str  # kept, broken, lossy (where losing is within the promise), skipped
    may_lose: str
    notes: dict[str, object]
    broken: list[str]


def main(arguments: list[str] | None = None) -> int:
    """0 when every promise was kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="sizes that end within six minutes in all")
    sizes.add_argument("--small", action="store_true", help="one fault a case, as the tests do")
    parser.add_argument(
        "--case", action="append", default=[], metavar="TEXT", help="only cases with this in their name"
    )
    sizes.add_argument("--size", type=int, help="this size instead of the case's own")
    parser.add_argument("--report", type=Path, default=REPORT, metavar="FILE", help=f"default: {REPORT}")
    options = parser.parse_args(arguments)
    chosen = [case for case in CASES if not options.case or any(text in case.name for text in options.case)]
    if not chosen:
        names = "; ".join(case.name for case in CASES)
        parser.error(f"no case has {' or '.join(options.case)} in its name; there are: {names}")
    told = []
    print(HEAD, flush=True)
    for case in chosen:
        one = play(case, options.size or (case.small if options.small else case.quick if options.quick else case.full))
        told.append(one)
        print(line(one), *(f"    broken: {text}" for text in one.broken), sep="\n", flush=True)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n")
    is_bad = any(one.verdict == "broken" for one in told)
    print(f"\n{'NOT every promise was kept' if is_bad else 'every promise was kept'}; {options.report}")
    return int(is_bad)


def play(case: Case, size: int) -> Told:
    """One case; what it raises is a broken promise, told with its traceback."""
    began = time.monotonic()
    verdict = ""
    try:
        seen = case.play(size)
    except Skipped as reason:
        seen, verdict = Seen(notes={"skipped": str(reason)}), "skipped"
    except Exception as error:  # noqa: BLE001 - the other cases must still be played
        seen = Seen(broken=[f"{type(error).__name__}: {error}", traceback.format_exc()])
    if not case.may_lose and (seen.lost or seen.twice) and not seen.broken:
        seen.expect(False, f"{seen.lost} lost, {seen.twice} answered twice")
    verdict = verdict or ("broken" if seen.broken else "lossy" if seen.lost else "kept")
    return Told(
        case=case.name, size=f"{size} {case.unit}", tried=seen.tried, faults=seen.faults, lost=seen.lost, twice=seen.twice,
        recovery_max_s=max(seen.recovery_s, default=None), took_s=round(time.monotonic() - began, 1), verdict=verdict,
        may_lose=case.may_lose, notes=seen.notes, broken=seen.broken,
    )  # fmt: skip


HEAD = (
    f"{'case':40} {'size':>18} {'tried':>7} {'faults':>7} {'lost':>5} {'twice':>5} {'recovery':>9} {'took':>7}  verdict"
)


def line(one: Told) -> str:
    recovery = "-" if one.recovery_max_s is None else f"{one.recovery_max_s:.2f} s"
    notes = ", ".join(f"{key} {value}" for key, value in one.notes.items())
    return (
        f"{one.case:40} {one.size:>18} {one.tried:7} {one.faults:7} {one.lost:5} {one.twice:5} {recovery:>9} "
        f"{one.took_s:5.0f} s  {one.verdict}{f'  ({notes})' if notes else ''}"
    )
