"""Whether a pool.toml could be run with: every model's artifact and device, not only the file. Changes nothing, needs no pool."""

from __future__ import annotations

from collections.abc import Iterator

from broker.errors import ArtifactError
from broker.settings import Settings
from operators import doctor
from operators.finding import Finding
from operators.table import count_of


def check(settings: Settings) -> Iterator[Finding]:
    """Findings on a file that could be loaded, which says that keys and values are right and fit each other."""
    slots = sum(model.slots for model in settings.models.values())
    yield Finding(
        "ok",
        f"{settings.path or 'no file, defaults only'}: {count_of(len(settings.models), 'model')}, {count_of(slots, 'slot')} "
        f"of pool.most_slots = {settings.pool.most_slots}",
    )
    for examine in (doctor.artifacts, names, doctor.devices, doctor.retirement):
        yield from examine(settings)


def names(settings: Settings) -> Iterator[Finding]:
    """A slot refuses an artifact that was built for a model of another name."""
    from operators import models  # reads and hashes files; not needed to print --help

    for name in settings.models:
        try:
            told = models.describe(settings.artifact_path(name))
        except ArtifactError:
            continue  # `artifacts` says it
        if told["name"] != name:
            yield Finding(
                "fail", f"{settings.artifact_path(name)} holds model {told['name']!r}, [models.{name}] names it",
                f"call the table [models.{told['name']}], or correct its artifact",
            )  # fmt: skip
