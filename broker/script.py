"""Our Lua scripts: their text, put together from its parts, their digests, and the commands that run them. Sends nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha1
from importlib import resources

from broker.packed import Arg

_ENDING = ("body", "finish")
_PARTS = {  # of scripts, none of their own: put in front of them in this order
    "submit": ("submit_lone", "body"), "settle": ("rate", "settle_lone", *_ENDING), "fail": _ENDING, "claim": _ENDING, "cancel": _ENDING,
    "expire": _ENDING, "sweep": ("body",), "drop": ("body",), "replay": ("body",), "letters": ("body",), "orphans": ("body",),
    "locate": ("kept",), "watch": ("kept",), "results": ("kept",), "run_submit": ("rival",), "run_ask": ("rival",),
}  # fmt: skip
SHARED = frozenset(part for parts in _PARTS.values() for part in parts)


def load_scripts() -> dict[str, tuple[bytes, str]]:
    """name -> (source, sha1) of every script, with its parts in front."""
    folder = resources.files("broker") / "scripts"
    texts = {
        file.name.removesuffix(".lua"): file.read_bytes() for file in folder.iterdir() if file.name.endswith(".lua")
    }
    scripts = {}
    for name in texts.keys() - SHARED:
        source = b"".join(texts[part] for part in (*_PARTS.get(name, ()), name))
        scripts[name] = (source, sha1(source, usedforsecurity=False).hexdigest())
    return scripts


SCRIPTS = load_scripts()


def evalsha(name: str, keys: Sequence[Arg], args: Iterable[Arg]) -> list[Arg]:
    """The command that runs a script by its digest."""
    return ["EVALSHA", SCRIPTS[name][1], len(keys), *keys, *args]
