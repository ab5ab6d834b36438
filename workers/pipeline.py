"""An artifact's own Python: run from checked bytes, in the engine, never in the slot.

`pipeline.py` is optional. It may define:

    setup(read)                  once, first; read("labels.json") gives a listed file's checked bytes
    preprocess(items)            list of bytes (or str) -> a list as long: per item the model's inputs without the row axis,
                                 {name: array}, or an Exception; so one bad item fails alone. Required unless takes is "tensors".
    postprocess(outputs, rows)   {name: array [>= rows, ...]} -> a list of `rows` plain values (what msgpack carries)

It is one file: it imports installed packages, not its neighbours in the folder.
"""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, Any

from broker.errors import ArtifactError
from workers.backends import Arrays
from workers.files import mend

if TYPE_CHECKING:
    from workers.artifact import Artifact


@dataclass(slots=True)
class Pipeline:
    """The functions pipeline.py defined; see the top of this file for their contract."""

    preprocess: Callable[[list[Any]], list[dict[str, Any] | Exception]] | None = None
    postprocess: Callable[[Arrays, int], list[Any]] | None = None


def load_pipeline(artifact: Artifact) -> Pipeline | None:
    """Runs the artifact's pipeline.py, if it has one, from checked bytes. What its code raises passes through."""
    name = artifact.manifest.pipeline
    if name is None:
        return None
    module = load_module(artifact, name)
    setup = getattr(module, "setup", None)
    if setup is not None:
        setup(artifact.read)
    return Pipeline(getattr(module, "preprocess", None), getattr(module, "postprocess", None))


def load_module(artifact: Artifact, name: str) -> ModuleType:
    """Runs a listed Python file as a module of its own, from checked bytes; tracebacks and debuggers find its source."""
    path = str(artifact.folder / name)
    source = artifact.read(name)
    module = ModuleType(f"artifact_{artifact.manifest.name}_{PurePosixPath(name).stem}".replace("-", "_"))
    module.__file__ = path
    text = source.decode()
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
    sys.modules[module.__name__] = module  # dataclasses and torch look classes' modules up there
    exec(compile(source, path, "exec"), module.__dict__)
    return module


def top_level_names(source: bytes, folder: Path, name: str) -> frozenset[str]:
    """Names a module binds at its top level, without running it."""
    path = folder / name
    try:
        body = ast.parse(source, str(path)).body
    except (SyntaxError, ValueError) as error:
        raise ArtifactError(f"{path}: not Python: {error}; correct it, then {mend(folder)}") from None
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return frozenset(names)
