"""Where the result of a tuning is kept: pool.toml, when it serves the model; else a file beside the artifact's folder."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from broker.errors import ConfigError
from broker.settings import Settings
from operators.tune import edit
from operators.tune.edit import Value


class Kept(msgspec.Struct, frozen=True):
    """`changes` are the lines that went (-) and came (+); none when the file said so already."""

    path: str
    changes: list[str]
    is_written: bool


def in_pool(
    settings: Settings, model: str, values: dict[str, Value], max_wait_ms: float | None, *, is_dry: bool
) -> Kept:
    """Sets the model's keys in pool.toml. Raises ConfigError with the lines to paste when the file cannot be edited.

    max_wait_ms is one for the whole pool: it is set where the model is the only one, and left as it is with None.
    """
    path = Path(settings.path).resolve()  # through links: the file itself is replaced
    before = _read(path)
    after = edit.put(before, f"models.{model}", values, where=settings.path)
    if max_wait_ms is not None and set(settings.models) == {model} and settings.slot.max_wait_ms != max_wait_ms:
        after = edit.put(after, "slot", {"max_wait_ms": max_wait_ms}, where=settings.path)
    return _keep(path, before, after, is_dry=is_dry)


def beside(folder: Path, model: str, values: dict[str, Value], *, is_dry: bool) -> Kept:
    """Writes a snippet for some pool.toml beside the artifact's folder: in it, it would be one of its files."""
    path = folder.parent / f"{folder.name}.pool.toml"
    before = _read(path) if path.exists() else ""
    head = "# Found by `penstock tune`: put this into pool.toml.\n"
    text = head + "\n".join(edit.lines(f"models.{model}", {"artifact": str(folder), **values})) + "\n"
    return _keep(path, before, text, is_dry=is_dry)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; correct it, or give --dry-run") from None


def _keep(path: Path, before: str, after: str, *, is_dry: bool) -> Kept:
    changes = edit.diff(before, after)
    if changes and not is_dry:
        _replace(path, after)
    return Kept(str(path), changes, bool(changes) and not is_dry)


def _replace(path: Path, text: str) -> None:
    """All of it or nothing, with the old file's rights."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        try:
            with beside.open("w") as file:
                os.fchmod(file.fileno(), mode)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}; give --dry-run and paste the lines") from None
