"""The settings that the running pool was given: a copy of pool.toml in var/, made when `up` or `reload` had found it right.

Programs under supervisord read this copy (broker/settings.py), so that what a slot gets when it restarts by itself is what was
applied, whatever stands in pool.toml meanwhile. It lies in var/, not beside the sockets, which may be in a /tmp that is swept.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from broker.errors import ConfigError
from broker.settings import Settings, parse, parse_copy, read_copy

NAME = "applied.toml"


def path(settings: Settings) -> Path:
    """Where the copy lies."""
    return settings.var / NAME


def file_text(settings: Settings) -> str:
    """pool.toml as it stands, checked once more: it may have been edited since it was loaded. Raises ConfigError."""
    try:
        text = Path(settings.path).read_text()
    except OSError as error:
        raise ConfigError(f"cannot read {settings.path}: {error.strerror}; put it back") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{settings.path} is not TOML: {error}") from None
    parse(text, settings.path)
    return text


def write(settings: Settings, text: str) -> None:
    """Makes `text` what programs get from now on: all of it or none. Only its owner may read it; it may hold passwords."""
    _put(path(settings), text)


def begin(settings: Settings, text: str) -> None:
    """As `write`, keeping the copy of before until `finish` or `give_up`: a reload that died halfway is seen, and done again."""
    found = _before(settings)
    if not found.exists():
        _put(found, path(settings).read_text())
    write(settings, text)


def finish(settings: Settings) -> None:
    """What was begun is done."""
    _before(settings).unlink(missing_ok=True)


def give_up(settings: Settings) -> None:
    """The copy of before is in force again; there is none where the pool went down meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        _before(settings).replace(path(settings))


def remove(settings: Settings) -> None:
    """The pool is down: the next `up` follows pool.toml."""
    path(settings).unlink(missing_ok=True)
    _before(settings).unlink(missing_ok=True)


def in_force(settings: Settings) -> Settings:
    """What programs of the running pool get; `settings` where it keeps no copy (an older version started it)."""
    found = read_copy(path(settings))
    return settings if found is None else parse_copy(found, path(settings), settings.path)


def carried_out(settings: Settings) -> Settings | None:
    """What the pool was brought to as a whole: where a reload died halfway, what was in force before it. None: no copy is kept."""
    for copy in copies(settings):
        found = read_copy(copy)
        if found is not None:
            return parse_copy(found, copy, settings.path)
    return None


def is_as_the_file(settings: Settings) -> bool:
    """Whether the copy is pool.toml letter by letter, and no reload is under way or died halfway."""
    try:
        return not _before(settings).exists() and path(settings).read_bytes() == Path(settings.path).read_bytes()
    except OSError:
        return False


def copies(settings: Settings) -> tuple[Path, Path]:
    """Where copies lie: of before a reload that is under way or died halfway, and the one in force."""
    return _before(settings), path(settings)


def _before(settings: Settings) -> Path:
    return settings.var / "applied.before.toml"


def _put(target: Path, text: str) -> None:
    beside = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}; make room, or make it writable") from None
