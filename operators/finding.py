"""One check's word: what `penstock doctor` prints a line of."""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["ok", "warn", "fail"]


class Finding(msgspec.Struct, frozen=True):
    """`mend` is empty when the level is ok."""

    level: Level
    text: str
    mend: str = ""
