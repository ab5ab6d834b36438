"""A changed pool.toml brought into the running pool: checked whole, then applied in an order that can be given up halfway.

First the new settings are put in force (`applied`) and the slots they concern restart one at a time. Should one of them not become
ready, the settings of before are put back, so that no slot meets the bad ones when it restarts by itself. Only then do slots
come and go.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import closing

import msgspec

from broker import overlap, roster
from broker.arrangement import arrange
from broker.connection import LOST, Link, ResponseError
from broker.errors import ConfigError, PenstockError, SupervisorError
from broker.roster import Assignment
from broker.settings import Settings, parse
from operators import applied, placement, pool, readiness
from operators.desk import renewing
from operators.desk.alone import alone
from operators.desk.checking import names
from operators.desk.differences import Difference
from operators.desk.draining import drain
from operators.desk.reassigning import put_back, reassigned, send_away
from operators.desk.rolling import Restarted, Rolling
from operators.desk.targets import Target, choose
from operators.desk.unapplied import compare
from operators.plan import check_artifact
from operators.pool_lock import changing
from operators.reach import reach
from operators.supervisor import Supervisor
from operators.table import numbered
from operators.wishes import passing, per_model

Say = Callable[[str], None]


class Reload(msgspec.Struct, frozen=True):
    """What a reload would do, found right. `counts`: model -> slots it shall have, for models of which slots come or go."""

    now: Settings
    text: str  # of pool.toml; what is applied is what was checked
    differences: tuple[Difference, ...]
    restarts: tuple[str, ...]  # models whose slots restart
    counts: dict[str, int]
    held: dict[str, int]  # slots each model has now

    @property
    def takes_away(self) -> dict[str, int]:
        """Model -> slots that are drained for good."""
        return {
            model: self.held[model] - count for model, count in self.counts.items() if count < self.held.get(model, 0)
        }


class Reloaded(msgspec.Struct, frozen=True):
    """What was done."""

    restarted: tuple[Restarted, ...] = ()
    started: tuple[int, ...] = ()
    drained: tuple[int, ...] = ()


def prepare(settings: Settings, link: Link) -> Reload:
    """Checks everything there is to check, changes nothing. Raises ConfigError or ArtifactError."""
    text = applied.file_text(settings)
    if parse(text, settings.path) != settings:
        raise ConfigError(f"{settings.path} was edited just now; try again")
    found = compare(settings)
    fixed = [one.key for one in found if one.effect == "down"]
    if fixed:
        raise ConfigError(
            f"{', '.join(fixed)} cannot change while the pool is up; nothing was changed: "
            "`penstock down`, then `penstock up`, or take it back"
        )
    for model in settings.models:
        check_artifact(settings, model)
    placement.check(settings)
    for finding in names(settings):
        raise ConfigError(f"{finding.text}; {finding.mend}")
    plan = _planned(settings, text, link)
    total = sum({**plan.held, **plan.counts}.values())
    if total > settings.pool.most_slots:
        raise ConfigError(
            f"{total} slots are too many, this host runs at most pool.most_slots = {settings.pool.most_slots}; nothing was "
            "changed: `penstock scale` others down first"
        )
    return plan


def _planned(settings: Settings, text: str, link: Link) -> Reload:
    """What it takes from how the pool stands now. Checks nothing."""
    found = compare(settings)
    beside = passing(overlap.requests(link, settings.host))
    held = per_model({n: one for n, one in roster.assignments(link, settings.host).items() if n not in beside})
    counts = {
        model: settings.models[model].slots if model in settings.models else 0
        for one in found
        for model in one.models
        if one.effect == "scale"
    }
    gone = {model for model in counts if model not in settings.models}
    restarts = {model for one in found if one.effect == "slots" for model in one.models if held[model]} - gone
    return Reload(settings, text, found, tuple(sorted(restarts)), counts, dict(held))


def carry_out(plan: Reload, link: Link, supervisor: Supervisor, *, timeout_s: float, say: Say) -> Reloaded:
    """Applies the plan. Raises SupervisorError when a slot does not become ready with its new settings: then those of before are
    in force again; and when a new one does not: the settings are in force even so. Interrupted after that, `reload` goes on with it.
    """
    with alone(plan.now):
        plan = _as_agreed(plan, link)
        restarted = _restart(plan, link, supervisor, timeout_s, say)
        try:
            drained, started = _come_and_go(plan, link, supervisor, timeout_s, say)
        except PenstockError as error:
            applied.finish(plan.now)
            raise SupervisorError(f"{error}; the new settings are in force") from None
        else:
            applied.finish(plan.now)
        finally:
            renewing.end_runs(plan.differences, supervisor)
    return Reloaded(restarted, started, drained)


def _as_agreed(plan: Reload, link: Link) -> Reload:
    """The plan for the pool as it stands now. Raises ConfigError where that is another one than was shown and agreed to: while it
    was read, or waited for its answer, another reload was carried out, or `scale`."""
    now = _planned(plan.now, plan.text, link)
    if (now.differences, now.takes_away) != (plan.differences, plan.takes_away):
        raise ConfigError(
            "another command changed the pool meanwhile, nothing was applied; look at it again and try again"
        )
    return now


def _restart(plan: Reload, link: Link, supervisor: Supervisor, timeout_s: float, say: Say) -> tuple[Restarted, ...]:
    """Puts the new settings in force, and the slots they concern with them."""
    rolling = Rolling(plan.now, link, supervisor, timeout_s=timeout_s, say=say)
    with changing(plan.now):
        held = roster.assignments(link, plan.now.host)
        fresh = reassigned(plan.now, link, held)
        applied.begin(plan.now, plan.text)
    try:
        with changing(plan.now):
            arrange(link, plan.now.host, wanted={}, assigned=fresh)
            renewing.renew_agent(plan.differences, link, supervisor)
        # Chosen only now: what started before the new settings were in force has to start again, by whomever it was started.
        targets = [one for model in plan.restarts for one in choose(plan.now, link, supervisor, model=model)]
        rolling.one_at_a_time(targets)
    except BaseException as error:
        said = _take_back(plan, supervisor, held, rolling)
        if isinstance(error, PenstockError):
            raise SupervisorError(f"{error}; {said}") from None
        say(said)
        raise
    return tuple(rolling.done)


def _take_back(plan: Reload, supervisor: Supervisor, held: Mapping[int, Assignment], rolling: Rolling) -> str:
    """Puts in force what was before the reload, and says whether it is. The mark that a reload is halfway goes last: whatever
    cannot be put back, `config diff` still tells."""
    try:
        with changing(plan.now), closing(reach(plan.now)) as link:  # the other one may be what broke
            came = put_back(plan.now, link, held)
            applied.give_up(plan.now)
            renewing.renew_agent(plan.differences, link, supervisor)
            send_away(plan.now, link, supervisor, came.strangers)
    except (PenstockError, ResponseError, *LOST) as error:
        return f"the settings of before could not be put back ({error}); see `penstock config diff`"
    said = "the settings of before are in force again"
    if new := sorted({*(one.now for one in rolling.done), *came.added}):
        said += f"; with the new ones run, until they restart: {numbered(new)}"
    if came.strangers:
        said += f"; drained, for they serve what the pool does not know: {numbered(came.strangers)}"
    if rolling.halfway is not None:  # it would go on loading with the new ones
        with contextlib.suppress(PenstockError, ResponseError, *LOST):
            rolling.start_over(rolling.halfway)
            said += f"; slot {rolling.halfway} starts again with them"
    return said


def _come_and_go(
    plan: Reload, link: Link, supervisor: Supervisor, timeout_s: float, say: Say
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First those that go, so that there is room for those that come."""
    leaving: list[Target] = []
    for model in plan.takes_away:
        leaving += choose(plan.now, link, supervisor, model=model)[plan.counts[model] :]
    drained = drain(plan.now, link, supervisor, leaving, say=say).slots if leaving else ()
    started: list[int] = []
    since_ms = roster.now_ms(link)
    for model, count in plan.counts.items():
        if count > plan.held.get(model, 0):
            started += pool.scale(plan.now, model, count).started
    if started:
        say(f"waiting until {numbered(started)} can serve")
        readiness.wait_until_ready(plan.now, started, timeout_s=timeout_s, say=say, since_ms=since_ms)
    return drained, tuple(started)
