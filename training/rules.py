"""Aggregation rules by name, and the bound on weights without which a robust rule is none.

A rule that averages takes a row's weight for so many equal rows. Weights are what members claim, and one claim above
half of all is the median of anything, whatever it says. So weights are cut to a height at which the f heaviest have a
third of all at most, but no lower than makes the 2 f + 1 heaviest equal: of those f are less than half, and who hardly
counts, as nobody trusts it any more, takes nobody else's weight away.

Equal to the bit on every member: rows.py.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from .averaging import centered_clipping, clipped_mean, geometric_median, mean
from .combinations import Combination, taken_apart
from .flag import flag_aggregator
from .gram import Mix
from .order_statistics import CoordinateMedian, TrimmedMean, WeightedMedian, WeightedTrimmedMean
from .rows import Row, Sweep, Weighted
from .selecting import krum, least_diameter, multi_krum, nearest_mixing

CLIPPING_ITERATIONS: Final = 3  # of centered clipping; Karimireddy et al. 2021 found 1 to 5 alike
NOTHING: Final = Combination((), Mix((), 1))  # a row of zeros: the aggregate before there is one

# Takes rows, how many may be attackers', the previous aggregate, the size and how to go over it. Raises ValueError
# where there are too few rows for that.
Rule = Callable[[Sequence[Weighted], int, Row, int, Sweep], Row]


def _median(rows: Sequence[Weighted]) -> Row:
    """Equal weights change no bit, and need not be looked at in each value: a quarter of the time."""
    return CoordinateMedian(rows) if _are_equal(rows) else WeightedMedian(rows)


def _trimmed_mean(rows: Sequence[Weighted], f: int) -> Row:
    return TrimmedMean(rows, f) if _are_equal(rows) else WeightedTrimmedMean(rows, f)


def _are_equal(rows: Sequence[Weighted]) -> bool:
    return len({weight for _, weight in rows}) == 1


def _mixed_trimmed_mean(rows: Sequence[Weighted], f: int, previous: Row, size: int, sweep: Sweep) -> Row:
    return _trimmed_mean(nearest_mixing(rows, f, size, sweep), f)


def _mixed_geometric_median(rows: Sequence[Weighted], f: int, previous: Row, size: int, sweep: Sweep) -> Row:
    return geometric_median(nearest_mixing(rows, f, size, sweep), size, sweep)


def _centered_clipping(rows: Sequence[Weighted], f: int, previous: Row, size: int, sweep: Sweep) -> Row:
    return centered_clipping(rows, previous, CLIPPING_ITERATIONS, size, sweep)


RULES: Final[Mapping[str, Rule]] = {
    "mean": lambda rows, f, previous, size, sweep: mean(rows, size, sweep),
    "clipped_mean": lambda rows, f, previous, size, sweep: clipped_mean(rows, size, sweep),
    "median": lambda rows, f, previous, size, sweep: _median(rows),
    "trimmed_mean": lambda rows, f, previous, size, sweep: _trimmed_mean(rows, f),
    "geometric_median": lambda rows, f, previous, size, sweep: geometric_median(rows, size, sweep),
    "centered_clipping": _centered_clipping,
    "krum": lambda rows, f, previous, size, sweep: krum(rows, f, size, sweep),
    "multi_krum": lambda rows, f, previous, size, sweep: multi_krum(rows, f, size, sweep),
    "mda": lambda rows, f, previous, size, sweep: least_diameter(rows, f, size, sweep),
    "nnm_trimmed_mean": _mixed_trimmed_mean,
    "nnm_geometric_median": _mixed_geometric_median,
    "flag": lambda rows, f, previous, size, sweep: flag_aggregator(rows, size, sweep),
}


def rows_least(rule: str, f: int) -> int:
    """How many rows the rule needs where f may be attackers'."""
    return 2 * f + (3 if rule in ("krum", "multi_krum") else 1)


def attackers_most(rule: str, share: float, voters: int) -> int:
    """f: the share of so many voters, in thousandths, rounded up; or as many of them as the rule bears, if that is
    fewer.
    """
    wanted = -(-round(1000 * share) * voters // 1000)
    return max(0, min(wanted, (voters - rows_least(rule, 0)) // 2))


def filled(rule: str, rows: Sequence[Weighted], f: int) -> list[Weighted]:
    """With rows of zeros, as heavy as the heaviest, until there are as many as the rule needs for f.

    Else who gets a round to take its own contribution and few others would be a majority of it.
    """
    zeros = Weighted(NOTHING, max(weight for _, weight in rows))
    return [*rows, *[zeros] * (rows_least(rule, f) - len(rows))]


def bounded(rows: Sequence[Weighted], f: int) -> list[Weighted]:
    """The rows with weights cut to the largest height at which the f heaviest have a third of all at most, or else to
    that of the (2 f + 1)th heaviest.

    Raises:
        ValueError: n > 2 f does not hold.
    """
    weights = [weight for _, weight in rows]
    if not 0 <= 2 * f < len(weights):
        raise ValueError(f"{len(weights)} rows are too few for f = {f}: at least {2 * f + 1} are needed, and f >= 0")
    low, high = sorted(weights)[-(2 * f + 1)], max(weights)
    while low < high:
        middle = (low + high + 1) // 2
        cut = sorted(min(weight, middle) for weight in weights)
        if 3 * sum(cut[len(cut) - f :]) <= sum(cut):
            low = middle
        else:
            high = middle - 1
    return [Weighted(row, min(weight, low)) for row, weight in rows]


def plain(rule: str, rows: Sequence[Weighted], f: int) -> Mix | None:
    """What `aggregate` makes of rows of which none is unusual; None for rules of which that cannot be said."""
    if rule not in ("mean", "clipped_mean"):
        return None
    _, weights = taken_apart(rows if rule == "mean" else bounded(rows, f))
    return Mix(weights, sum(weights))


def aggregate(rule: str, rows: Sequence[Weighted], f: int, previous: Row, size: int, sweep: Sweep) -> Row:
    """What the rule called `rule` makes of at least one row; all but the mean have weights bounded first.

    Args:
        f: of how many rows, any of them, the result is to be worth something whatever they say.
        previous: the last aggregate, or NOTHING.

    Raises:
        ValueError: there are too few rows for f, or more than the rule bears.
    """
    return RULES[rule](rows if rule == "mean" else bounded(rows, f), f, previous, size, sweep)
