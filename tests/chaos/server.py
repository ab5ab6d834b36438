"""A redis-server the chaos suite may stop, kill and start again on the same files: no supervisor, no lock, a unix socket."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

from broker.embedded import find_server

UP_WITHIN_S = 20.0


class Server:
    """`fsync`: "no" (no append-only file), "everysec" or "always". `bind`: an address to listen on as well, at `port`."""

    def __init__(self, folder: Path, *, fsync: str = "no", bind: str = "", binary: Path | None = None) -> None:
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.fsync = fsync
        self.port = _free_port(bind) if bind else 0
        self._bind = bind
        self._binary = binary or find_server()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Starts it and waits until it answers; it may read its append-only file first."""
        is_kept = self.fsync != "no"
        command = [
            str(self._binary), "--port", str(self.port), "--unixsocket", str(self.socket), "--unixsocketperm", "700",
            "--dir", str(self.folder), "--save", "", "--loglevel", "warning", "--maxmemory-policy", "noeviction",
            "--appendonly", "yes" if is_kept else "no",
        ]  # fmt: skip
        if is_kept:
            command += ["--appendfsync", self.fsync]
        if self._bind:
            command += ["--bind", self._bind, "--protected-mode", "no"]
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + UP_WITHIN_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"redis-server did not come up; see {self.folder / 'redis.log'}")
            time.sleep(0.005)

    def stop(self) -> None:
        """As a service manager does: SIGTERM, and waits."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and waits."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self.socket))
                probe.sendall(b"PING\r\n")
                return probe.recv(5) == b"+PONG"
            except OSError:
                return False


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
