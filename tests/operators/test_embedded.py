"""The embedded server by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from broker import embedded, redis_conf
from broker.connection import Link
from broker.errors import ConfigError, RedisUnavailable
from operators.supervisor import is_alive
from tests.operators.conftest import ROOT, wait_until


def process_id(url: str) -> int:
    link = Link(url)
    link.connect()
    info = link.call("INFO", "server").decode()
    link.close()
    return int(info.partition("process_id:")[2].split()[0])


def test_a_temporary_server_lives_as_long_as_its_block(tmp_path: Path) -> None:
    with embedded.temporary_server(tmp_path) as url:
        pid = process_id(url)
        assert is_alive(pid)
    assert not is_alive(pid)


def test_its_socket_moves_to_a_short_folder_when_the_path_is_too_long(tmp_path: Path) -> None:
    with embedded.temporary_server(tmp_path / ("long" * 30)) as url:
        assert process_id(url)
        socket_path = Path(url.removeprefix("unix://"))
        assert len(str(socket_path)) < 60
    assert not socket_path.parent.exists()


def test_it_dies_with_a_process_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, broker.embedded as e\n"
        "with e.temporary_server(sys.argv[1]) as url:\n    print(url, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = process_id(parent.stdout.readline().strip())
        parent.kill()
    wait_until(lambda: not is_alive(pid))


def test_one_started_by_a_thread_outlives_that_thread(tmp_path: Path) -> None:
    server = embedded.temporary_server(tmp_path)
    urls: list[str] = []
    thread = threading.Thread(target=lambda: urls.append(server.__enter__()))
    thread.start()
    thread.join()
    assert is_alive(process_id(urls[0]))
    server.__exit__(None, None, None)


def test_the_configuration_never_evicts_listens_on_no_port_and_quotes_its_paths(tmp_path: Path) -> None:
    text = redis_conf.render(socket_path=Path('/tmp/a "b"/s'), folder=tmp_path, max_memory_mb=64)
    assert "port 0\n" in text
    assert "maxmemory-policy noeviction\n" in text
    assert "appendonly yes\n" in text
    assert 'unixsocket "/tmp/a \\"b\\"/s"\n' in text


def test_a_server_that_does_not_come_up_shows_its_last_line(tmp_path: Path) -> None:
    (tmp_path / "redis.sock").mkdir()
    with (
        pytest.raises(RedisUnavailable, match=r"did not come up.*see .*redis\.log"),
        embedded.temporary_server(tmp_path),
    ):
        pass


def test_the_binary_is_redislites_or_the_one_named(tmp_path: Path) -> None:
    assert embedded.find_server({}).name == "redis-server"
    mine = tmp_path / "mine"
    mine.write_text("")
    mine.chmod(0o700)
    assert embedded.find_server({embedded.ENV_SERVER: str(mine)}) == mine
    with pytest.raises(ConfigError, match="is not a program; name a redis-server, or unset it"):
        embedded.find_server({embedded.ENV_SERVER: str(tmp_path / "none")})


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    first = embedded.take_lock(tmp_path / "lock")
    assert first is not None
    assert embedded.take_lock(tmp_path / "lock") is None
    os.close(first)
