"""pool.toml into frozen structs. Flag > environment > TOML > default; an unknown key is an error that names the nearest.

Nothing is read at import: `load` is called once, at a program's edge, and the result is passed on.
"""

from __future__ import annotations

import difflib
import os
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from broker.errors import ConfigError
from broker.fingerprint import is_local
from broker.settings_tables import (
    AutoscaleSettings,
    ModelSettings,
    PoolSettings,
    RedisSettings,
    RetireSettings,
    RunsSettings,
    ScheduleSettings,
    SlotSettings,
)
from broker.settings_together import check_together
from broker.settings_values import check, require_table
from broker.spec import Limits

if TYPE_CHECKING:
    from broker.acl import Role

ENV_CONFIG = "PENSTOCK_CONFIG"
ENV_APPLIED = "PENSTOCK_APPLIED"  # programs under supervisord: the copy of that file which `up` or `reload` found right
ENV_REDIS_URL = "PENSTOCK_REDIS_URL"
ENV_VAR_DIR = "PENSTOCK_VAR_DIR"
ENV_HOST = "PENSTOCK_HOST"
DEFAULT_CONFIG = "configs/pool.toml"

# Tables of tables, [KIND.NAME]; what each must hold; tables within them.
NAMED: Mapping[str, type[msgspec.Struct]] = {"models": ModelSettings, "schedules": ScheduleSettings}
MUST: Mapping[str, Mapping[str, str]] = {
    "models": {"artifact": "set it to the model's folder"},
    "schedules": {
        "cron": 'write minute, hour, day, month, weekday, e.g. "0 2 * * *"',
        "input": "name what to score", "model": "name the model", "output": "name the scored file",
    },
}  # fmt: skip
WITHIN: Mapping[tuple[type[msgspec.Struct], str], type[msgspec.Struct]] = {
    (ModelSettings, "retire"): RetireSettings,
    (ModelSettings, "autoscale"): AutoscaleSettings,
}


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of pool.toml."""

    redis: RedisSettings = RedisSettings()
    pool: PoolSettings = PoolSettings()
    slot: SlotSettings = SlotSettings()
    retire: RetireSettings = RetireSettings()
    queue: Limits = Limits()
    runs: RunsSettings = RunsSettings()
    models: dict[str, ModelSettings] = {}
    schedules: dict[str, ScheduleSettings] = {}
    path: str = ""  # where it was read from; relative paths in it start there
    root: str = ""

    @property
    def var(self) -> Path:
        """The state folder, absolute."""
        return (Path(self.root) / self.pool.var_dir).absolute()

    @property
    def host(self) -> str:
        return self.pool.host or socket.gethostname()

    @property
    def is_embedded(self) -> bool:
        return not self.redis.url

    @property
    def redis_url(self) -> str:
        """The configured URL, or the embedded server's socket."""
        return self.redis.url or f"unix://{self.runtime / 'redis.sock'}"

    def redis_url_as(self, role: Role) -> str:
        """The URL under which a program of the pool connects in its role (configs/redis.acl).

        The embedded server knows the roles by name alone, its folder is 0700; a configured URL is used as it is.
        """
        return f"unix://{role}:{role}@{self.runtime / 'redis.sock'}" if self.is_embedded else self.redis.url

    @property
    def trusted(self) -> Path:
        """The list of artifacts that may run code when they are loaded, absolute."""
        return (Path(self.root) / self.pool.trusted).absolute()

    @property
    def run_roots(self) -> tuple[str, ...]:
        """Where runs may read and write, paths absolute; () anywhere."""
        return tuple(str(Path(self.root).absolute() / one) if is_local(one) else one for one in self.runs.roots)

    @property
    def runtime(self) -> Path:
        """Folder of the sockets: var/run, or a short folder under /tmp where that path would pass 108 bytes."""
        runtime = self.var / "run"
        if len(str(runtime)) <= 80:
            return runtime
        from hashlib import blake2b

        return Path(f"/tmp/penstock-{os.getuid()}-{blake2b(str(self.var).encode(), digest_size=4).hexdigest()}")

    def artifact_path(self, model: str) -> Path:
        """Where the model's artifact lies, absolute. Raises ConfigError for a model not in [models]."""
        if model not in self.models:
            raise ConfigError(unknown("model", model, self.models))
        return (Path(self.root) / self.models[model].artifact).absolute()

    def retire_of(self, model: str) -> RetireSettings:
        """[retire] with the model's own overrides."""
        override: dict[str, Any] = dict(self.models[model].retire) if model in self.models else {}
        return msgspec.structs.replace(self.retire, **override)


