"""up, down, scale on a real supervisord and a real embedded Redis."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import msgspec
import pytest

from broker import embedded, keys, roster
from broker.errors import ArtifactError, ConfigError, RedisUnavailable, SupervisorError
from broker.settings import RedisSettings, Settings
from operators import pool, pool_lock, readiness
from operators.reach import reach, read_info
from operators.supervisor import Supervisor, is_alive
from tests.operators.conftest import penstock, wait_until


def quiet(_: str) -> None:
    pass


def pids(supervisor: Supervisor) -> dict[int, int]:
    return {number: program.pid for number, program in supervisor.slots().items() if program.pid}


def test_up_starts_the_slots_of_pool_toml_and_down_leaves_no_process_and_no_socket(configured: Settings) -> None:
    pool.up(configured, say=quiet)
    readiness.wait_until_ready(configured, [0, 1], timeout_s=20, say=quiet)
    supervisor = Supervisor(configured)
    started = [supervisor.pid(), supervisor.redis().pid, *pids(supervisor).values()]
    assert len(started) == 4
    assert len(supervisor.slots()) == configured.pool.most_slots + 1
    assert configured.runtime.stat().st_mode & 0o777 == 0o700
    assert (configured.runtime / "supervisor.sock").stat().st_mode & 0o777 == 0o700

    changed = pool.down(configured, say=quiet)

    assert changed.stopped == (0, 1)
    assert not [pid for pid in started if is_alive(pid)]
    assert not configured.runtime.exists()


def test_a_second_up_says_so_and_starts_only_what_is_missing(running: Supervisor) -> None:
    before = pids(running)
    os.kill(running.agent().pid, signal.SIGSTOP)  # it would start the slot first
    running.stop_slot(1)
    said: list[str] = []

    changed = pool.up(running.settings, say=said.append)

    os.kill(running.agent().pid, signal.SIGCONT)
    assert changed.was_up
    assert changed.started == (1,)
    assert "already up" in said[0]
    assert pids(running)[0] == before[0]


def test_scale_touches_no_other_slot(running: Supervisor) -> None:
    before = pids(running)

    grown = pool.scale(running.settings, "tiny", 4)
    readiness.wait_until_ready(running.settings, grown.started, timeout_s=20, say=quiet)
    assert grown.started == (2, 3)
    assert {number: pid for number, pid in pids(running).items() if number < 2} == before

    shrunk = pool.scale(running.settings, "tiny", 1)
    assert shrunk.stopped == (1, 2, 3)
    assert pids(running) == {0: before[0]}
    link = reach(running.settings)
    assert list(roster.assignments(link, "box")) == [0]
    assert roster.wanted(link, "tiny") == {"box": 1}
    link.close()


def test_scale_refuses_more_than_most_slots_and_an_unknown_model(running: Supervisor) -> None:
    with pytest.raises(ConfigError, match=r"at most pool\.most_slots = 4.*ask for 4 or fewer"):
        pool.scale(running.settings, "tiny", 5)
    with pytest.raises(ConfigError, match='unknown model "tyny"; did you mean "tiny"'):
        pool.scale(running.settings, "tyny", 1)
    assert len(pids(running)) == 2


def test_a_slot_that_exits_comes_back_whatever_its_code_and_never_ends_fatal(running: Supervisor) -> None:
    for _ in range(5):
        pid = pids(running)[0]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: pids(running).get(0) not in (None, pid))
    assert running.slots()[0].state in ("RUNNING", "STARTING")


def test_a_slot_that_is_just_between_exit_and_restart_can_still_be_stopped(running: Supervisor) -> None:
    with pool_lock.changing(running.settings):  # or the agent starts it again
        os.kill(pids(running)[0], signal.SIGKILL)
        running.stop_slot(0)
        assert running.slots()[0].state == "STOPPED"


def test_up_says_why_a_slot_cannot_load_without_waiting_for_the_timeout(configured: Settings) -> None:
    configured.var.mkdir()
    (configured.var / "slot-1.cannot-load").write_text("load_failed: CUDA asked for, none here")

    pool.up(configured, say=quiet)

    with pytest.raises(SupervisorError, match="1 slot not ready: slot 1: load_failed: CUDA asked for, none here"):
        readiness.wait_until_ready(configured, [0, 1], timeout_s=30, say=quiet)


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


def test_a_second_pool_on_the_same_socket_is_refused_and_harms_nothing(running: Supervisor, folder: Path) -> None:
    before = pids(running)
    other = folder / "other.toml"
    other.write_text((folder / "pool.toml").read_text())

    for command in (["up"], ["down"], ["scale", "tiny", "1"]):
        answer = penstock(*command, config=other)
        assert answer.returncode == 1
        assert "belongs to another pool" in answer.stderr
        assert answer.stderr.count("\n") == 1

    assert pids(running) == before


def test_something_else_on_the_socket_is_one_clear_error(configured: Settings) -> None:
    configured.runtime.mkdir(parents=True, mode=0o700)
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(configured.runtime / "supervisor.sock"))
        foreign.listen(1)
        with pytest.raises(SupervisorError, match="answers, but not as supervisord does"):
            Supervisor(configured, timeout_s=0.2).is_running()


def test_up_stops_what_it_started_when_redis_does_not_come(
    configured: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho cannot read the append-only file\nexit 1\n")
    broken.chmod(0o700)
    monkeypatch.setenv(embedded.ENV_SERVER, str(broken))
    configured = msgspec.structs.replace(configured, redis=RedisSettings(connect_s=1.5))
    with pytest.raises(RedisUnavailable, match="does not start: cannot read the append-only file"):
        pool.up(configured, say=quiet)
    assert not Supervisor(configured).is_running()


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


def test_a_server_that_lives_is_not_shadowed_by_a_second_one(running: Supervisor) -> None:
    server = running.redis().pid

    with pytest.raises(RedisUnavailable, match=r"running already.*not starting a second one"):
        embedded.serve(running.settings)

    link = reach(running.settings)
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


def test_two_operators_do_not_pull_in_two_directions(running: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_lock, "LOCK_WAIT_S", 0.2)
    with (
        pool_lock.changing(running.settings),
        pytest.raises(SupervisorError, match=f"another penstock command .pid {os.getpid()}"),
    ):
        pool.scale(running.settings, "tiny", 1)


def test_down_of_a_pool_that_is_not_up_does_nothing(configured: Settings) -> None:
    assert pool.down(configured, say=quiet).was_up is False
