"""`python -m workers --slot N`: reads the settings, lives one life, gives its exit code."""

from __future__ import annotations

import argparse
import os
import signal
import time

import structlog

from broker import logs
from broker.errors import PenstockError, RedisUnavailable
from broker.settings import load
from workers import console
from workers.exits import Exit
from workers.life import Life
from workers.orphan import Parent
from workers.waits import Stopped

log = structlog.get_logger()


def main(argv: list[str] | None = None) -> int:
    """The command. One line and exit code 78 for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m workers", description="One slot of the pool; supervisord runs it.")
    parser.add_argument("--slot", type=int, required=True, help="the slot's number on this host")
    parser.add_argument("--config", help="pool.toml (default: $PENSTOCK_CONFIG, then configs/pool.toml)")
    parser.add_argument("--debug", action="store_true", help="run the model in this process, for a debugger")
    options = parser.parse_args(argv)
    console.outlast()
    logs.to_stderr()
    try:
        life = Life(load(options.config), options.slot, is_inline=options.debug, owns_process=True)
        parent = Parent(os.environ)
        signal.signal(signal.SIGTERM, lambda *_: life.abandon() if parent.is_gone else life.stop())
        signal.signal(signal.SIGINT, lambda *_: life.stop())
        if parent.is_gone:
            return int(Exit.DRAINED)
        return int(life.live())
    except Stopped:
        return int(Exit.DRAINED)
    except RedisUnavailable as error:
        log.error("redis unavailable", error=str(error), next="supervisord starts the slot again")
        return int(Exit.REDIS_LOST)
    except PenstockError as error:
        log.error("slot cannot start", error=str(error))
        time.sleep(1.0)  # supervisord restarts at once; a wrong setting must not become a tight loop
        return int(Exit.MISCONFIGURED)
