"""Overlap: how a slot that is due to retire is replaced by a spare before it stops. Pure: one look in, actions out.

A request goes asked -> loading -> swapping -> gone, or -> refused -> gone. Every step is written before it is done and can be
done again, so the agent may die between any two. The two slots swap numbers: the old one is the next spare.
"""

from __future__ import annotations

import msgspec

from broker.overlap import Request
from operators.places import Action, Place, Seen

HOST_MARGIN_BYTES = 256 << 20  # the slot's own process, its slabs, and something left over
DEVICE_MARGIN_BYTES = 1 << 30  # a CUDA context is in nobody's figure
CANNOT_LOAD = frozenset({"failing", "backing off"})


def swaps(seen: Seen, *, load_timeout_s: float) -> list[Action]:
    """What to do for the requests of this host."""
    actions: list[Action] = []
    busy = {request.model for request in seen.requests.values() if _has_spare(request)}
    taken = {request.spare for request in seen.requests.values()}
    for number, request in sorted(seen.requests.items()):
        place = seen.places.get(number, Place(number, "STOPPED"))
        spare = seen.places.get(request.spare)
        if request.phase == "asked":
            if place.assignment is None or place.pid != request.pid:
                actions.append(Action("answer", number))
            elif request.model not in busy:
                granted = _answer(seen, place, request, taken)
                busy.add(request.model)  # one at a time
                actions += granted
                taken |= {one.number for one in granted if one.verb == "start"}
        elif request.phase == "loading":
            actions += _load(seen, place, spare, request, load_timeout_s)
        elif request.phase == "swapping":
            actions += _take_away(place)
            if place.is_at_rest and place.assignment is None:
                actions += [Action("forget", number, model=request.model), Action("answer", number)]
        else:
            actions += _take_back(place, spare, request)
    return actions


def short_of(place: Place, seen: Seen, reserved_bytes: int = 0) -> str:
    """Why a second copy of what this slot runs may not fit, or nothing. What is not known does not fit."""
    if place.assignment is None or not place.host_bytes:
        return "the memory its engine takes is not known"
    needed, free = place.host_bytes + HOST_MARGIN_BYTES + reserved_bytes, seen.free_host_bytes
    if free is None or free < needed:
        return f"{_mb(needed)} of host memory needed, {_mb(free)} free"
    device = place.assignment.device
    if device != "cpu":
        if place.device_bytes is None:
            return f"the memory it takes on {device} is not known"
        needed, free = place.device_bytes + DEVICE_MARGIN_BYTES, seen.free_device_bytes.get(device)
        if free is None or free < needed:
            return f"{_mb(needed)} of memory on {device} needed, {_mb(free)} free"
    return ""


def _answer(seen: Seen, place: Place, request: Request, taken: set[int]) -> list[Action]:
    assert place.assignment is not None
    free = [one.number for one in seen.places.values()
            if one.assignment is None and one.state in ("STOPPED", "EXITED") and one.number not in taken]  # fmt: skip
    others = [one for number, one in seen.requests.items() if one.phase == "loading" and number != place.number]
    reserved = sum(seen.places[one.spare].host_bytes or place.host_bytes for one in others if one.spare in seen.places)
    on_device = any(_device(seen, one) == place.assignment.device != "cpu" for one in others)
    if on_device:
        return []  # the memory another spare will take there cannot be seen yet: wait for it
    why = short_of(place, seen, reserved) or ("" if free else "no slot number is free")
    if why:
        return [_refuse(seen, place.number, request, why)]
    spare = min(free)
    granted = msgspec.structs.replace(request, phase="loading", spare=spare, since_ms=seen.now_ms)
    return [
        Action("answer", place.number, request=granted),
        Action("assign", spare, assignment=place.assignment),
        Action("start", spare, "spare", f"for slot {place.number}: {request.reason}"),
    ]


def _load(
    seen: Seen, place: Place, spare: Place | None, request: Request, load_timeout_s: float
) -> list[Action]:  # fmt: skip
    waited_s = (seen.now_ms - request.since_ms) / 1000
    if place.assignment is None:
        return [_refuse(seen, place.number, request, "the slot was taken away meanwhile")]
    if spare is None:
        return [_refuse(seen, place.number, request, "the spare is no slot of this host")]
    if spare.is_ready:
        swapping = msgspec.structs.replace(request, phase="swapping", since_ms=seen.now_ms)
        return [Action("answer", place.number, request=swapping), *_take_away(place)]
    if spare.is_current and spare.word in CANNOT_LOAD:
        return [_refuse(seen, place.number, request, f"the spare, slot {spare.number}, is {spare.word}")]
    if waited_s > load_timeout_s:
        return [_refuse(seen, place.number, request, f"slot {spare.number} was not ready within {load_timeout_s:g} s")]
    if spare.assignment is None:
        return [Action("assign", spare.number, assignment=place.assignment)]  # its start follows: it is wanted then
    return []


def _take_away(place: Place, kind: str = "swap", why: str = "its spare is ready") -> list[Action]:
    """Unassigned first: a slot that restarts in between must not load again."""
    actions = [Action("assign", place.number)] if place.assignment is not None else []
    return [*actions, Action("stop", place.number, kind, why)] if place.is_up else actions


def _take_back(place: Place, spare: Place | None, request: Request) -> list[Action]:
    number = place.number
    if spare is None or request.spare < 0:
        is_over = place.assignment is None or place.pid != request.pid
        return [Action("answer", number)] if is_over else []
    actions = _take_away(spare, "unswap", request.why)
    if spare.is_at_rest and spare.assignment is None:
        done = msgspec.structs.replace(request, spare=-1)
        actions += [Action("forget", spare.number, model=request.model), Action("answer", number, request=done)]
    return actions


def _refuse(seen: Seen, number: int, request: Request, why: str) -> Action:
    refused = msgspec.structs.replace(request, phase="refused", why=why, since_ms=seen.now_ms)
    return Action("answer", number, "refuse", why, request=refused)


def _has_spare(request: Request) -> bool:
    return request.spare >= 0


def _device(seen: Seen, request: Request) -> str:
    spare = seen.places.get(request.spare)
    return spare.assignment.device if spare is not None and spare.assignment is not None else ""


def _mb(count: int | None) -> str:
    return "an unknown amount" if count is None else f"{count >> 20} MB"
