"""A round's aggregate: it is what the rule makes of the voters' rows, in however many sweeps; and attackers that claim
what they like are no majority, however little some of the others weigh.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest

from shoal.training.aggregating import Held, Room, Terms, attested
from shoal.training.evidence import Testimony
from shoal.training.members import electorate_of
from shoal.training.rows import Part, Weighted, one_by_one
from shoal.training.rules import NOTHING, RULES, aggregate
from shoal.training.spec import Quorum
from shoal.training.walks import Contributor
from shoal.training.weights import Taken, weights
from shoal.transport.port import PeerId
from tests.training.rows_in_memory import normal

SIZE = 512
MEMBERS, ATTACKERS = 10, 2


def aggregated(rule: str, given: Sequence[Contributor]) -> tuple[np.ndarray, int]:
    """What was taken last for each value, and in how many sweeps."""
    found, sweeps = np.full(SIZE, np.nan, np.float32), Counter[str]()

    def sweep(part: Callable[[int, int], Part], size: int) -> Iterable[Part]:
        sweeps["sweeps"] += 1
        return one_by_one(part, size)

    def take(start: int, stop: int, values: np.ndarray) -> None:
        found[start:stop] = values

    room = Room(sweep, (np.zeros(SIZE, np.float32), np.zeros(SIZE, np.float32)))
    attested(given, Terms(rule, ATTACKERS, NOTHING), Testimony(), room, take)
    return found, sweeps["sweeps"]


@pytest.mark.parametrize("rule", ["clipped_mean", "median", "trimmed_mean", "geometric_median", "centered_clipping"])
@pytest.mark.parametrize("slow", [0, 2, 4])
def test_attackers_that_claim_most_are_no_majority_where_honest_members_are_on_slow_machines(
    rule: str, slow: int
) -> None:
    random = np.random.default_rng(0)
    members = [PeerId(f"member {number:04}".ljust(40, ".")) for number in range(MEMBERS)]
    electorate = electorate_of(Quorum.TWO_THIRDS, dict.fromkeys(members, 1))
    samples = [10**6] * ATTACKERS + [18] * slow + [400] * (MEMBERS - ATTACKERS - slow)
    counted = weights([Taken(*each, 0) for each in zip(members, [0] * MEMBERS, samples, strict=True)], electorate)
    along = random.standard_normal(SIZE).astype(np.float32)
    rows = [Held(-along)] * ATTACKERS
    rows += [Held(along + random.standard_normal(SIZE).astype(np.float32)) for _ in range(MEMBERS - ATTACKERS)]
    given = [
        Contributor(member, True, (Weighted(row, weight),))
        for member, row, weight in zip(members, rows, counted, strict=True)
    ]
    found, _ = aggregated(rule, given)
    assert found @ along > 0.5 * np.linalg.norm(found) * np.linalg.norm(along)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("longest", [1.0, 10.0])
@pytest.mark.parametrize("heaviest", [1, 3, 100])
def test_what_is_taken_is_what_the_rule_makes_of_the_rows(rule: str, longest: float, heaviest: int) -> None:
    rows = [Held(values * np.float32(longest if place == 4 else 1)) for place, values in enumerate(normal(3, 7, SIZE))]
    weighted = [Weighted(row, heaviest if place == 2 else 1) for place, row in enumerate(rows)]
    given = [Contributor(str(place), True, (each,)) for place, each in enumerate(weighted)]
    found, sweeps = aggregated(rule, given)
    assert np.array_equal(found, aggregate(rule, weighted, ATTACKERS, NOTHING, SIZE, one_by_one).values(0, SIZE))
    if rule == "mean" or (rule == "clipped_mean" and longest == 1):
        assert sweeps == 1  # nobody's row was unusual, as expected
