"""What the embedded Redis is told: the text of redis.conf, and the file of its users."""

from __future__ import annotations

from pathlib import Path

from broker import acl


def render(
    *,
    socket_path: Path,
    folder: Path,
    max_memory_mb: int,
    is_durable: bool = True,
    fsync: str = "everysec",
    users: Path | None = None,
) -> str:
    """The text of redis.conf. `is_durable` keeps an append-only file; without it a restart is empty.

    `fsync`: when that file is synced, everysec or always (before each answer).
    `users` is the file with the roles' rights; without it everybody may do everything.
    """
    roles = (
        f"\n# Who may do what; written from configs/redis.acl.\naclfile {_quoted(users)}\n" if users is not None else ""
    )
    return f"""\
# Written by penstock at every start of the server; edits are lost. Settings come from pool.toml.
port 0
unixsocket {_quoted(socket_path)}
unixsocketperm 700
dir {_quoted(folder)}
daemonize no
supervised no
logfile ""
loglevel notice
always-show-logo no

# A queue must refuse what it cannot hold; any other policy drops jobs without a word.
maxmemory {max_memory_mb}mb
maxmemory-policy noeviction

# A crash of redis-server loses nothing that was acknowledged, a crash of the machine at most about a second.
appendonly {"yes" if is_durable else "no"}
appendfsync {fsync}
save ""

# Large values are freed beside the command thread.
lazyfree-lazy-eviction yes
lazyfree-lazy-expire yes
lazyfree-lazy-server-del yes
lazyfree-lazy-user-del yes
{roles}"""


def write_users(folder: Path, server: Path) -> Path:
    """users.acl in `folder`, for a server of that binary's version."""
    path = folder / "users.acl"
    path.write_text(acl.users_file(acl.version_of(server)))
    return path


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
