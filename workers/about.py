"""What an outcome tells of single rows, cut to what its note can carry. Pure."""

from __future__ import annotations

NOTE_BYTES = 24_000  # each; a note's length travels in 16 bits


def cut(texts: dict[str, str]) -> dict[str, str]:
    """The same rows with texts as long as fit; rows without a text where there are too many even so."""
    room = max(0, NOTE_BYTES // len(texts) - 12)
    if room == 0:
        return dict.fromkeys(list(texts)[: NOTE_BYTES // 12], "")
    return {row: text.encode()[:room].decode(errors="ignore") for row, text in texts.items()}
