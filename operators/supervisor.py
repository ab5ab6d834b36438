"""supervisord, over XML-RPC on its unix socket: start and stop single slots, shut it down. `daemon` starts it.

Decides nothing about models. A single command may be lost on a slot that is just between exit and restart, so starting
and stopping ask again until the state is the wished one.
"""

from __future__ import annotations

import http.client
import time
import xmlrpc.client
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from broker.errors import SupervisorError
from broker.settings import Settings
from operators.supervised import AT_REST, RUNNING, numbered, program
from operators.supervised import Program as Program
from operators.unix_rpc import UnixTransport

RPC_TIMEOUT_S = 10.0
START_TIMEOUT_S = 15.0
SHUTDOWN_TIMEOUT_S = 105.0  # longer than what is killed last may take: programs of runs, and after them redis-server
POLL_S = 0.05
REMIND_S = 2.0  # between two SIGTERMs to a slot that drains; it heeds the first it gets
KILLED_AFTER_DRAIN_S = 10
RUNS_END_WITHIN_S, REDIS_ENDS_WITHIN_S = 30.0, 60.0  # stopwaitsecs of [program:runs] and [program:redis]

# What a call ends in when supervisord is away, broke off, or something else answers: xmlrpc lets its parser's error through.
NO_ANSWER = (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError)

# xmlrpc fault codes of supervisor.xmlrpc.Faults
_ALREADY_STARTED = 60
_NOT_RUNNING = 70
_SHUTDOWN_STATE = 6


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
        except NO_ANSWER as error:
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
        return numbered(self.programs("slot"))

    def programs(self, *groups: str) -> list[Program]:
        """Those of some groups of supervisord.conf, in one call."""
        return [program(info) for info in self._call("getAllProcessInfo") if info["group"] in groups]

    def redis(self) -> Program:
        """The embedded server's program."""
        return program(self._call("getProcessInfo", "redis"))

    def agent(self) -> Program:
        """The agent's program."""
        return program(self._call("getProcessInfo", "agent"))

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
        self._start_anew(self.redis())

    def start_agent(self) -> None:
        """As `start_redis`, for the agent."""
        self._start_anew(self.agent())

    def start_runs(self) -> None:
        """As `start_redis`, for those that work bulk runs."""
        for one in self.programs("runs"):
            self._start_anew(one, f"runs:{one.name}")

    def _start_anew(self, one: Program, name: str = "") -> None:
        if one.state in RUNNING:
            return
        self._tell("stopProcess", name or one.name, ignore=(_NOT_RUNNING,))  # ends a back-off
        self._tell("startProcess", name or one.name, False, ignore=(_ALREADY_STARTED,))

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
        wait_until(
            lambda: self._has_ended(pid),
            timeout_s=SHUTDOWN_TIMEOUT_S,
            failure=f"supervisord (pid {pid}) did not end; see {self.settings.var / 'log' / 'supervisord.log'}",
        )

    def _has_ended(self, pid: int) -> bool:
        """Whether supervisord is gone. Asking it has it look at its children now; by itself that may take a second for each."""
        try:
            self._server.getState()
        except NO_ANSWER:  # it refuses all while it shuts down, and then is gone
            pass
        finally:
            self._transport.close()
        return not is_alive(pid)

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
                one = programs.get(number)
                if one is None:
                    raise SupervisorError(
                        f"supervisord has no place for slot {number}: it was started with {len(programs)}; "
                        "`penstock down` and `penstock up` give it pool.most_slots + 1"
                    )
                if one.state in until:
                    left.discard(number)
                elif one.state in act_on:
                    self._tell(method, _name(number), False, ignore=(_ALREADY_STARTED, _NOT_RUNNING))
                elif one.state == "STOPPING" and is_reminding:
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
        except NO_ANSWER as error:
            raise SupervisorError(f"no answer from supervisord on {self.socket_path}: {error!r}") from None
        finally:
            self._transport.close()  # a connection per call: nothing to leak, nothing to find stale


def identity(settings: Settings) -> str:
    """What tells this pool's supervisord from another's: its configuration and its state folder."""
    return f"{settings.path or 'no configuration file'}, state in {settings.var}"


def stop_wait_s(settings: Settings) -> int:
    """Seconds after SIGTERM at which supervisord kills a slot."""
    return int(settings.slot.drain_s) + KILLED_AFTER_DRAIN_S


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended and waits to be reaped (init of many containers never does) does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _name(number: int) -> str:
    return f"slot:slot_{number:02d}"


def wait_until(condition: Callable[[], bool], *, timeout_s: float, failure: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise SupervisorError(failure)
        time.sleep(POLL_S)
