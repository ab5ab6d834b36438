"""Real files of known kind on this machine: Python's library and its site-packages, a fair share of each extension.

A file's extension is taken for the truth; where an extension tells less than the model does, several labels are right
(a .h may be C or C++, a .json may hold lines of it). Extensions that tell nothing, or that the model does not know, are left out.
"""

from __future__ import annotations

import os
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import msgspec

LEAST_TEXT_BYTES = 16  # below 8 bytes besides white space the model is not asked at all
MOST_BYTES = 1 << 20  # larger files are passed over; a job may carry 4 MB
HEAD_BYTES = 4096  # what the model looks at of a file's beginning

LABELS: dict[str, frozenset[str]] = {
    extension: frozenset(labels.split())
    for extension, labels in {
        ".py": "python", ".pyi": "python", ".pyc": "pythonbytecode", ".so": "elf", ".c": "c cpp", ".h": "c cpp",
        ".hpp": "c cpp", ".cuh": "c cpp", ".cc": "cpp", ".cpp": "cpp", ".f90": "fortran", ".f": "fortran",
        ".js": "javascript", ".mjs": "javascript", ".ts": "typescript", ".sh": "shell", ".bat": "batch",
        ".cmake": "cmake", ".proto": "proto", ".html": "html", ".css": "css", ".xml": "xml", ".xsl": "xml",
        ".svg": "svg", ".json": "json jsonl", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".ini": "ini",
        ".cfg": "ini", ".csv": "csv", ".md": "markdown", ".rst": "rst", ".tex": "latex", ".ipynb": "ipynb",
        ".pem": "pem", ".png": "png", ".gif": "gif", ".jpg": "jpeg",
        ".wav": "wav", ".gz": "gzip", ".bz2": "bzip", ".xz": "xz", ".zip": "zip", ".whl": "zip", ".exe": "pebin",
        ".npy": "npy", ".npz": "npz zip", ".onnx": "onnx", ".ttf": "ttf", ".woff2": "woff2",
    }.items()
}  # fmt: skip


class Sample(msgspec.Struct, frozen=True):
    """One file, read."""

    path: str
    extension: str
    content: bytes

    def is_labelled(self, label: str) -> bool:
        """Whether `label` is right by the extension."""
        return label in LABELS[self.extension]


def find(count: int) -> list[Sample]:
    """Up to `count` files, as evenly over extensions as there are files of each, the same ones on every call."""
    queues = {extension: _readable(_spread(paths, count)) for extension, paths in sorted(_by_extension().items())}
    found: list[Sample] = []
    while queues and len(found) < count:
        for extension in list(queues):
            sample = next(queues[extension], None)
            if sample is None:
                del queues[extension]
            else:
                found.append(sample)
    return sorted(found[:count], key=lambda sample: hash_of(sample.path))


def roots() -> list[Path]:
    """Where files are looked for."""
    paths = sysconfig.get_paths()
    return [Path(path) for path in dict.fromkeys((paths["stdlib"], paths["purelib"], paths["platlib"]))]


def hash_of(path: str) -> int:
    """A place in an order that mixes kinds, the same in every process."""
    from zlib import crc32

    return crc32(path.encode())


def _by_extension() -> dict[str, list[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for root in roots():
        for folder, _, names in os.walk(root):
            for name in names:
                extension = os.path.splitext(name)[1].lower()
                if extension in LABELS:
                    found[extension].add(os.path.join(folder, name))
    return {extension: sorted(paths) for extension, paths in found.items()}


def _spread(paths: list[str], most: int) -> list[str]:
    """At most about twice `most` of them, from everywhere in the list."""
    return paths[:: max(1, len(paths) // (2 * most))]


def _readable(paths: list[str]) -> Iterator[Sample]:
    for path in sorted(paths, key=hash_of):
        try:
            if os.path.islink(path) or os.path.getsize(path) > MOST_BYTES:
                continue
            content = Path(path).read_bytes()
        except OSError:
            continue
        if len(content[:HEAD_BYTES].strip()) >= LEAST_TEXT_BYTES:
            yield Sample(path, os.path.splitext(path)[1].lower(), content)
