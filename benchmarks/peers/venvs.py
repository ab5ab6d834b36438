"""A peer's own virtual environment in var/peers, made by pip at first use and again when its pins change.

It sees this environment's packages behind its own, so that ONNX Runtime and numpy are the same build for everybody and are
not fetched again; what the peer pins wins.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from benchmarks.stand import ROOT

HOME = ROOT / "var" / "peers"
PINS = Path(__file__).resolve().parent
STAMP = "installed.txt"
INSTALL_WITHIN_S = 300


class Missing(Exception):
    """Raised when a peer cannot be had; one line that says why."""


def python_of(name: str, *, home: Path = HOME, pip_options: tuple[str, ...] = ()) -> Path:
    """The interpreter of the peer's environment. Raises Missing."""
    pins = (PINS / f"requirements-{name}.txt").read_text()
    folder = home / name
    python, stamp = folder / "bin" / "python", folder / STAMP
    if stamp.is_file() and stamp.read_text() == pins and python.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    print(f"bench: installing {', '.join(pins.split())} into {folder}", file=sys.stderr)
    _run(name, [sys.executable, "-m", "venv", "--without-pip", str(folder)])
    _run(name, [
        sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check",
        "--retries", "1", "--timeout", "15", *pip_options, "-r", str(PINS / f"requirements-{name}.txt"),
    ])  # fmt: skip
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # A .pth line is appended to sys.path after the environment's own packages, and its own .pth files are not read.
    (packages / "zz-packages-of-the-bench.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    stamp.write_text(pins)
    return python


def _run(name: str, command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_WITHIN_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{name} is left out: {error}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        errors = [line for line in said if line.startswith("ERROR")] or said
        raise Missing(f"{name} is left out: pip could not install it ({errors[-1].removeprefix('ERROR: ')})")
