"""The models of this pool: what pool.toml names and what Redis has published, with the artifact's own description."""

from __future__ import annotations

import msgspec

from broker import roster, spec
from broker.connection import LOST
from broker.errors import ArtifactError, RedisUnavailable
from broker.settings import Settings
from operators.reach import reach


class CatalogueEntry(msgspec.Struct, frozen=True):
    """One model. `problem` says why its artifact could not be read; `is_configured` whether pool.toml has it."""

    name: str
    is_configured: bool
    version: str = ""
    backend: str = ""
    takes: str = ""
    device: str = ""
    slots: int = 0
    ready: int = 0
    size_bytes: int | None = None
    artifact: str = ""
    problem: str = ""


def catalogue(settings: Settings) -> list[CatalogueEntry]:
    """All models by name; without Redis only those of pool.toml, with `ready` 0."""
    ready: dict[str, int] = {}
    published: dict[str, spec.ModelSpec] = {}
    try:
        link = reach(settings, is_reading=True)
        for name in roster.models(link):
            published[name] = spec.fetch(link, name).spec
        ready = {name: len(roster.ready(link, name)) for name in {*published, *settings.models}}
        link.close()
    except (*LOST, RedisUnavailable):
        pass  # the pool may be down; the artifacts are still there to be listed
    found = [_configured(settings, name, ready.get(name, 0)) for name in settings.models]
    found += [
        CatalogueEntry(name, False, version=one.version, takes=one.takes, ready=ready[name])
        for name, one in published.items()
        if name not in settings.models
    ]
    return sorted(found, key=lambda entry: entry.name)


def _configured(settings: Settings, name: str, ready: int) -> CatalogueEntry:
    from operators import models

    model, folder = settings.models[name], settings.artifact_path(name)
    entry = CatalogueEntry(name, True, device=model.device, slots=model.slots, ready=ready, artifact=str(folder))
    try:
        told = models.describe(folder)
    except ArtifactError as error:
        return msgspec.structs.replace(entry, problem=str(error))
    return msgspec.structs.replace(
        entry, version=told["version"], backend=told["backend"], takes=told["takes"], size_bytes=told["size_bytes"]
    )  # fmt: skip
