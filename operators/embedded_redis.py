"""`python -m operators.embedded_redis`: the program supervisord runs for the embedded server. It ends as redis-server."""

from __future__ import annotations

import os
import sys

from broker import embedded, settings
from broker.errors import PenstockError

REFUSED = 75  # EX_TEMPFAIL: another server of this pool still lives, or a setting is wrong; supervisord tries again


def main() -> int:
    """Becomes redis-server, or says in one line why not and returns an exit code."""
    try:
        chosen = settings.load()
        embedded.serve(chosen, supervisor_pid=_supervisor_pid(chosen))
    except PenstockError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: cannot start the embedded Redis: {error}", file=sys.stderr)
    return REFUSED


def _supervisor_pid(chosen: settings.Settings) -> int | None:
    """Who started us when it is supervisord, from its pid file: written before it starts any program."""
    if os.environ.get("SUPERVISOR_ENABLED") != "1":
        return None
    try:
        return int((chosen.runtime / "supervisord.pid").read_text())
    except (OSError, ValueError):
        return os.getppid()


if __name__ == "__main__":
    sys.exit(main())
