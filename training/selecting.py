"""Rules that choose among rows by their distances: Krum, multi-Krum, MDA, nearest-neighbour mixing, Bristle's
prioritizer.

Distances are compared squared, as exact integers: there is no rounding that could choose differently. Rows are chosen
one like the other: weights count in the mean of those that are, for who could choose by a claim would claim. What
combining is, and why the bits are equal on all members: combinations.py.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

from blake3 import blake3

from .combinations import Combination, combined, measure, taken_apart
from .gram import Gram, Mix
from .rows import Row, Sweep, Weighted

LEFT_OUT_MAX: Final = 20  # rows of MDA: at worst 1.62^20 = 15,000 steps for each of some ten diameters, about a second
EXPLORATION: Final = Fraction(2, 5)  # Bristle's alpha


def krum(rows: Sequence[Weighted], f: int, size: int, sweep: Sweep) -> Row:
    """The row with the least sum of squared distances to its n - f - 2 nearest others.

    Blanchard et al. 2017 (Machine Learning with Adversaries), section 4. O(n^2 d). n >= 2 f + 3. Weights play no part.
    Beaten by honest data that differ (it follows one member), by free riders (zeros are near to everything small), by
    hostile rows that are equal, once they are more than n - f - 2.

    Raises:
        ValueError: n is too small for f; so do all rules here.
    """
    basis, _ = taken_apart(rows)
    return combined(basis, krum_mix(measure(basis, size, sweep), f))


def multi_krum(rows: Sequence[Weighted], f: int, size: int, sweep: Sweep) -> Row:
    """The weighted mean of the n - f rows that Krum likes best.

    Blanchard et al. 2017; n - f of them as ByzFL has it, where the paper leaves the number open. O(n^2 d).
    n >= 2 f + 3. Beaten by sign flip and IPM 0.5 at f = 4 of 10, by honest data that differ much: who is unusual is
    left out, attack or not.
    """
    basis, weights = taken_apart(rows)
    return combined(basis, multi_krum_mix(measure(basis, size, sweep), weights, f))


def krum_mix(gram: Gram, f: int) -> Mix:
    """For `krum`."""
    first = _by_score(gram, f)[0]
    return Mix(tuple(int(place == first) for place in range(len(gram))), 1)


def multi_krum_mix(gram: Gram, weights: Sequence[int], f: int) -> Mix:
    """For `multi_krum`."""
    return _mean_of(_by_score(gram, f)[: len(gram) - f], weights)


def _by_score(gram: Gram, f: int) -> list[int]:
    """Places, the best first."""
    _check(len(gram), f, 3)
    neighbours = len(gram) - f - 2
    scores: list[int] = []
    for place in range(len(gram)):
        others = [other for other in _nearest(gram, place) if other != place]
        scores.append(sum(gram.squared(place, other) for other in others[:neighbours]))
    return sorted(range(len(gram)), key=lambda place: (scores[place], place))


def _nearest(gram: Gram, place: int) -> list[int]:
    """All places, that of the row itself among them, by distance to a row."""
    return sorted(range(len(gram)), key=lambda other: (gram.squared(place, other), other))


def _mean_of(places: Sequence[int], weights: Sequence[int]) -> Mix:
    kept = set(places)
    coefficients = tuple(weight if place in kept else 0 for place, weight in enumerate(weights))
    return Mix(coefficients, sum(coefficients))


def _check(count: int, f: int, spare: int) -> None:
    if not 0 <= 2 * f <= count - spare:
        raise ValueError(f"{count} rows are too few for f = {f}: at least {2 * f + spare} are needed, and f >= 0")


def nearest_mixing(rows: Sequence[Weighted], f: int, size: int, sweep: Sweep) -> list[Weighted]:
    """NNM: each row becomes the mean of the n - f nearest to it, itself included. A rule takes them from there.

    Allouah et al. 2023 (Fixing by Mixing, arXiv 2302.01772), algorithm 2. Weights stay with their rows and play no part
    in the means. O(n^2 d), and n^3 products of integers (3 s for 256 rows); rules on distances need no sweep of their
    own after it and read each row once; rules by value read n (n - f) rows. n > 2 f. With it trimmed mean, Krum and
    others reach the best order of error that data with differences allow. Beaten by sign flip and IPM at f = 4 of 10.
    """
    basis, _ = taken_apart(rows)
    measured = measure(basis, size, sweep)
    mixes = nearest_mixes(measured, f)
    return [Weighted(Combination(basis, mix, measured), weight) for mix, (_, weight) in zip(mixes, rows, strict=True)]


def nearest_mixes(gram: Gram, f: int) -> list[Mix]:
    """For `nearest_mixing`: one for each row, with one denominator."""
    count = len(gram)
    _check(count, f, 1)
    return [_mean_of(_nearest(gram, place)[: count - f], [1] * count) for place in range(count)]


def least_diameter(rows: Sequence[Weighted], f: int, size: int, sweep: Sweep) -> Row:
    """MDA: the weighted mean of those n - f rows whose largest distance among each other is least.

    Rousseeuw 1985; El Mhamdi et al. 2021 (arXiv 2008.00742), as an aggregation rule. Exact; of several such sets the
    first in the order of places. O(n^2 d), then a search that is bounded by LEFT_OUT_MAX. n > 2 f; asynchronous
    agreement needs n >= 6 f + 1. Beaten by sign flip, IPM and label flip at f = 4 of 10, by honest data that differ.

    Raises:
        ValueError: n is too small for f, or f is above LEFT_OUT_MAX.
    """
    basis, weights = taken_apart(rows)
    return combined(basis, least_diameter_mix(measure(basis, size, sweep), weights, f))


def least_diameter_mix(gram: Gram, weights: Sequence[int], f: int) -> Mix:
    """For `least_diameter`."""
    count = len(gram)
    _check(count, f, 1)
    if f > LEFT_OUT_MAX:
        raise ValueError(f"f = {f}: the search for the least diameter is bounded to leaving out {LEFT_OUT_MAX} rows")
    squares = [[gram.squared(i, j) for j in range(count)] for i in range(count)]
    diameters = sorted({0, *(square for line in squares for square in line)})
    low, high = 0, len(diameters) - 1  # all rows together are within the last
    while low < high:
        middle = (low + high) // 2
        if _can_clear(_conflicts(squares, diameters[middle]), (1 << count) - 1, f):
            high = middle
        else:
            low = middle + 1
    conflicts = _conflicts(squares, diameters[low])
    left, budget = (1 << count) - 1, f
    for place in range(count):
        if not left >> place & 1:
            continue
        without = left & ~conflicts[place]
        spent = (left & conflicts[place]).bit_count()
        if spent <= budget and _can_clear(conflicts, without, budget - spent):
            left, budget = without, budget - spent
        else:
            left, budget = left & ~(1 << place), budget - 1
    return _mean_of([place for place in range(count) if left >> place & 1][: count - f], weights)


def _conflicts(squares: Sequence[Sequence[int]], diameter: int) -> list[int]:
    """For each row the others that are farther away, as bits."""
    return [sum(1 << other for other, square in enumerate(line) if square > diameter) for line in squares]


def _can_clear(conflicts: Sequence[int], left: int, budget: int) -> bool:
    """Whether `budget` rows at most can be left out of `left` so that no two others are in conflict.

    Who is in conflict with most goes, or all of these: a vertex cover by branching. Rows with one conflict alone cost
    no branch: of each two one goes.
    """
    while True:
        degrees = [(conflicts[place] & left).bit_count() if left >> place & 1 else 0 for place in range(len(conflicts))]
        most = max(degrees, default=0)
        if most <= 1:
            return sum(degrees) // 2 <= budget
        at = degrees.index(most)
        against = conflicts[at] & left
        if most <= budget and _can_clear(conflicts, left & ~against & ~(1 << at), budget - most):
            return True
        budget -= 1
        if budget < 0:
            return False
        left &= ~(1 << at)


def prioritized(rows: Sequence[Row], own: Row, budget: int, seed: int, size: int, sweep: Sweep) -> tuple[int, ...]:
    """Bristle's distance-based prioritizer: the places, ascending, of at most `budget` rows worth a closer look.

    Verbraeken, de Vos, Pouwelse 2021 (arXiv 2110.11006); there budget 30, alpha 0.4. By distance to one's
    own, rows are near, middling or far, a third each; of the budget (1 - alpha)^2 = 36% go to near ones,
    2 alpha (1 - alpha) = 48% to middling and alpha^2 = 16% to far ones, by largest remainders (rounding each alone, as
    a reference does, can leave a third out for ever). Within a third lots are drawn by hashing `seed`, which is any
    integer of 64 bits. Where a third has too few, the nearest of what is left fill up. Weights play no part: it is the
    member's own choice, of whose work to try.

    O(n^2 d). It bounds work, not harm: no breakdown point. Beaten by rows that keep near to one's own.
    """
    if budget < 1:
        raise ValueError(f"a budget of {budget} rows: at least 1 is needed")
    if len(rows) <= budget:
        return tuple(range(len(rows)))
    measured = measure((*rows, own), size, sweep)
    return drawn([measured.squared(place, len(rows)) for place in range(len(rows))], budget, seed)


def drawn(squares: Sequence[int], budget: int, seed: int) -> tuple[int, ...]:
    """For `prioritized`: from squared distances to one's own."""
    order = sorted(range(len(squares)), key=lambda place: (squares[place], place))
    cuts = [len(order) * third // 3 for third in range(4)]
    chosen: set[int] = set()
    for third, seats in enumerate(_seats(budget)):
        lots = sorted(order[cuts[third] : cuts[third + 1]], key=lambda place: (_lot(seed, place), place))
        chosen.update(lots[:seats])
    for place in order:
        if len(chosen) == min(budget, len(order)):
            break
        chosen.add(place)
    return tuple(sorted(chosen))


def _seats(budget: int) -> list[int]:
    """How much of the budget goes to near, middling and far ones: whole numbers that come to all of it."""
    quotas = [share * budget for share in ((1 - EXPLORATION) ** 2, 2 * EXPLORATION * (1 - EXPLORATION), EXPLORATION**2)]
    seats = [int(quota) for quota in quotas]
    by_remainder = sorted(range(3), key=lambda third: (seats[third] - quotas[third], third))
    for third in by_remainder[: budget - sum(seats)]:
        seats[third] += 1
    return seats


def _lot(seed: int, place: int) -> bytes:
    return blake3(b"shoal/lot/1\0" + seed.to_bytes(8, "little", signed=seed < 0) + place.to_bytes(4, "little")).digest()
