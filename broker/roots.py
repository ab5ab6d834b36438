"""Where the runs of a host may read and write: `[runs] roots`. Compares places, opens nothing.

A request comes from Redis, where every app that submits may write one. So what could mean another place than it says is refused.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from urllib.parse import unquote

from broker.errors import RunError
from broker.fingerprint import FILE, is_local


def check_within(roots: Sequence[str], url: str, what: str) -> None:
    """Raises RunError, naming `what`, unless `url` lies within one of the roots. Without roots every place is allowed.

    Paths are compared with their links and `..` resolved, as they are on this machine now; URLs by their text, at a `/`.
    """
    if roots and not any(_holds(root, url) for root in roots):
        raise RunError(
            f"{what} {url} lies outside the roots of runs on this host, {', '.join(roots)}; name a place within them, or have "
            "[runs] roots extended in pool.toml"
        )


def complaint(root: str) -> str:
    """What is wrong with a root in pool.toml, "" nothing."""
    if not root or root.startswith(FILE):
        return "must be a folder's path or a URL"
    if any(letter in root for letter in "*?") or "::" in root:
        return "must be one place; patterns and chains (::) are none"
    if is_local(root):
        return ""
    if "@" in root and ":" in root.partition("://")[2].partition("@")[0]:
        return "must hold no password; each machine's own environment has the credentials"
    return "" if _is_plain(root) else 'must hold no ".", ".." or \\'


def _holds(root: str, url: str) -> bool:
    if "::" in url or is_local(root) != is_local(url):  # a chain of file systems ends wherever its last link says
        return False
    if is_local(root):
        base = os.path.realpath(root).rstrip("/")
        return f"{os.path.realpath(url.removeprefix(FILE))}/".startswith(f"{base}/")
    base = root.rstrip("/")
    return _is_plain(url) and f"{url}/".startswith(f"{base}/")


def _is_plain(url: str) -> bool:
    """Whether no store could take it for a place elsewhere: some resolve `..`, some decode first."""
    return "\\" not in url and not {".", ".."} & set(unquote(url).split("/"))
