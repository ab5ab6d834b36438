"""The roles of the pool in Redis: reads configs/redis.acl and writes it as a server of a given version takes it.

Not a client: nothing here connects. `python -m broker.acl` prints the commands that set the roles up on a shared server.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal

from broker.errors import ConfigError

Role = Literal["producer", "worker", "operator", "runs", "monitor", "admin"]
ROLES: tuple[Role, ...] = ("producer", "worker", "operator", "runs", "monitor")
DEFAULT_AS: Role = "producer"  # whose rights an app has that connects to the embedded server without a name
OLDEST = (6, 2)
# On the embedded server only, whose settings hold no secret: what durability="fsync" and `penstock doctor` ask. On a shared
# server CONFIG GET would tell passwords, so docs/security.md leaves it to its owner.
_ASKS_SETTINGS: tuple[Role, ...] = ("producer", "monitor")
_SETTINGS = "+config|get"
_HALF_RIGHTS = (7, 0)  # %R~pattern, %W~pattern: to read or to write only
_HALF = re.compile(r"^%[RW]~")
_SUBCOMMANDS_CHECKED = (7, 0)  # older servers take a rule of any subcommand, and ask for it where they do not know it
_START = ("resetkeys", "resetchannels", "-@all")  # a user begins with no rights at all, whatever it was before


def read(path: Path | None = None) -> dict[str, list[str]]:
    """role -> its rules as they stand in the file. Raises ConfigError naming the line that is wrong."""
    path = path or find()
    users: dict[str, list[str]] = {}
    name = ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if line[0].isspace():
            if not name or not all(word[0] in "+~%" for word in words):
                raise ConfigError(
                    f"{path}:{number}: a rule begins with +, ~, %R~ or %W~ and stands under its `user NAME`"
                )
            users[name] += words
        elif len(words) == 2 and words[0] == "user" and words[1] in ROLES and words[1] not in users:
            name = words[1]
            users[name] = []
        else:
            raise ConfigError(f"{path}:{number}: write `user NAME` once for each of {', '.join(ROLES)}")
    if missing := [role for role in ROLES if role not in users]:
        raise ConfigError(f"{path}: has no user {missing[0]}; bring the file back from the release")
    return users


def rules(words: list[str], version: tuple[int, int]) -> list[str]:
    """One user's rules for a server of `version`: commands it does not know are left out, %R~ and %W~ become ~ where they must."""
    kept = []
    for word in words:
        rule, _, since = word.partition("@")
        is_known = not since or version >= tuple(int(part) for part in since.split("."))
        if not is_known and not ("|" in rule and version < _SUBCOMMANDS_CHECKED):
            continue
        kept.append(_HALF.sub("~", rule) if version < _HALF_RIGHTS else rule)
    return kept


def users_file(version: tuple[int, int], path: Path | None = None) -> str:
    """The aclfile of the embedded server: every role and `admin`, none with a password.

    Its socket lies in a 0700 folder, so whoever reaches it may change this file as well: roles guard against mistakes and
    hijacked programs there, not against that person. No program of the pool connects as `admin`; it is for redis-cli.
    """
    users = {name: words + [_SETTINGS] * (name in _ASKS_SETTINGS) for name, words in read(path).items()}
    lines = [_user(name, ["nopass", *_START, *rules(users[name], version)]) for name in ROLES]
    lines.append(_user("default", ["nopass", *_START, *rules(users[DEFAULT_AS], version)]))
    lines.append(_user("admin", ["nopass", "~*", "&*", "+@all"]))
    return "\n".join(lines) + "\n"


def commands(version: tuple[int, int], path: Path | None = None) -> list[str]:
    """A command per role for a shared server; passwords are set apart, and those set already stay."""
    users = read(path)
    return [f"ACL SETUSER {name} {' '.join(['on', *_START, *rules(users[name], version)])}" for name in ROLES]


def version_of(server: Path) -> tuple[int, int]:
    """What `redis-server --version` says. A version, not a probe: the file must be there before the server can be asked."""
    try:
        said = subprocess.run(
            [str(server), "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    found = re.search(r"v=(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else OLDEST


def find() -> Path:
    """configs/redis.acl: of a checkout, or in share/ of an installed wheel. Raises ConfigError."""
    checkout = Path(__file__).resolve().parent.parent / "configs" / "redis.acl"
    for path in (checkout, Path(sys.prefix) / "share" / "penstock" / "redis.acl"):
        if path.exists():
            return path
    raise ConfigError("redis.acl is missing from this installation; reinstall penstock")


def _user(name: str, words: list[str]) -> str:
    return f"user {name} on {' '.join(words)}"


def main(argv: list[str] | None = None) -> int:
    """Prints the commands; feed them to redis-cli, then set the passwords: docs/security.md."""
    parser = argparse.ArgumentParser(prog="python -m broker.acl", description="Commands that set up the pool's roles.")
    parser.add_argument("--server", default="6.2", metavar="X.Y", help="version of the Redis they are for (6.2)")
    given = parser.parse_args(argv)
    found = re.fullmatch(r"(\d+)\.(\d+)(\.\d+)?", given.server)
    if not found:
        parser.error(f"--server {given.server} is no version; write 6.2 or 7.0")
    print("\n".join(commands((int(found[1]), int(found[2])))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
