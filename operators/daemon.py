"""How this pool's supervisord comes to be, and what it leaves: its folders, its environment, its start. Speaks no RPC."""

from __future__ import annotations

import importlib.util
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

from broker.embedded import LONGEST_SOCKET_PATH
from broker.errors import SupervisorError
from broker.settings import ENV_APPLIED, ENV_CONFIG, ENV_HOST, ENV_VAR_DIR, Settings
from operators import applied
from operators.supervisor import START_TIMEOUT_S, Supervisor, identity, stop_wait_s, wait_until

ENV_SLOT_COMMAND = (
    "PENSTOCK_SLOT_COMMAND"  # what a slot runs instead of `python -m workers`: tests, wrappers, profilers
)


def start_daemon(settings: Settings) -> Supervisor:
    """Starts this pool's supervisord in the background; returns when it answers.

    Raises SupervisorError with supervisord's last line when it does not start.
    """
    if importlib.util.find_spec("supervisor") is None:
        raise SupervisorError("supervisor is not installed; pip install 'penstock[local]'")
    prepare_folders(settings)
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(config_path())]
    try:
        done = subprocess.run(
            command, env=environment(settings), cwd=settings.root or None, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SupervisorError(f"supervisord did not go to the background within {START_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        words = [line for line in (done.stderr + done.stdout).splitlines() if line.strip() and "For help" not in line]
        raise SupervisorError(f"supervisord did not start: {words[-1] if words else f'exit {done.returncode}'}")
    supervisor = Supervisor(settings)
    wait_until(
        supervisor.is_running,
        timeout_s=START_TIMEOUT_S,
        failure=f"supervisord does not answer on its socket; see {settings.var / 'log' / 'supervisord.log'}",
    )
    return supervisor


def environment(settings: Settings) -> dict[str, str]:
    """What supervisord.conf expands, and what the programs under it find their settings by."""
    root = Path(__file__).resolve().parent.parent
    made = {
        "PENSTOCK_RUNTIME": str(settings.runtime),
        "PENSTOCK_VAR": str(settings.var),
        "PENSTOCK_ROOT": settings.root or str(Path.cwd()),
        "PENSTOCK_POOL": identity(settings),
        "PENSTOCK_PYTHON": shlex.quote(sys.executable),
        "PENSTOCK_EMBEDDED": "true" if settings.is_embedded else "false",
        "PENSTOCK_NUMPROCS": str(settings.pool.most_slots + 1),
        "PENSTOCK_RUNS": str(max(1, settings.runs.workers)),  # supervisord has no group of none
        "PENSTOCK_HAS_RUNS": "true" if settings.runs.workers else "false",
        "PENSTOCK_STOP_WAIT_S": str(stop_wait_s(settings)),
        ENV_SLOT_COMMAND: os.environ.get(ENV_SLOT_COMMAND) or f"{shlex.quote(sys.executable)} -m workers",
        ENV_VAR_DIR: str(settings.var),
        ENV_HOST: settings.host,
    }
    if settings.path:
        made[ENV_CONFIG] = settings.path
        made[ENV_APPLIED] = str(applied.path(settings))
    if (root / "pyproject.toml").exists():  # a checkout that may not be installed
        made["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **made}


def config_path() -> Path:
    """supervisord.conf: beside the packages in a checkout, in share/ of an installed wheel. Raises SupervisorError."""
    for folder in (Path(__file__).resolve().parent.parent, Path(sys.prefix) / "share" / "penstock"):
        if (folder / "supervisord.conf").exists():
            return folder / "supervisord.conf"
    raise SupervisorError("supervisord.conf is missing from this installation; reinstall penstock")


def prepare_folders(settings: Settings) -> None:
    """Makes var/, var/log and the 0700 folder of the sockets. Raises SupervisorError when they cannot be ours alone."""
    runtime = settings.runtime
    if len(str(runtime / "supervisor.sock.12345678")) > LONGEST_SOCKET_PATH + 7:
        raise SupervisorError(f"{runtime} is too long a path for a unix socket; set a shorter pool.var_dir")
    try:
        (settings.var / "log").mkdir(parents=True, exist_ok=True)
        runtime.mkdir(mode=0o700, exist_ok=True)
        found = runtime.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise SupervisorError(f"{runtime} is not a folder of ours (uid {found.st_uid}); remove it, then try again")
        runtime.chmod(0o700)
    except OSError as error:
        raise SupervisorError(
            f"cannot prepare {settings.var}: {error}; set pool.var_dir to a writable folder"
        ) from None


def remove_runtime(settings: Settings) -> None:
    """Removes sockets and pid files a pool left, and their folder when nothing else lies in it."""
    if not settings.runtime.is_dir():
        return
    for entry in settings.runtime.iterdir():
        if entry.is_socket() or entry.suffix == ".pid":
            entry.unlink(missing_ok=True)
    try:
        settings.runtime.rmdir()
    except OSError:
        pass  # somebody else's file lies there
