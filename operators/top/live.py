"""`penstock top` on a terminal: draws a frame a second on a screen of its own and gives the old one back, whatever ends it.

The only module that knows rich. Its refresh thread is off: a frame is drawn when there is a new one.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from operators.top import lines
from operators.top.frame import Frame

STYLES = {
    "plain": "",
    "head": "bold",
    "title": "bold reverse",
    "error": "red",
    "warning": "yellow",
    "good": "green",
    "faint": "dim",
}
TERMINATED = 143


def watch(look: Callable[[], Frame], *, interval_s: float) -> None:
    """Draws until q, Ctrl-C or SIGTERM."""
    console = Console(highlight=False)
    with _terminated(), _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        due = time.monotonic()
        while True:
            frame = look()
            shown = lines.draw(frame, width=console.width, height=console.height)
            text = Text("\n", no_wrap=True, overflow="crop").join(Text(one.text, STYLES[one.tone]) for one in shown)
            live.update(text, refresh=True)
            due = max(due + interval_s, time.monotonic())
            if pressed(due):
                return


@contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """A wait until a time of the monotonic clock, which q ends early with True. The terminal's settings are put back."""
    if not sys.stdin.isatty():
        yield _sleep
        return
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)

    def pressed(until: float) -> bool:
        while (left := until - time.monotonic()) > 0:
            if not select.select([stdin], [], [], left)[0]:
                return False
            typed = os.read(stdin, 64)
            if not typed or typed[:1] in b"qQ":  # the terminal has gone, or enough was seen
                return True
        return False

    try:
        tty.setcbreak(stdin)
        _forbid(stdin, termios.VSUSP, termios.VQUIT)
        yield pressed
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


def _forbid(terminal: int, *keys: int) -> None:
    """Ctrl-Z and Ctrl-\\ would leave the shell on our screen, without its cursor: here they are keys like any other."""
    mode = termios.tcgetattr(terminal)
    for key in keys:
        mode[6][key] = os.fpathconf(terminal, "PC_VDISABLE").to_bytes()
    termios.tcsetattr(terminal, termios.TCSANOW, mode)


def _sleep(until: float) -> bool:
    time.sleep(max(0.0, until - time.monotonic()))
    return False


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM and SIGHUP end it as an exit does, so that the terminal is given back."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED if number == signal.SIGTERM else 129)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
