"""`penstock audit`: the command. What is noted, and by whom, is `broker.audit`."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from broker import audit as notes
from broker import keys, roster
from operators import table
from operators.logs.lines import since
from operators.reach import reached
from operators.screen.cli import as_json, load_or_in_force, print_json, print_lines
from operators.table import clean, cut

LISTED = 50
LONGEST = 60


@click.command("audit", short_help="List who changed what, and why.")
@click.option("--limit", type=click.IntRange(min=1), default=LISTED, show_default=True, help="At most how many.")
@click.option(
    "--since", "since_text", metavar="TIME", help="From then on: 10m, 2h, 1d ago, or 07:30, 2026-11-22T07:30."
)
@as_json
@click.pass_obj
def audit(config: str | None, limit: int, since_text: str | None, is_json: bool) -> None:
    """List who changed what in the pool, and the reason that was given, the latest first. The last 10 000 acts are kept."""
    with reached(load_or_in_force(config), is_reading=True) as link:
        now_ms = roster.now_ms(link)
        found = notes.acts(link, keys.AUDIT_CAP if since_text else limit)
    if since_text:  # acts have Redis' time, which is the server's
        from_ms = since(since_text, datetime.fromtimestamp(now_ms / 1000, UTC).astimezone()).timestamp() * 1000
        found = [one for one in found if one.at_ms >= from_ms][:limit]
    if is_json:
        print_json(found)
    elif found:
        head = ("WHEN", "USER", "HOST", "COMMAND", "TARGET", "REASON")
        rows = [
            (
                f"{datetime.fromtimestamp(one.at_ms / 1000, UTC).astimezone():%Y-%m-%d %H:%M:%S}", clean(one.user), clean(one.host),
                cut(one.command, LONGEST), cut(one.target, LONGEST) or "-", cut(one.reason, LONGEST) or "-",
            )
            for one in found
        ]  # fmt: skip
        print_lines(table.align([head, *rows]))
    else:
        click.echo("nothing was changed" + (f" since {since_text}" if since_text else " yet"))
