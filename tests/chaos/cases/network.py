"""A slow, a lossy and a cut line between the pool and Redis; through a proxy, and in a network namespace where that can be had."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.case import Case, Seen, Skipped, judged
from tests.chaos.proxy import Proxy
from tests.chaos.server import Server
from tests.chaos.stage import LEASE_S, Stage, staged
from tests.chaos.traffic import Traffic

WITHOUT_S = 2 * LEASE_S
HOST_IP, SLOTS_IP = "10.231.77.1", "10.231.77.2"


def proxied(seconds: int) -> Seen:
    """1 ms each way; then 20 % of the pieces 200 ms late; then nothing passes for two lease times."""
    seen = Seen()
    folder = Path(f"/tmp/chaos-line-{secrets.token_hex(4)}")
    server = Server(folder)
    server.start()
    try:
        with Proxy(server.socket) as line, staged(url=line.url) as stage, judged(stage, seen) as hand_in:
            with Traffic(server.url, per_s=300) as traffic:
                for delay_s, loss in ((0.001, 0.0), (0.001, 0.2)):
                    line.delay_s, line.loss = delay_s, loss
                    seen.faults += 1
                    time.sleep(seconds)
                line.delay_s = line.loss = 0.0
                line.cut()
                seen.faults += 1
                time.sleep(WITHOUT_S)
                line.heal()
                seen.recovered(_healed(stage))
                hand_in(traffic.finish())
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return seen


def _healed(stage: Stage) -> float:
    began = time.monotonic()
    stage.wait_ready(stage.slots)
    return time.monotonic() - began


def namespaced(seconds: int) -> Seen:
    """The slots live in a network namespace: 1 ms and 20 % loss on its line where the kernel can, then the line is down."""
    seen = Seen()
    folder = Path(f"/tmp/chaos-net-{secrets.token_hex(4)}")
    with _namespace() as name:
        server = Server(folder, bind=HOST_IP)
        server.start()
        try:
            url = f"redis://{HOST_IP}:{server.port}"
            with staged(url=url, wrapper=f"ip netns exec {name}") as stage, judged(stage, seen) as hand_in:
                with Traffic(server.url, per_s=300) as traffic:
                    bad = ("delay", "1ms", "loss", "20%")
                    has_netem = _ip("tc", "qdisc", "add", "dev", _device(name), "root", "netem", *bad)
                    if has_netem:
                        seen.faults += 1
                        time.sleep(seconds)
                        _ip("tc", "qdisc", "del", "dev", _device(name), "root")
                    _ip("ip", "link", "set", _device(name), "down")
                    seen.faults += 1
                    time.sleep(WITHOUT_S)
                    _ip("ip", "link", "set", _device(name), "up")
                    seen.recovered(_healed(stage))
                    hand_in(traffic.finish())
        finally:
            server.stop()
            shutil.rmtree(folder, ignore_errors=True)
    seen.note(netem="yes" if has_netem else "this kernel has none; the proxy stands in for it")
    return seen


def _device(name: str) -> str:
    return f"{name}h"


def _ip(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def _namespace() -> Iterator[str]:
    """A namespace with a line to this one. Raises Skipped where the machine allows none."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise Skipped("network namespaces need root and iproute2")
    name = f"ps{secrets.token_hex(2)}"
    ours, theirs = _device(name), f"{name}s"
    try:
        is_made = (
            _ip("ip", "netns", "add", name)
            and _ip("ip", "link", "add", ours, "type", "veth", "peer", "name", theirs)
            and _ip("ip", "link", "set", theirs, "netns", name)
            and _ip("ip", "addr", "add", f"{HOST_IP}/30", "dev", ours)
            and _ip("ip", "link", "set", ours, "up")
            and _ip("ip", "netns", "exec", name, "ip", "addr", "add", f"{SLOTS_IP}/30", "dev", theirs)
            and _ip("ip", "netns", "exec", name, "ip", "link", "set", theirs, "up")
        )
        if not is_made:
            raise Skipped("this machine allows no network namespaces")
        yield name
    finally:
        _ip("ip", "link", "del", ours)
        _ip("ip", "netns", "del", name)


CASES = (
    Case("1 ms, 20 % late, partition (proxy)", proxied, "seconds each", 1, 5, 60),
    Case("1 ms, 20 % loss, partition (namespace)", namespaced, "seconds", 1, 5, 60),
)
