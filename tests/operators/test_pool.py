"""up, down, scale on a real supervisord and a real embedded Redis."""

from __future__ import annotations

import functools
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

import msgspec
import pytest

from broker import embedded, keys, roster, settings
from broker.connection import Link, ResponseError
from broker.errors import ArtifactError, ConfigError, RedisUnavailable, SupervisorError
from broker.settings import Settings
from broker.settings_tables import RedisSettings
from operators import patience, pool, pool_lock, readiness, status
from operators import reach as reaching
from operators.cli import main
from operators.reach import reach, read_info
from operators.supervisor import Supervisor, is_alive
from tests.operators.conftest import penstock, wait_until


def quiet(_: str) -> None:
    pass


def pids(supervisor: Supervisor) -> dict[int, int]:
    return {number: program.pid for number, program in supervisor.slots().items() if program.pid}


def test_up_starts_the_slots_of_pool_toml_and_down_leaves_no_process_and_no_socket(folder: Path) -> None:
    file = folder / "pool.toml"
    file.write_text(file.read_text().replace("workers = 0", "workers = 1"))
    configured = settings.load(str(file), environ={})
    pool.up(configured, say=quiet)
    readiness.wait_until_ready(configured, [0, 1], timeout_s=20, say=quiet)
    supervisor = Supervisor(configured)
    others = [supervisor.redis(), supervisor.agent(), *supervisor.programs("runs")]
    started = [supervisor.pid(), *(one.pid for one in others), *pids(supervisor).values()]
    assert len(started) == 6
    assert all(started)
    assert len(supervisor.slots()) == configured.pool.most_slots + 1
    assert configured.runtime.stat().st_mode & 0o777 == 0o700
    assert (configured.runtime / "supervisor.sock").stat().st_mode & 0o777 == 0o700

    changed = pool.down(configured, say=quiet)

    assert changed.stopped == (0, 1)
    assert not [pid for pid in started if is_alive(pid)]
    assert not configured.runtime.exists()


def test_a_second_up_says_so_and_starts_only_what_is_missing(standing: Supervisor) -> None:
    before = pids(standing)
    agent = standing.agent().pid
    os.kill(agent, signal.SIGSTOP)  # it would start the slot first
    said: list[str] = []
    try:
        standing.stop_slot(1)
        changed = pool.up(standing.settings, say=said.append)
    finally:
        os.kill(agent, signal.SIGCONT)
    assert changed.was_up
    assert changed.started == (1,)
    assert "already up" in said[0]
    assert pids(standing)[0] == before[0]


def test_scale_touches_no_other_slot(standing: Supervisor) -> None:
    before = pids(standing)

    grown = pool.scale(standing.settings, "tiny", 4)
    readiness.wait_until_ready(standing.settings, grown.started, timeout_s=20, say=quiet)
    assert grown.started == (2, 3)
    assert {number: pid for number, pid in pids(standing).items() if number < 2} == before

    shrunk = pool.scale(standing.settings, "tiny", 1)
    assert shrunk.stopped == (1, 2, 3)
    link = reach(standing.settings)
    assert list(roster.slots(link)) == ["box/0"], "what has gone must hold up nobody's retirement"
    link.close()
    assert pids(standing) == {0: before[0]}
    link = reach(standing.settings)
    assert list(roster.assignments(link, "box")) == [0]
    assert roster.wanted(link, "tiny") == {"box": 1}
    link.close()
    pool.scale(standing.settings, "tiny", 2)


def test_scale_refuses_more_than_most_slots_and_an_unknown_model(standing: Supervisor) -> None:
    with pytest.raises(ConfigError, match=r"at most pool\.most_slots = 4.*ask for 4 or fewer"):
        pool.scale(standing.settings, "tiny", 5)
    with pytest.raises(ConfigError, match='unknown model "tyny"; did you mean "tiny"'):
        pool.scale(standing.settings, "tyny", 1)
    assert len(pids(standing)) == 2


def test_a_slot_that_exits_comes_back_whatever_its_code_and_never_ends_fatal(running: Supervisor) -> None:
    for _ in range(5):
        pid = pids(running)[0]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: pids(running).get(0) not in (None, pid))
    assert running.slots()[0].state in ("RUNNING", "STARTING")


def test_a_slot_that_is_just_between_exit_and_restart_can_still_be_stopped(standing: Supervisor) -> None:
    with pool_lock.changing(standing.settings):  # or the agent starts it again
        os.kill(pids(standing)[0], signal.SIGKILL)
        standing.stop_slot(0)
        assert standing.slots()[0].state == "STOPPED"


