"""What pool.toml wants of this host: which slot serves what, and whether its artifact is fit to be served. Changes nothing."""

from __future__ import annotations

from broker.errors import ArtifactError, ConfigError
from broker.roster import Assignment
from broker.settings import Settings


def plan(settings: Settings) -> dict[int, Assignment]:
    """slot number -> assignment, as pool.toml wants it: 0..N-1, models in the file's order. `auto` is settled by `placement`."""
    wished = [name for name, model in settings.models.items() for _ in range(model.slots)]
    return {number: assignment(settings, name) for number, name in enumerate(wished)}


def assignment(settings: Settings, model: str) -> Assignment:
    """What a slot of the model gets to know. Raises ConfigError for a model not in [models]."""
    return Assignment(
        model=model, artifact=str(settings.artifact_path(model)), device=settings.models[model].device
    )  # fmt: skip


def check_artifact(settings: Settings, model: str) -> None:
    """Raises ArtifactError or ConfigError when the model's artifact is missing, or its files are not as its manifest says."""
    folder = settings.artifact_path(model)
    if not folder.is_dir():
        raise ConfigError(
            f"model {model}: there is no artifact at {folder}; set models.{model}.artifact in "
            f"{settings.path or 'pool.toml'} to its folder"
        )
    from operators import models  # reads and hashes files; not needed to print --help

    problems = models.verify(folder, trusted=settings.trusted)
    if problems:
        more = (
            f" (and {len(problems) - 1} more; `penstock models verify {model}` lists them)" if len(problems) > 1 else ""
        )
        raise ArtifactError(f"model {model}: {problems[0]}{more}")
