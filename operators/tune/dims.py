"""Shape buckets for a varying dimension, from the sizes the data has. Pure.

Chosen by dynamic programming so that the fewest cells are padding; the largest bucket stays what the manifest promises.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import msgspec

MOST_BUCKETS = 8
NEARLY = 0.01  # fewer buckets are taken where they pad at most 1 % of all cells more
MOST_SIZES = 400  # different sizes looked at; the cost grows with their square
MULTIPLE = 8  # what matrix units like; smaller sizes stay as they are


class Padding(msgspec.Struct, frozen=True):
    """Buckets as they are and as they might be, with the share of cells that is padding."""

    dim: str
    now: tuple[int, ...]
    now_share: float
    best: tuple[int, ...]
    best_share: float


def propose(dim: str, sizes: Mapping[int, int], now: Sequence[int]) -> Padding:
    """`sizes`: size -> rows that have it, none above the last of `now`."""
    best = buckets(sizes, largest=now[-1])
    return Padding(dim, tuple(now), share(sizes, now), best, share(sizes, best))


def share(sizes: Mapping[int, int], chosen: Sequence[int]) -> float:
    """Share of padded cells that is padding, when each row is padded to its bucket."""
    padded = sum(count * chosen[bisect_left(chosen, size)] for size, count in sizes.items())
    return 1 - sum(size * count for size, count in sizes.items()) / padded


def buckets(sizes: Mapping[int, int], *, largest: int, most: int = MOST_BUCKETS) -> tuple[int, ...]:
    """At most `most` buckets, the last one `largest`: as few as pad next to nothing more than the best."""
    found = [_best(sizes, largest, count) for count in range(1, most + 1)]
    least = min(share(sizes, one) for one in found)
    return next(one for one in found if share(sizes, one) <= least + NEARLY)


def _best(sizes: Mapping[int, int], largest: int, most: int) -> tuple[int, ...]:
    """The buckets that pad the fewest cells: cost[k][j] = least cells with k buckets up to candidate j."""
    candidates = _candidates(sizes, largest)
    below = [0] * (len(candidates) + 1)  # rows up to each candidate
    for size, count in sizes.items():
        below[bisect_left(candidates, size) + 1] += count
    for at in range(len(candidates)):
        below[at + 1] += below[at]
    cost = [below[at + 1] * candidates[at] for at in range(len(candidates))]
    came: list[list[int]] = []
    for _ in range(1, min(most, len(candidates))):
        better, origin = list(cost), [-1] * len(candidates)
        for at, candidate in enumerate(candidates):
            for before in range(at):
                cells = cost[before] + (below[at + 1] - below[before + 1]) * candidate
                if cells < better[at]:
                    better[at], origin[at] = cells, before
        came.append(origin)
        cost = better
    chosen = [len(candidates) - 1]
    for origin in reversed(came):
        if origin[chosen[-1]] >= 0:
            chosen.append(origin[chosen[-1]])
    return tuple(candidates[at] for at in reversed(chosen))


def _candidates(sizes: Mapping[int, int], largest: int) -> list[int]:
    """Where a bucket may end: at sizes the data has, rounded up to what devices like."""
    step = MULTIPLE
    while True:
        found = {min(largest, size if size < step else -(-size // step) * step) for size in sizes} | {largest}
        if len(found) <= MOST_SIZES:
            return sorted(found)
        step *= 2
