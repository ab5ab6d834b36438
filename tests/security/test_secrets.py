"""A password of redis.url is shown to nobody: not in logs, status, errors, command lines or announcements."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from broker import roster, settings
from broker.connection import Link
from broker.embedded import temporary_server
from operators import pool, readiness
from operators.supervisor import Supervisor
from tests import models
from tests.operators.conftest import penstock
from tests.security.servers import QUOTED
from tests.security.servers import locked as locked


def test_a_pool_shows_its_password_in_no_log_status_error_command_line_or_announcement(locked: int) -> None:
    # given a pool on a server with a password
    url = f"redis://old:{QUOTED}@127.0.0.1:{locked}/0"
    with tempfile.TemporaryDirectory(prefix="pool-", dir="/tmp") as name:  # pytest's own are too long for sockets
        folder = Path(name)
        models.mlp(folder / "mlp")
        config = folder / "pool.toml"
        config.write_text(f'[redis]\nurl = "{url}"\n[pool]\nhost = "box"\n[models.mlp]\nartifact = "mlp"\n')
        chosen = settings.load(str(config), environ={})
        pool.up(chosen, say=lambda _: None)
        try:
            readiness.wait_until_ready(chosen, [0], timeout_s=60, say=lambda _: None)
            # when everything is asked that shows something
            shown = "".join(
                ran.stdout + ran.stderr
                for ran in (
                    penstock(*words, config=config)
                    for words in (("status", "--json"), ("doctor",), ("scale", "x", "1"))
                )
            )
            link = Link(url)
            link.connect()
            said = repr([roster.slots(link), roster.exits(link), roster.assignments(link, "box")])
            for client in link.call("CLIENT", "LIST").decode().splitlines():
                said += client
            link.close()
            supervisor = Supervisor(chosen)
            lines = ps(supervisor.pid())
            assert len(lines) >= 3, "supervisord, the slot and its engine"
        finally:
            pool.down(chosen, say=lambda _: None)
        # then
        logs = "".join(path.read_text(errors="replace") for path in (folder / "var").rglob("*") if path.is_file())
        assert "slot ready" in logs
        for where, text in (
            ("output", shown),
            ("announcements", said),
            ("command lines", "\n".join(lines)),
            ("var", logs),
        ):
            assert "s3cret" not in text, where
        assert "redis://***@127.0.0.1" in shown


def ps(root: int) -> list[str]:
    """Command lines of a process and all that descend from it."""
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
            todo += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            continue
    return found


def test_a_slot_that_is_refused_says_why_and_backs_off_without_a_traceback(locked: int, tmp_path: Path) -> None:
    config = tmp_path / "pool.toml"
    config.write_text(
        f'[redis]\nurl = "redis://worker:wrong-s3cret@127.0.0.1:{locked}"\n[models.mlp]\nartifact = "mlp"\n'
    )
    said = [run_slot(config) for _ in range(2)]
    for code, text in said:
        assert code == 78
        assert "refused us" in text
        assert "Traceback" not in text
        assert "s3cret" not in text
    assert '"retry_in_s": 1.0' in said[1][1], "the second life in a row waits"


def run_slot(config: Path) -> tuple[int, str]:
    import sys

    ran = subprocess.run(
        [sys.executable, "-m", "workers", "--slot", "0", "--config", str(config)], capture_output=True, text=True,
        timeout=30, check=False, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    return ran.returncode, ran.stdout + ran.stderr


def test_the_command_line_says_what_a_missing_right_is_in_one_line(locked: int, tmp_path: Path) -> None:
    config = tmp_path / "pool.toml"
    config.write_text(f'[redis]\nurl = "redis://producer:{QUOTED}@127.0.0.1:{locked}"\n')
    ran = penstock("status", config=config)
    assert "Traceback" not in ran.stderr
    assert "refused us" in ran.stdout + ran.stderr
    assert "s3cret" not in ran.stdout + ran.stderr


def test_the_embedded_server_needs_no_password_and_its_url_says_who_one_is(tmp_path: Path) -> None:
    with temporary_server(tmp_path, has_roles=True) as url:
        for role in ("producer", "worker", "operator"):
            link = Link(url.replace("unix://", f"unix://{role}:{role}@"))
            link.connect()
            assert link.call("PING") == b"PONG"
            link.close()
