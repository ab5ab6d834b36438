"""Which looks at a run are worth a line where no bar can be drawn: in logs and pipes. Decides; prints nothing."""

from __future__ import annotations

from broker.runs import View
from operators.runs import texts

TENTHS = 10
UNCOUNTED_MS = 30_000  # between two lines of a run whose rows are not counted


class ProgressLines:
    """Another state, another tenth, another reason to wait; at least every half minute where there are no tenths."""

    def __init__(self) -> None:
        self._said: tuple[object, ...] = ()
        self._said_ms = 0

    def line(self, view: View) -> str | None:
        """What to print for this look; None: nothing new."""
        share = texts.done_share(view)
        tenth = None if share is None else int(share * TENTHS)
        now = (texts.state(view), view.error, view.doing, tenth)
        is_late = tenth is None and view.at_ms - self._said_ms >= UNCOUNTED_MS
        if now == self._said and not is_late:
            return None
        self._said, self._said_ms = now, view.at_ms
        percent = "" if share is None else f"  {100 * share:.0f} %"
        return f"run {view.id}{percent}  {texts.progress(view)}"
