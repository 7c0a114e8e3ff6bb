"""A round's aggregate: attackers that claim what they like are no majority, however little some of the others weigh."""

import numpy as np
import pytest

from shoal.training.aggregating import Held, Room, Terms, attested
from shoal.training.evidence import Testimony
from shoal.training.members import electorate_of
from shoal.training.rows import Weighted, one_by_one
from shoal.training.rules import NOTHING
from shoal.training.spec import Quorum
from shoal.training.walks import Contributor
from shoal.training.weights import Taken, weights
from shoal.transport.port import PeerId

SIZE = 512
MEMBERS, ATTACKERS = 10, 2


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
    room = Room(one_by_one, (np.zeros(SIZE, np.float32), np.zeros(SIZE, np.float32)))
    found, _ = attested(given, Terms(rule, ATTACKERS, NOTHING), Testimony(), room)
    whole = found.values(0, SIZE)
    assert whole @ along > 0.5 * np.linalg.norm(whole) * np.linalg.norm(along)
