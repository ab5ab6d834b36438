"""A replicated Redis for tests: a master, its replica and one sentinel, all from one redis-server binary on loopback ports."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import redis

from broker.embedded import find_server
from tests.wait import wait_until

SERVICE = "penstock"
DOWN_AFTER_MS = 500


class Replicated(msgspec.Struct, frozen=True):
    """The three processes. Which of the servers is the master changes at a failover; `first` was it at the start."""

    sentinel_url: str
    first_url: str
    second_url: str
    sentinel_port: int
    first_port: int
    second_port: int
    sentinel_pid: int
    first_pid: int
    second_pid: int

    def master_port(self) -> int:
        """Who is the master, as redis-py asks: a moment later than GET-MASTER-ADDR-BY-NAME, which names the coming one."""
        with redis.Redis(port=self.sentinel_port, socket_timeout=2) as sentinel:
            return int(sentinel.sentinel_masters()[SERVICE]["port"])

    def fail_over(self, *, is_told: bool = True) -> None:
        """Asks the sentinel for a failover; returns when the other server is the master and takes writes.

        The sentinel tells the old master, which lives, after up to 10 s, and until then it goes on taking writes that will be
        lost. `is_told` says the same to it at once: to follow the new one, and to hang up on its clients.
        """
        before = self.master_port()
        with redis.Redis(port=self.sentinel_port, socket_timeout=2) as sentinel:
            wait_until(lambda: _asked(sentinel), "the sentinel begins a failover", timeout=10)
        wait_until(lambda: self.master_port() != before, "the sentinel names another master", timeout=15)
        wait_until(lambda: _role(self.master_port()) == "master", "that one takes writes", timeout=10)
        if is_told:
            with redis.Redis(port=before, socket_timeout=2) as old:
                old.execute_command("REPLICAOF", "127.0.0.1", self.master_port())
                old.execute_command("CLIENT", "KILL", "TYPE", "normal")

    def crash_master(self) -> None:
        """kill -9 of whoever is the master; returns when the sentinel has made the other one the master."""
        before = self.master_port()
        os.kill(self.first_pid if before == self.first_port else self.second_pid, signal.SIGKILL)
        wait_until(lambda: self.master_port() != before, "the sentinel names another master", timeout=20)
        wait_until(lambda: _role(self.master_port()) == "master", "that one takes writes", timeout=10)


@contextmanager
def replicated(
    folder: Path, *, binary: Path | None = None, down_after_ms: int = DOWN_AFTER_MS, is_durable: bool = True
) -> Iterator[Replicated]:
    """Starts the three in `folder` and waits until the replica follows and the sentinel knows it; ends them by their pids."""
    server = str(binary or find_server())
    ports = free_ports(3)
    with ExitStack() as stack:
        first = _started(stack, server, folder / "first", ports[0], is_durable=is_durable)
        second = _started(stack, server, folder / "second", ports[1], "replicaof", f"127.0.0.1 {ports[0]}",
                          is_durable=is_durable)  # fmt: skip
        wait_until(lambda: _follows(ports[1]), "the replica follows", timeout=20)
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {ports[2]}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {ports[0]} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} {down_after_ms}\n"
            f"sentinel failover-timeout {SERVICE} 3000\nsentinel parallel-syncs {SERVICE} 1\n"
        )
        sentinel = _run(stack, [server, str(config), "--sentinel"], folder / "sentinel.log")
        wait_until(lambda: _knows_replica(ports[2]), "the sentinel knows the replica", timeout=20)
        yield Replicated(
            f"redis+sentinel://127.0.0.1:{ports[2]}/{SERVICE}", f"redis://127.0.0.1:{ports[0]}",
            f"redis://127.0.0.1:{ports[1]}", ports[2], ports[0], ports[1], sentinel, first, second,
        )  # fmt: skip


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now, and whose cluster port is no concern."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _started(stack: ExitStack, server: str, folder: Path, port: int, *more: str, is_durable: bool) -> int:
    folder.mkdir(parents=True)
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly",
               "yes" if is_durable else "no", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0",
               "--maxmemory-policy", "noeviction"]  # fmt: skip
    for name, value in zip(more[::2], more[1::2], strict=True):
        options += [f"--{name}", *value.split()]
    pid = _run(stack, [server, *options], folder / "log")
    wait_until(lambda: _role(port), "the server answers", timeout=20)
    return pid


def _run(stack: ExitStack, command: list[str], log: Path) -> int:
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def end() -> None:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGCONT)  # a test may have stopped it
            process.kill()
        process.wait(10)

    stack.callback(end)
    return process.pid


def _role(port: int) -> str:
    try:
        with redis.Redis(port=port, socket_timeout=2) as server:
            return str(server.execute_command("ROLE")[0].decode())
    except (redis.RedisError, OSError):
        return ""


def _follows(port: int) -> bool:
    with redis.Redis(port=port, socket_timeout=2) as server:
        return server.info("replication").get("master_link_status") == "up"


def _knows_replica(port: int) -> bool:
    try:
        with redis.Redis(port=port, socket_timeout=2) as sentinel:
            replicas = sentinel.sentinel_replicas(SERVICE) if hasattr(sentinel, "sentinel_replicas") else []
            replicas = replicas or sentinel.sentinel_slaves(SERVICE)
            # A replica whose link the sentinel has not seen up yet is not fit to be promoted.
            return any(not one["is_sdown"] and one["master-link-status"] == "ok" for one in replicas)
    except (redis.RedisError, OSError):
        return False


def _asked(sentinel: redis.Redis) -> bool:
    try:
        return bool(sentinel.execute_command("SENTINEL FAILOVER", SERVICE))
    except redis.ResponseError:  # it has not heard of a fit replica yet, or a failover is under way
        return False
