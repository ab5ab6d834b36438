"""Control sockets are the pool's own, and nothing on any wire is pickled or evaluated."""

from __future__ import annotations

import ast
import stat
from pathlib import Path

import pytest

from broker.errors import SupervisorError
from broker.settings import Settings
from operators import pool
from operators.daemon import prepare_folders
from tests.operators.conftest import configured as configured
from tests.operators.conftest import environment as environment
from tests.operators.conftest import folder as folder
from tests.test_architecture import OURS, files, tree

# file -> what it may do that nothing else may, and why
MAY = {
    # runs the artifact's own Python in the engine: from bytes that were checked, of an artifact that is trusted
    "workers/pipeline.py": {"exec", "compile"},
    # spawn hands its arguments over pickled, through a pipe between parent and child: a path, a digest, numbers and descriptors
    "workers/engine_client.py": {"multiprocessing"},
}
RUNS_TEXT = {"eval", "exec", "compile", "__import__", "execfile"}
THREADS = {"ThreadPoolExecutor"}  # hands objects on as they are
SENDS_PICKLES = {"multiprocessing", "multiprocessing.connection", "multiprocessing.managers", "concurrent.futures"}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_sockets_and_their_folder_are_the_pools_own(configured: Settings) -> None:
    pool.up(configured, say=lambda _: None)
    runtime = configured.runtime
    assert mode(runtime) == 0o700
    sockets = {path.name: mode(path) for path in runtime.iterdir() if path.is_socket()}
    assert sockets.keys() >= {"supervisor.sock", "redis.sock"}
    assert set(sockets.values()) == {0o700}
    # what the embedded server writes is nobody else's to read either
    assert mode(configured.var / "redis") == 0o700
    users = (configured.var / "redis" / "users.acl").read_text()
    assert "user default on nopass resetkeys resetchannels -@all +ping" in users


def test_a_folder_of_somebody_else_in_the_sockets_place_is_refused(configured: Settings, tmp_path: Path) -> None:
    configured.var.mkdir()
    configured.runtime.symlink_to(tmp_path)  # a link is not a folder of ours, wherever it leads
    with pytest.raises(SupervisorError, match="is not a folder of ours"):
        prepare_folders(configured)


def test_a_folder_that_was_open_to_others_is_closed(configured: Settings) -> None:
    configured.runtime.mkdir(parents=True, mode=0o777)
    configured.runtime.chmod(0o777)
    prepare_folders(configured)
    assert mode(configured.runtime) == 0o700


def calls(name: str) -> set[str]:
    """Builtins that run text, as called in a file."""
    return {
        node.func.id
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RUNS_TEXT
    }


def imported(name: str) -> set[str]:
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and {one.name for one in node.names} - THREADS:
            found |= {node.module}
    return found & SENDS_PICKLES


def test_no_text_is_run_but_an_artifacts_own_and_nothing_is_sent_pickled_but_spawns_arguments() -> None:
    assert {name: found for name in files(*OURS) if (found := calls(name) | imported(name))} == MAY


def test_no_command_goes_through_a_shell() -> None:
    for name in files(*OURS):
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                assert isinstance(node.value, ast.Constant), name
                assert node.value.value is False, f"{name}:{node.value.lineno}"
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in {"os.system", "os.popen"}, f"{name}:{node.lineno}"