def load(path: str | None = None, *, environ: Mapping[str, str] = os.environ) -> Settings:
    """Reads and checks pool.toml. Raises ConfigError naming file, key and mend.

    `path` is a flag's value; without it PENSTOCK_CONFIG, then configs/pool.toml if it exists, then the defaults. Of the file in
    PENSTOCK_CONFIG the copy in PENSTOCK_APPLIED is read, where there is one: a slot that restarts at 3 a.m. must not meet a
    file that somebody is editing.
    """
    chosen = choose(path, environ=environ)
    if not chosen:
        return parse("", "", environ=environ)
    copy = "" if path else environ.get(ENV_APPLIED, "")
    if copy:
        text = read_copy(Path(copy))
        if text is not None:
            return parse_copy(text, copy, chosen, environ=environ)
    try:
        text = Path(chosen).read_text()
    except OSError as error:
        raise ConfigError(f"cannot read {chosen}: {error.strerror}; name a file with --config") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{chosen} is not TOML: {error}") from None
    return parse(text, chosen, environ=environ)


def choose(path: str | None = None, *, environ: Mapping[str, str] = os.environ) -> str:
    """The file that `load` reads; "" for the defaults."""
    return path or environ.get(ENV_CONFIG) or (DEFAULT_CONFIG if Path(DEFAULT_CONFIG).exists() else "")


def root_of(chosen: str | Path) -> Path:
    """Where relative paths in that file start: a file in configs/ speaks of paths beside configs/, not in it."""
    folder = Path(chosen).absolute().parent
    return folder.parent if folder.name == "configs" else folder


def read_copy(copy: Path) -> str | None:
    """What the running pool was given; None where no copy is kept. Raises ConfigError for one that cannot be read."""
    try:
        return copy.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read {copy}, what the pool was given: {error}; `penstock down` and `up` make it anew"
        ) from None


def parse_copy(text: str, copy: str | Path, chosen: str, *, environ: Mapping[str, str] = os.environ) -> Settings:
    """As `parse`, of the copy of `chosen`. An error names both: nothing may be wrong with the file."""
    try:
        return parse(text, chosen, environ=environ)
    except ConfigError as error:
        raise ConfigError(f"{copy}, the copy the pool was given: {error}") from None


def parse(text: str, chosen: str, *, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings that `text` gives, as if it stood in the file `chosen`. Raises ConfigError as `load` does."""
    try:
        raw: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{chosen} is not TOML: {error}") from None
    root = root_of(chosen) if chosen else Path.cwd()
    _check_tables(raw, chosen)
    if environ.get(ENV_REDIS_URL):
        raw.setdefault("redis", {})["url"] = environ[ENV_REDIS_URL]
    if environ.get(ENV_VAR_DIR):
        raw.setdefault("pool", {})["var_dir"] = environ[ENV_VAR_DIR]
    if environ.get(ENV_HOST):
        raw.setdefault("pool", {})["host"] = environ[ENV_HOST]
    raw |= {"path": str(Path(chosen).absolute()) if chosen else "", "root": str(root)}
    settings = msgspec.convert(raw, Settings)
    check_together(settings, chosen)
    return settings


def unknown(what: str, name: str, known: Any) -> str:
    """`unknown key "slotz"; did you mean "slots"?` - for any set of names."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f'did you mean "{close[0]}"?' if close else f"known: {', '.join(sorted(names)) or 'none'}"
    return f'unknown {what} "{name}"; {hint}'


def _check_tables(raw: dict[str, Any], where: str) -> None:
    tables = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    del tables["path"], tables["root"]
    for name, table in raw.items():
        if name not in tables:
            raise ConfigError(f"{where}: {unknown('key', name, tables)}")
        require_table(where, name, table, example=f"{name}.NAME" if name in NAMED else "")
        if name not in NAMED:
            _check_table(name, f"{where} [{name}]", table, tables[name])
    for kind, struct in NAMED.items():
        for name, table in raw.get(kind, {}).items():
            require_table(f"{where} [{kind}]", name, table, example=f"{kind}.{name}")
            _check_table(kind, f"{where} [{kind}.{name}]", table, struct)
            for key, mend in MUST[kind].items():
                if key not in table:
                    raise ConfigError(f"{where} [{kind}.{name}]: {key} is missing; {mend}")


def _check_table(name: str, where: str, table: dict[str, Any], struct: type[msgspec.Struct]) -> None:
    kinds = {field.name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in table.items():
        if key not in kinds:
            raise ConfigError(f"{where}: {unknown('key', key, kinds)}")
        inner = WITHIN.get((struct, key))
        if inner is not None:
            require_table(where, key, value, example=f"{where.rpartition('[')[2].rstrip(']')}.{key}")
            _check_table(key, f"{where.rstrip(']')}.{key}]", value, inner)
        else:
            check(name, where, key, value, kinds[key])
