"""What click asks while a shell completes; the words are `words`. For arguments of commands, `shell_complete=complete_model`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from operators.completion import words

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def _completer(offered: Callable[[str | None], list[str]]) -> Callable[[Any, Any, str], list[str]]:
    def complete(context: Any, parameter: Any, incomplete: str) -> list[str]:
        return [word for word in offered(context.find_root().params.get("config")) if word.startswith(incomplete)]

    return complete


complete_model = _completer(words.models)
complete_slot = _completer(words.slots)
complete_run = _completer(words.runs)
complete_program = _completer(words.programs)
