"""Which settings fit each other; each alone was found right by `settings_values`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.bodies import check_location
from broker.errors import ConfigError
from broker.roots import complaint as wrong_root
from broker.settings_cron import complaint
from broker.settings_values import written

if TYPE_CHECKING:
    from broker.settings import Settings


def check_together(settings: Settings, where: str) -> None:
    """Raises ConfigError that names the first which does not; `where` is the file."""
    for name in settings.models:
        if not name.replace("-", "").replace("_", "").isalnum() or name == "pool":
            raise ConfigError(f'{where}: model name "{name}" may hold letters, digits, - and _ only, and not be "pool"')
    total = sum(model.slots for model in settings.models.values())
    if total > settings.pool.most_slots:
        raise ConfigError(
            f"{where}: models want {total} slots, pool.most_slots is {settings.pool.most_slots}; raise it"
        )
    if not 0 < settings.slot.block_ms < 4000:
        raise ConfigError(f"{where} [slot]: block_ms = {settings.slot.block_ms} must lie between 1 and 3999")
    if not settings.slot.hang_factor > 1:
        raise ConfigError(f"{where} [slot]: hang_factor = {settings.slot.hang_factor} must be above 1")
    if settings.slot.lease_s < 3 * settings.slot.beat_s:
        raise ConfigError(f"{where} [slot]: lease_s must be at least three times beat_s")
    check_location(f"{where} [queue]", settings.queue.bodies)
    for name, model in settings.models.items():
        scale = model.autoscale
        if scale.most and not scale.least <= model.slots <= scale.most:
            raise ConfigError(
                f"{where} [models.{name}.autoscale]: slots = {model.slots} must lie between least = {scale.least} and most = {scale.most}"
            )
        if model.memory_fraction > 1:
            raise ConfigError(
                f"{where} [models.{name}]: memory_fraction = {model.memory_fraction:g} must be 1 or less; 0 sets no bound"
            )
        if model.max_rows and model.row_buckets and model.row_buckets[-1] > model.max_rows:
            raise ConfigError(
                f"{where} [models.{name}]: row_buckets = {written(list(model.row_buckets))} must end at max_rows, "
                f"{model.max_rows}, or below"
            )
    for place, root in enumerate(settings.runs.roots, 1):
        if wrong := wrong_root(root):
            raise ConfigError(f"{where} [runs]: root {place} of roots {wrong}")
    for name, schedule in settings.schedules.items():
        if schedule.model not in settings.models:
            raise ConfigError(
                f'{where} [schedules.{name}]: model = "{schedule.model}" is not served here; add [models.{schedule.model}]'
            )
        if wrong := complaint(schedule.cron):
            raise ConfigError(f'{where} [schedules.{name}]: cron = "{schedule.cron}" {wrong}')
    if not 0 <= settings.retire.jitter < 1:
        raise ConfigError(f"{where} [retire]: jitter = {settings.retire.jitter} must lie between 0 and 1")
