"""How every program of the pool logs: one JSON object a line, to stderr, which supervisord writes to var/log."""

from __future__ import annotations

import sys

import structlog


def to_stderr() -> None:
    """Called once, at a program's edge."""
    structlog.configure(
        processors=[structlog.processors.TimeStamper(fmt="iso"), structlog.processors.add_log_level,
                    structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )  # fmt: skip
