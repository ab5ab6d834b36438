"""supervisord, over XML-RPC on its unix socket: start it, start and stop single slots, shut it down.

Decides nothing about models. A single command may be lost on a slot that is just between exit and restart, so starting
and stopping ask again until the state is the wished one.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import shlex
import stat
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from broker.embedded import LONGEST_SOCKET_PATH
from broker.errors import SupervisorError
from broker.settings import ENV_CONFIG, ENV_HOST, ENV_VAR_DIR, Settings
from operators.unix_rpc import UnixTransport

ENV_SLOT_COMMAND = (
    "PENSTOCK_SLOT_COMMAND"  # what a slot runs instead of `python -m workers`: tests, wrappers, profilers
)
RPC_TIMEOUT_S = 10.0
START_TIMEOUT_S = 15.0
SHUTDOWN_TIMEOUT_S = 90.0  # redis-server may take its time to write its file out
POLL_S = 0.05
REMIND_S = 2.0  # between two SIGTERMs to a slot that drains; it heeds the first it gets
KILLED_AFTER_DRAIN_S = 10

# supervisord's states: these come to rest, those run or are about to.
AT_REST = frozenset({"STOPPED", "FATAL", "UNKNOWN"})
RUNNING = frozenset({"RUNNING", "STARTING"})

# xmlrpc fault codes of supervisor.xmlrpc.Faults
_ALREADY_STARTED = 60
_NOT_RUNNING = 70
_SHUTDOWN_STATE = 6


class Program(msgspec.Struct, frozen=True):
    """One program as supervisord sees it; RUNNING says nothing about whether a slot is ready."""

    name: str
    state: str
    pid: int
    up_s: int
    log: str
    trouble: str = ""  # supervisord's own words when it could not spawn


class SupervisorRefused(SupervisorError):
    """supervisord understood and refused; `code` is its fault code."""

    def __init__(self, text: str, *, code: int) -> None:
        super().__init__(text)
        self.code = code


class Supervisor:
    """The supervisord of one pool. Every method raises SupervisorError when it cannot be reached or refuses."""

    def __init__(self, settings: Settings, *, timeout_s: float = RPC_TIMEOUT_S) -> None:
        self.settings = settings
        self.socket_path = settings.runtime / "supervisor.sock"
        self._transport = UnixTransport(str(self.socket_path), timeout_s)
        self._server: Any = xmlrpc.client.ServerProxy("http://localhost", transport=self._transport).supervisor

    def is_running(self) -> bool:
        """Whether a supervisord answers on our socket."""
        try:
            self._server.getState()
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise SupervisorError(f"{self.socket_path} answers, but not as supervisord does: {error!r}") from None
        finally:
            self._transport.close()
        return True

    def require(self) -> None:
        """Raises SupervisorError unless this very pool's supervisord runs."""
        if not self.is_running():
            raise SupervisorError("the pool is not up; start it with `penstock up`")
        self.require_ours()

    def require_ours(self) -> None:
        """Raises SupervisorError when the supervisord on our socket belongs to another pool."""
        found = str(self._call("getIdentification"))
        if found != identity(self.settings):
            raise SupervisorError(
                f"the supervisord on {self.socket_path} belongs to another pool ({found}), nothing was changed; "
                "use its --config, or give this pool a pool.var_dir of its own"
            )

    def pid(self) -> int:
        return int(self._call("getPID"))

    def slots(self) -> dict[int, Program]:
        """number -> program, for every slot place there is, running or not."""
        found = {}
        for info in self._call("getAllProcessInfo"):
            if info["group"] == "slot":
                found[int(info["name"].rpartition("_")[2])] = _program(info)
        return dict(sorted(found.items()))

    def redis(self) -> Program:
        """The embedded server's program."""
        return _program(self._call("getProcessInfo", "redis"))

    def agent(self) -> Program:
        """The agent's program."""
        return _program(self._call("getProcessInfo", "agent"))

    def start_soon(self, number: int) -> None:
        """Starts one slot without waiting for anything."""
        self._tell("startProcess", _name(number), False, ignore=(_ALREADY_STARTED,))

    def stop_soon(self, number: int) -> None:
        """Asks one slot to drain, without waiting for its end."""
        self._tell("stopProcess", _name(number), False, ignore=(_NOT_RUNNING,))

    def kill_slot(self, number: int) -> None:
        """SIGKILL to one slot, which a stopped process hears too; its engine dies with it."""
        self._tell("signalProcess", _name(number), "KILL", ignore=(_NOT_RUNNING,))

    def start_redis(self) -> None:
        """Starts the embedded server at once where it waits out a back-off or was given up."""
        if self.redis().state in RUNNING:
            return
        self._tell("stopProcess", "redis", ignore=(_NOT_RUNNING,))
        self._tell("startProcess", "redis", ignore=(_ALREADY_STARTED,))

    def start_slot(self, number: int) -> None:
        """Starts one slot; returns when supervisord has spawned it, which is long before it is ready."""
        self.start_slots([number])

    def start_slots(self, numbers: Iterable[int], *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Starts slots; those that run already stay as they are."""
        self._drive(numbers, "startProcess", until=RUNNING, act_on=AT_REST | {"EXITED"}, timeout_s=timeout_s)

    def stop_slot(self, number: int) -> None:
        """Drains one slot and waits for its end."""
        self.stop_slots([number])

    def stop_slots(self, numbers: Iterable[int]) -> None:
        """Drains slots together and waits for their end; supervisord kills what outlasts slot.drain_s."""
        timeout_s = stop_wait_s(self.settings) + 15.0
        # EXITED: between exit and restart, where supervisord ignores a stop; it will be RUNNING within a second.
        self._drive(
            numbers, "stopProcess", until=AT_REST, act_on=RUNNING | {"BACKOFF", "EXITED"}, timeout_s=timeout_s
        )  # fmt: skip

    def shutdown(self) -> None:
        """Ends supervisord and what it still runs, the embedded server last; returns when its process is gone."""
        pid = self.pid()
        self._tell("shutdown", ignore=(_SHUTDOWN_STATE,))
        _wait_until(
            lambda: not is_alive(pid),
            timeout_s=SHUTDOWN_TIMEOUT_S,
            failure=f"supervisord (pid {pid}) did not end; see {self.settings.var / 'log' / 'supervisord.log'}",
        )

    def _drive(
        self, numbers: Iterable[int], method: str, *, until: frozenset[str], act_on: frozenset[str], timeout_s: float
    ) -> None:
        left = set(numbers)
        deadline = time.monotonic() + timeout_s
        remind_at = time.monotonic() + REMIND_S
        while left:
            is_reminding = time.monotonic() > remind_at
            if is_reminding:
                remind_at = time.monotonic() + REMIND_S
            programs = self.slots()
            for number in sorted(left):
                program = programs.get(number)
                if program is None:
                    raise SupervisorError(
                        f"supervisord has no place for slot {number}: it was started with {len(programs)}; "
                        "`penstock down` and `penstock up` give it pool.most_slots + 1"
                    )
                if program.state in until:
                    left.discard(number)
                elif program.state in act_on:
                    self._tell(method, _name(number), False, ignore=(_ALREADY_STARTED, _NOT_RUNNING))
                elif program.state == "STOPPING" and is_reminding:
                    # The first TERM is lost where it met supervisord's child between fork and exec.
                    self._tell("signalProcess", _name(number), "TERM", ignore=(_NOT_RUNNING,))
            if left and time.monotonic() > deadline:
                states = ", ".join(f"{number} {programs[number].state}" for number in sorted(left))
                raise SupervisorError(f"slots did not follow {method} within {timeout_s:g} s: {states}; see var/log")
            if left:
                time.sleep(POLL_S)

    def _tell(self, method: str, *args: Any, ignore: tuple[int, ...]) -> None:
        try:
            self._call(method, *args)
        except SupervisorRefused as fault:
            if fault.code not in ignore:
                raise

    def _call(self, method: str, *args: Any) -> Any:
        try:
            return getattr(self._server, method)(*args)
        except xmlrpc.client.Fault as fault:
            raise SupervisorRefused(
                f"supervisord refused {method}{args}: {fault.faultString}", code=fault.faultCode
            ) from None
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise SupervisorError(f"no answer from supervisord on {self.socket_path}: {error!r}") from None
        finally:
            self._transport.close()  # a connection per call: nothing to leak, nothing to find stale


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
    _wait_until(
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
        "PENSTOCK_STOP_WAIT_S": str(stop_wait_s(settings)),
        ENV_SLOT_COMMAND: os.environ.get(ENV_SLOT_COMMAND) or f"{shlex.quote(sys.executable)} -m workers",
        ENV_VAR_DIR: str(settings.var),
        ENV_HOST: settings.host,
    }
    if settings.path:
        made[ENV_CONFIG] = settings.path
    if (root / "pyproject.toml").exists():  # a checkout that may not be installed
        made["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **made}


def identity(settings: Settings) -> str:
    """What tells this pool's supervisord from another's: its configuration and its state folder."""
    return f"{settings.path or 'no configuration file'}, state in {settings.var}"


def stop_wait_s(settings: Settings) -> int:
    """Seconds after SIGTERM at which supervisord kills a slot."""
    return int(settings.slot.drain_s) + KILLED_AFTER_DRAIN_S


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


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended and waits to be reaped (init of many containers never does) does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _name(number: int) -> str:
    return f"slot:slot_{number:02d}"


def _program(info: dict[str, Any]) -> Program:
    return Program(
        name=info["name"],
        state=info["statename"],
        pid=info["pid"],
        up_s=info["now"] - info["start"] if info["pid"] else 0,
        log=info["stdout_logfile"],
        trouble=info["spawnerr"],
    )


def _wait_until(condition: Callable[[], bool], *, timeout_s: float, failure: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise SupervisorError(failure)
        time.sleep(POLL_S)
