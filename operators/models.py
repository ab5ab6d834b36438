"""What `penstock models` does to an artifact's folder: describe, seal, verify, trust. Loads no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from broker.errors import ArtifactError
from workers import artifact, trust


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
        "runs_code": bool(trust.code_in(found)),
        "has_golden_probe": manifest.golden is not None,
    }


def seal(folder: Path | str, *, trusted: Path | None = None) -> dict[str, Any]:
    """Writes size and sha256 of every file in the folder into its manifest; then as `describe`. Raises ArtifactError.

    With `trusted` an artifact that runs code is put on that list too: who seals it here answers for what is in it.
    `is_newly_trusted` says so.
    """
    artifact.seal(folder)
    found = artifact.open_artifact(folder)
    is_new = trusted is not None and bool(trust.code_in(found)) and trust.add(found, trusted)
    return {**describe(folder), "is_newly_trusted": is_new}


def trust_artifact(folder: Path | str, trusted: Path) -> dict[str, Any]:
    """Puts the artifact on the trusted list, once its files are as its manifest says; then as `describe`. Raises ArtifactError."""
    found = artifact.open_artifact(folder)
    is_new = trust.add(found, trusted)
    return {**describe(folder), "digest": found.digest, "code": trust.code_in(found), "is_newly_trusted": is_new}


def verify(folder: Path | str, *, trusted: Path | None = None) -> list[str]:
    """One sentence with its mend for everything wrong with the folder; empty when a slot would load it.

    Without the `trusted` list only the files are looked at, not whether they may run code.
    """
    try:
        problems = list(artifact.parse(folder).problems())
        if not problems:
            found = artifact.open_artifact(folder)
            problems = [*filter(None, [trust.problem(found, trusted)])] if trusted is not None else []
    except ArtifactError as error:
        return [str(error)]
    return problems
