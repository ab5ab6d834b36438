"""The fences of the design, section 4: who may import whom, and what a process loads."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("broker", "producer", "workers", "operators", "monitor")

# package -> those of ours it may import
MAY_IMPORT = {
    "broker": (),
    "producer": ("broker",),
    "workers": ("broker",),
    "operators": ("broker", "producer"),
    "monitor": ("broker",),
}
# single files that may do more: the artifact tools and the doctor look at what slots load and run on
ALSO = {
    "operators/models.py": ("workers.artifact", "workers.trust"),
    "operators/doctor.py": ("workers.artifact", "workers.devices"),
    "operators/journal.py": ("workers.exits",),
    # the measuring program's words; the program itself is a process of its own
    "operators/tune/cli.py": ("workers.tune.words",),
    "operators/tune/conduct.py": ("workers.tune.words",),
    "operators/tune/program.py": ("workers.tune.words",),
}
# third party -> where it may be imported: a file, a folder that ends in /, or a file's name
ONLY_IN = {
    "redis": ("broker/",),
    "hiredis": ("broker/",),
    "torch": ("workers/backends/", "workers/devices.py", "workers/memory.py", "workers/memory/"),
    "onnxruntime": ("workers/backends/", "workers/devices.py", "workers/memory.py", "workers/memory/"),
    "pynvml": ("devices.py",),
    "rq": ("operators/runs.py", "operators/runs/"),
    "click": ("cli.py",),
    "rich": ("operators/top/",),
}
PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


class Import(msgspec.Struct, frozen=True):
    """One imported module; `from a import b` counts as a.b too, for b may be a module."""

    module: str
    line: int
    is_relative: bool

    def is_of(self, module: str) -> bool:
        return self.module == module or self.module.startswith(module + ".")


@cache
def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(), name)


def files(*packages: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for package in packages for path in (ROOT / package).rglob("*.py"))


@cache
def imports(name: str) -> tuple[Import, ...]:
    return tuple(_imports(name))


def _imports(name: str) -> Iterator[Import]:
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, False)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield Import(f"{node.module or ''}.{alias.name}", node.lineno, node.level > 0)


def stands_in(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.endswith("/" + place) or (place.endswith("/") and name.startswith(place))
               for place in places)  # fmt: skip


def broken(name: str, module: str, line: int, rule: str) -> str:
    return f"{name}:{line} imports {module}: {rule}"


# --- what is written -------------------------------------------------------------------------


@pytest.mark.parametrize("package", OURS)
def test_a_package_imports_only_those_it_may(package: str) -> None:
    rule = f"{package} may import {', '.join(MAY_IMPORT[package]) or 'none of ours'}"
    assert [
        broken(name, one.module, one.line, rule)
        for name in files(package)
        for one in imports(name)
        if (top := one.module.partition(".")[0]) in OURS and top != package and top not in MAY_IMPORT[package]
        and not any(one.is_of(module) for module in ALSO.get(name, ()))
    ] == []  # fmt: skip


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_only_where_it_belongs(library: str) -> None:
    rule = f"{library} belongs to {', '.join(ONLY_IN[library])}"
    assert [
        broken(name, one.module, one.line, rule)
        for name in files(*OURS)
        for one in imports(name)
        if one.is_of(library) and not stands_in(name, ONLY_IN[library])
    ] == []


def test_nothing_unpickles() -> None:
    assert [
        broken(name, one.module, one.line, "nothing is pickled")
        for name in files(*OURS, "benchmarks", "examples")
        for one in imports(name)
        if one.module.partition(".")[0] in PICKLES
    ] == []


def test_numpy_loads_no_pickles_and_torch_only_weights() -> None:
    for name in files(*OURS):
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
                where = f"{name}:{node.value.lineno}"
                assert (node.arg, node.value.value) != ("allow_pickle", True), where
                assert (node.arg, node.value.value) != ("weights_only", False), where
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(keyword.arg == "weights_only" for keyword in node.keywords), f"{name}:{node.lineno}"


def test_all_imports_are_absolute() -> None:
    assert [f"{name}:{one.line}" for name in files(*OURS, "tests") for one in imports(name) if one.is_relative] == []


def test_workers_do_not_train() -> None:
    found = []
    for name in files("workers"):
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr in ("backward", "train"):
                    found.append(f"{name}:{node.lineno} {ast.unparse(node)}")
            elif isinstance(node, ast.Attribute) and node.attr == "optim":
                found.append(f"{name}:{node.lineno} {ast.unparse(node)}")
        found += [f"{name}:{one.line} {one.module}" for one in imports(name) if "optim" in one.module.split(".")]
    assert found == []


def test_only_the_single_files_named_here_reach_further() -> None:
    assert [name for name in ALSO if not (ROOT / name).exists()] == []


# --- what is loaded --------------------------------------------------------------------------


def loaded_by(code: str, *libraries: str) -> set[str]:
    """Which of the libraries are in sys.modules of a fresh process after `code`."""
    report = f"import sys\n{code}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    ran = subprocess.run(
        [sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split()) & set(libraries)


def test_a_producer_loads_no_torch_onnxruntime_or_click() -> None:
    assert loaded_by("import producer", "torch", "onnxruntime", "click", "workers", "operators") == set()


def test_the_engine_loads_no_redis() -> None:
    assert loaded_by("import workers.engine", "redis", "hiredis") == set()


def test_a_spawned_engine_loads_no_redis_with_the_main_module() -> None:
    # given: a child spawned by `python -m workers`, which imports that main module again as __mp_main__
    code = """
import importlib.util, multiprocessing
sys.modules["__main__"].__spec__ = importlib.util.find_spec("workers.__main__")
pool = multiprocessing.get_context("spawn").Pool(1)
names = pool.apply(eval, ("[__import__('workers.engine')] and sorted(__import__('sys').modules)",))
pool.close()
pool.join()
assert "workers.engine" in names
assert not {"redis", "hiredis", "workers.main"} & set(names), names
"""
    assert loaded_by(code, "torch") == set()


def test_a_slot_loads_no_torch_or_onnxruntime() -> None:
    assert loaded_by("import workers.main", "torch", "onnxruntime", "pynvml") == set()


def test_operators_load_no_torch_or_onnxruntime() -> None:
    assert loaded_by("import operators.cli", "torch", "onnxruntime", "rq") == set()


def test_installing_for_producers_alone_pulls_no_engine_and_no_supervisor() -> None:
    # given
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {requirement.partition(">")[0].partition("[")[0].strip() for requirement in project["dependencies"]}
    # then
    assert names.isdisjoint(
        {"torch", "onnxruntime", "onnxruntime-gpu", "safetensors", "nvidia-ml-py", "supervisor", "rq"}
    )
    assert {"redis", "hiredis", "numpy", "msgspec"} <= names


def test_every_package_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = set(project["tool"]["setuptools"]["packages"])
    assert {str(Path(name).parent).replace("/", ".") for name in files(*OURS)} <= packages


def test_looking_at_logs_and_completing_words_load_no_redis_and_only_the_live_screen_loads_rich() -> None:
    assert loaded_by("import operators.cli, operators.logs.cli, operators.completion.words", "redis", "rich") == set()
    assert loaded_by("import operators.top.cli", "rich") == set()
