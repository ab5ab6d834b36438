"""What a command about the running pool goes by where pool.toml is broken: the copy of it that the pool was given.

Found without the file's help, which is broken: where it or the environment name `var_dir`, and where it is by default. It is taken
only where a pool of that very file runs. Starts and changes nothing; what `up` and `config reload` read is the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from broker import settings
from broker.errors import PenstockError
from broker.settings import ENV_VAR_DIR, Settings
from broker.settings_tables import PoolSettings
from operators import applied
from operators.supervisor import Supervisor

ANSWERS_WITHIN_S = 2.0  # a supervisord that hangs must not hold up the line that says what is wrong with the file
_NAMED = re.compile(r"""\bvar_dir\s*=\s*(["'])(.+?)\1""")


def in_force_of_broken(path: str | None, *, environ: Mapping[str, str] = os.environ) -> Settings | None:
    """The settings of the pool that runs with that file, None where none does. `path` is a flag's value, as for `load`."""
    chosen = settings.choose(path, environ=environ)
    for folder in _folders(chosen, environ):
        try:
            text = settings.read_copy(folder / applied.NAME)
            if text is None:
                continue
            found = settings.parse_copy(text, folder / applied.NAME, chosen, environ=environ)
            if found.var == folder and _runs(found):
                return found
        except PenstockError:  # the copy is broken as well, or another pool's: what is wrong with the file is told then
            continue
    return None


def _folders(chosen: str, environ: Mapping[str, str]) -> Iterator[Path]:
    """Where the state folder may be, each once."""
    try:
        text = Path(chosen).read_text(errors="replace")
    except OSError:
        text = ""
    named = [environ.get(ENV_VAR_DIR, ""), *(name for _, name in _NAMED.findall(text)), PoolSettings().var_dir]
    yield from dict.fromkeys((settings.root_of(chosen) / name).absolute() for name in named if name)


def _runs(found: Settings) -> bool:
    supervisor = Supervisor(found, timeout_s=ANSWERS_WITHIN_S)
    if not supervisor.is_running():
        return False
    supervisor.require_ours()
    return True