def test_up_says_why_a_slot_cannot_load_without_waiting_for_the_timeout(configured: Settings) -> None:
    configured.var.mkdir()
    (configured.var / "slot-1.cannot-load").write_text("load_failed: CUDA asked for, none here")

    since_ms = pool.up(configured, say=quiet).since_ms

    with pytest.raises(SupervisorError, match="1 slot not ready: slot 1: load_failed: CUDA asked for, none here"):
        readiness.wait_until_ready(configured, [0, 1], timeout_s=30, say=quiet, since_ms=since_ms)


def test_a_slot_that_backs_off_is_waited_for(configured: Settings) -> None:
    # given a slot as it is after a kill -9 of supervisord
    configured.var.mkdir()
    note = configured.var / "slot-1.backing-off"
    note.touch()
    since_ms = pool.up(configured, say=quiet).since_ms
    link = reach(configured, is_reading=True)
    wait_until(lambda: all(roster.states(link, ["box/0", "box/1"]).values()))
    link.close()
    # then
    with pytest.raises(
        SupervisorError, match=r"not ready within 0\.5 s: slot 1: 5 lives .*killed\); it tries again by itself"
    ):
        readiness.wait_until_ready(configured, [0, 1], timeout_s=0.5, say=quiet, since_ms=since_ms)
    threading.Timer(0.3, note.unlink).start()
    readiness.wait_until_ready(configured, [0, 1], timeout_s=20, say=quiet, since_ms=since_ms)


def test_up_shows_the_last_line_of_a_slot_that_never_spoke(configured: Settings) -> None:
    configured.var.mkdir()
    for number in (0, 1):
        (configured.var / f"slot-{number}.silent").touch()

    pool.up(configured, say=quiet)

    # supervisord starts them again and again: one of the two may just have gone when it is looked at
    wait_until(lambda: (configured.var / "log" / "slot_00.log").stat().st_size)
    with pytest.raises(SupervisorError, match=r"not ready within 1 s: .*no sign of life \(this program was never"):
        readiness.wait_until_ready(configured, [0, 1], timeout_s=1, say=quiet)


def test_an_altered_artifact_or_a_missing_one_starts_nothing(configured: Settings) -> None:
    (Path(configured.root) / "tiny" / "tiny.onnx").write_bytes(b"something else")
    with pytest.raises(ArtifactError, match=r"model tiny: .*tiny\.onnx"):
        pool.up(configured, say=quiet)
    (Path(configured.root) / "tiny").rename(Path(configured.root) / "gone")
    with pytest.raises(ConfigError, match=r"there is no artifact at .*set models\.tiny\.artifact"):
        pool.up(configured, say=quiet)
    assert not configured.runtime.exists()


def test_a_second_pool_on_the_same_socket_is_refused_and_harms_nothing(standing: Supervisor) -> None:
    folder, before = Path(standing.settings.root), pids(standing)
    other = folder / "other.toml"
    other.write_text((folder / "pool.toml").read_text())

    for command in (["up"], ["down"], ["scale", "tiny", "1"]):
        answer = penstock(*command, config=other)
        assert answer.returncode == 1
        assert "belongs to another pool" in answer.stderr
        assert answer.stderr.count("\n") == 1

    assert pids(standing) == before


def test_something_else_on_the_socket_is_one_clear_error(configured: Settings) -> None:
    configured.runtime.mkdir(parents=True, mode=0o700)
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(configured.runtime / "supervisor.sock"))
        foreign.listen(1)
        with pytest.raises(SupervisorError, match="answers, but not as supervisord does"):
            Supervisor(configured, timeout_s=0.2).is_running()
        foreign.accept()[0].close()

        def answer() -> None:
            caller, _ = foreign.accept()
            caller.recv(65536)
            caller.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 7\r\n\r\nnot xml")
            caller.close()

        threading.Thread(target=answer).start()
        with pytest.raises(SupervisorError, match="no answer from supervisord"):
            Supervisor(configured, timeout_s=2).pid()


