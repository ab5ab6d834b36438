"""What `penstock models` does to an artifact's folder: describe, seal, verify. Loads no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from broker.errors import ArtifactError
from workers import artifact


def describe(folder: Path | str) -> dict[str, Any]:
    """The manifest in plain values for printing or --json. Opens no other file. Raises ArtifactError."""
    found = artifact.parse(folder)
    manifest = found.manifest
    return {
        "folder": str(found.folder),
        "name": manifest.name,
        "version": manifest.version,
        "backend": manifest.backend,
        "takes": manifest.takes,
        "inputs": msgspec.to_builtins(manifest.inputs),
        "outputs": msgspec.to_builtins(manifest.outputs),
        "max_rows": manifest.max_rows,
        "row_buckets": list(found.row_buckets()),
        "buckets": {name: list(sizes) for name, sizes in manifest.buckets.items()},
        "files": [{"path": file.path, "size": file.size} for file in manifest.files],
        "size_bytes": sum(max(file.size, 0) for file in manifest.files),
        "has_pipeline": manifest.pipeline is not None,
        "has_golden_probe": manifest.golden is not None,
    }


def seal(folder: Path | str) -> dict[str, Any]:
    """Writes size and sha256 of every file in the folder into its manifest; then as `describe`. Raises ArtifactError."""
    artifact.seal(folder)
    artifact.open_artifact(folder)
    return describe(folder)


def verify(folder: Path | str) -> list[str]:
    """One sentence with its mend for everything wrong with the folder; empty when a slot would load it."""
    try:
        problems = list(artifact.parse(folder).problems())
        if not problems:
            artifact.open_artifact(folder)
    except ArtifactError as error:
        return [str(error)]
    return problems