def test_up_stops_what_it_started_when_redis_does_not_come(
    configured: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho cannot read the append-only file\nexit 1\n")
    broken.chmod(0o700)
    monkeypatch.setenv(embedded.ENV_SERVER, str(broken))
    log = configured.var / "log" / "redis.log"

    class Clock:
        """Patience ends when the server has said why; a busy machine may take seconds to come to it."""

        sleep = staticmethod(time.sleep)

        def monotonic(self) -> float:
            return time.monotonic() + 100 * (log.exists() and log.stat().st_size > 0)

    monkeypatch.setattr(pool, "time", Clock())
    configured = msgspec.structs.replace(configured, redis=RedisSettings(connect_s=60.0))
    with pytest.raises(RedisUnavailable, match="does not start: cannot read the append-only file"):
        pool.up(configured, say=quiet)
    assert not Supervisor(configured).is_running()


def test_up_stops_what_it_started_when_redis_refuses_what_it_writes(
    configured: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise ResponseError("OOM command not allowed when used memory > 'maxmemory'.")

    monkeypatch.setattr(pool, "publish", refuse)
    monkeypatch.setenv("PENSTOCK_CONFIG", configured.path)  # as --config does in our process, for good
    with pytest.raises(SystemExit) as ended:
        main(["up"])
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: Redis refused what this command asks: OOM ")
    assert not Supervisor(configured).is_running()


def test_down_says_what_it_waits_for(running: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SAY_EVERY_S", 0.01)
    said: list[str] = []
    pool.down(running.settings, say=said.append)
    assert said[0] == "draining 2 slots (at most 5 s)"
    assert re.fullmatch(r"waiting for 2 slots to drain, until \d\d:\d\d:\d\d at most; supervisord kills .*", said[1])
    assert said[-1].startswith("waiting for Redis to write its file out and end, until ")


def test_a_redis_that_hangs_is_named_with_its_process(standing: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = standing.redis().pid
    monkeypatch.setattr(reaching, "Link", functools.partial(Link, read_timeout_s=0.2))
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(RedisUnavailable) as caught:
            reach(standing.settings)
        (problem, *_) = status.snapshot(standing.settings).problems
    finally:
        os.kill(pid, signal.SIGCONT)
    mend = f"kill -9 {pid}, supervisord starts it again"
    assert f"the embedded Redis (pid {pid}) runs and does not answer" in str(caught.value)
    assert str(caught.value).endswith(f"; {mend}")
    assert problem.mend == mend


def test_a_redis_that_is_configured_and_away_starts_nothing(folder: Path) -> None:
    (folder / "pool.toml").write_text(
        '[redis]\nurl = "redis://127.0.0.1:1"\nconnect_s = 0.2\n' + (folder / "pool.toml").read_text()
    )
    answer = penstock("up", config=folder / "pool.toml")
    assert answer.returncode == 1
    assert answer.stderr.startswith("error: no Redis at redis://127.0.0.1:1 within 0.2 s")
    assert not (folder / "var").exists()


def test_the_embedded_redis_dies_with_a_killed_supervisord_and_up_heals(running: Supervisor) -> None:
    old = running.redis().pid
    slots = [*pids(running).values(), running.agent().pid]
    link = reach(running.settings)
    link.call("SET", keys.result("tiny", "kept"), "yes", "EX", 60)

    os.kill(running.pid(), signal.SIGKILL)

    wait_until(lambda: not is_alive(old))
    wait_until(lambda: not any(is_alive(pid) for pid in slots))
    pool.up(running.settings, say=quiet)
    link = reach(running.settings)
    assert int(read_info(link)["process_id"]) == running.redis().pid != old
    assert link.call("GET", keys.result("tiny", "kept")) == b"yes"
    link.close()


def test_a_server_that_lives_is_not_shadowed_by_a_second_one(standing: Supervisor) -> None:
    server = standing.redis().pid

    with pytest.raises(RedisUnavailable, match=r"running already.*not starting a second one"):
        embedded.serve(standing.settings)

    link = reach(standing.settings)
    assert int(read_info(link)["process_id"]) == server
    link.close()


def test_down_leaves_the_sockets_to_a_server_that_does_not_end(
    configured: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "ORPHANS_WAIT_S", 0.2)
    configured.runtime.mkdir(parents=True)
    lock = embedded.take_lock(embedded.lock_path(configured))
    assert lock is not None
    (configured.runtime / "redis.sock").touch()
    with pytest.raises(SupervisorError, match=r"still run and hold .*redis\.lock; find each"):
        pool.down(configured, say=quiet)
    os.close(lock)


def test_two_operators_do_not_pull_in_two_directions(standing: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_lock, "LOCK_WAIT_S", 0.2)
    with (
        pool_lock.changing(standing.settings),
        pytest.raises(SupervisorError, match=f"another penstock command .pid {os.getpid()}"),
    ):
        pool.scale(standing.settings, "tiny", 1)


def test_down_of_a_pool_that_is_not_up_does_nothing(configured: Settings) -> None:
    assert pool.down(configured, say=quiet).was_up is False
