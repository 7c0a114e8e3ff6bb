"""Weights: samples, less the staler; a walk's for turns there was time for; a fifth for all who have no votes."""

from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from shoal.training.members import Electorate, electorate_of
from shoal.training.method import WEIGHT_MAX
from shoal.training.reputation import TRUST_MAX
from shoal.training.spec import Quorum
from shoal.training.weights import LARGEST, STALE, Taken, weights
from shoal.transport.port import PeerId

VOTERS = [PeerId(f"voter {number}".ljust(40, ".")) for number in range(3)]
GUESTS = [PeerId(f"guest {number}".ljust(40, ".")) for number in range(4)]
STRANGER = PeerId("stranger".ljust(40, "."))
ELECTORATE: Electorate = electorate_of(Quorum.TWO_THIRDS, dict.fromkeys(VOTERS, 1) | dict.fromkeys(GUESTS, 0))
NEWEST = 70


def taken(member: PeerId, samples: int, staleness: int = 0) -> Taken:
    return Taken(member, NEWEST - staleness, samples, staleness)


ANY = st.builds(taken, st.sampled_from([*VOTERS, *GUESTS, STRANGER]), st.integers(1, 2**24), st.integers(0, 3))


def of(*rows: Taken) -> tuple[int, ...]:
    return weights(rows, ELECTORATE)


def full(row: Taken) -> int:
    return row.samples * STALE[row.staleness]


def most(rows: Sequence[Taken]) -> int:
    """Samples that count."""
    usual = sorted(row.samples for row in rows if row.member in VOTERS)
    return LARGEST * usual[len(usual) // 2] if usual else 0


def counted(rows: Sequence[Taken], found: Sequence[int], members: Sequence[PeerId]) -> int:
    """What these members' walks weigh in the mean."""
    walks: dict[object, list[int]] = {}
    for row, weight in zip(rows, found, strict=True):
        if row.member in members:
            walks.setdefault((row.member, row.base_round), []).append(weight)
    return sum(map(max, walks.values()))


def moved(rows: Sequence[Taken], found: Sequence[int], members: Sequence[PeerId]) -> int:
    """By how much these members' walks move the state: each by as many turns as it has."""
    walks: dict[object, list[int]] = {}
    for row, weight in zip(rows, found, strict=True):
        if row.member in members:
            walks.setdefault((row.member, row.base_round), []).append(weight)
    return sum(max(walk) * len(walk) for walk in walks.values())


def test_fresh_work_counts_by_its_samples() -> None:
    first, second = of(taken(VOTERS[0], 300), taken(VOTERS[1], 100))
    assert first == 3 * second > 0


def test_who_claims_a_thousand_times_the_samples_counts_four_times_as_much() -> None:
    liar, *honest = of(taken(VOTERS[0], 2**24), *(taken(voter, 100) for voter in VOTERS[1:]))
    assert liar == LARGEST * honest[0] == LARGEST * honest[1]


def test_trust_weighs_what_is_left_of_claims() -> None:
    rows = [taken(VOTERS[0], 2**24), *(taken(voter, 100) for voter in VOTERS[1:])]
    trust = {VOTERS[0]: TRUST_MAX // 64}
    liar, *honest = weights(rows, ELECTORATE, lambda member: trust.get(member, TRUST_MAX))
    assert 16 * liar == honest[0] == full(rows[1])


def test_each_round_that_work_is_stale_halves_it_until_nothing_is_left() -> None:
    found = [of(taken(VOTERS[0], 7, staleness))[0] for staleness in range(70)]
    assert found[0] == 2 * found[1] == 8 * found[3] > 0
    assert found[16] > found[17] == found[69] == 0


def test_of_several_contributions_of_one_member_each_has_its_own_weight() -> None:
    one, two = taken(VOTERS[0], 100, 1), taken(VOTERS[0], 50, 1)
    assert of(one, two) == (2 * of(two)[0], of(two)[0])


@given(st.lists(ANY, max_size=40))
@example([taken(VOTERS[0], 1000), *[taken(guest, 1000) for guest in GUESTS for _ in range(5)]])
def test_those_without_votes_have_at_most_a_fifth(rows: list[Taken]) -> None:
    found = of(*rows)
    for measure in (counted, moved):
        guests, voters = measure(rows, found, [*GUESTS, STRANGER]), measure(rows, found, VOTERS)
        assert 5 * guests <= guests + voters


@given(st.lists(ANY, max_size=40, unique_by=lambda row: row.member))
def test_the_cap_takes_nothing_from_voters_and_leaves_the_others_in_their_order(rows: list[Taken]) -> None:
    found = of(*rows)
    for weight, row in zip(found, rows, strict=True):
        assert 0 <= weight <= full(row) <= WEIGHT_MAX
        assert weight == min(full(row), most(rows) * STALE[row.staleness]) or row.member not in VOTERS
    cut = sorted(
        (min(full(row), most(rows) * STALE[row.staleness]), weight)
        for weight, row in zip(found, rows, strict=True)
        if row.member not in VOTERS
    )
    assert [weight for _, weight in cut] == sorted(weight for _, weight in cut)


def test_the_fifth_is_used_up() -> None:
    found = of(taken(VOTERS[0], 1000), *(taken(guest, 1000) for guest in GUESTS))
    assert abs(5 * sum(found[1:]) / sum(found) - 1) < 1e-3
    assert len(set(found[1:])) == 1


def test_few_samples_of_guests_count_in_full() -> None:
    assert of(taken(VOTERS[0], 1000), taken(GUESTS[0], 250)) == (1000 * STALE[0], 250 * STALE[0])


def test_many_keys_have_no_more_than_one() -> None:
    voter = taken(VOTERS[0], 1000)
    one, many = of(voter, taken(GUESTS[0], 2**24)), of(voter, *(taken(guest, 2**24) for guest in GUESTS))
    assert sum(many[1:]) <= one[1]


def test_voters_that_contribute_often_make_no_room_for_those_without_votes() -> None:
    voter, guest = taken(VOTERS[0], 1000), taken(GUESTS[0], 2**24)
    assert of(voter, voter, voter, guest)[3] <= of(voter, guest)[1]


def test_a_walk_of_more_turns_than_there_was_time_for_weighs_less_in_proportion() -> None:
    honest, liar = (taken(voter, 100) for voter in VOTERS[:2])
    assert of(honest, *[liar] * 4) == (of(honest)[0], *[of(liar)[0] // 4] * 4)
    late = taken(VOTERS[1], 100, 3)
    assert of(honest, *[late] * 4)[1:] == of(honest, late)[1:] * 4  # three rounds went by, and one is open
    assert of(honest, *[late] * 8)[1] == of(honest, late)[1] // 2


def test_a_member_that_contributes_from_every_state_that_is_not_too_old_weighs_no_more() -> None:
    honest = taken(VOTERS[0], 100)
    many = [taken(VOTERS[1], 100, staleness) for staleness in range(5)]
    found = of(honest, *many)
    assert sum(found[1:]) <= of(honest, many[0])[1]
    assert found[1] > found[2] > found[5] > 0


@given(
    st.lists(st.builds(taken, st.just(VOTERS[1]), st.integers(1, 2**24), st.integers(0, 4)), min_size=1, max_size=25)
)
@example([taken(VOTERS[1], 2**24, stale) for stale, count in ((0, 1), (1, 5), (2, 5)) for _ in range(count)])
def test_a_member_moves_no_more_by_many_turns_from_each_of_several_states_than_by_one(rows: list[Taken]) -> None:
    honest = taken(VOTERS[0], 2**24)
    rows = [honest, *rows]
    found = of(*rows)
    assert moved(rows, found, [VOTERS[1]]) <= moved(rows, found, [VOTERS[0]]) == full(honest)


def test_an_old_contribution_beside_makes_no_room_for_many_new_ones() -> None:
    liar, old = taken(VOTERS[0], 100), taken(VOTERS[0], 1, 16)
    assert of(*[liar] * 4, old)[:4] <= of(*[liar] * 4)


def test_while_no_round_closes_there_is_time_for_as_many_turns_as_more_than_a_third_of_the_votes_make() -> None:
    three, four, one = (taken(voter, 100) for voter in VOTERS)
    full = of(one)[0]
    assert of(*[three] * 3, *[four] * 4, one) == (*[full] * 3, *[full * 3 // 4] * 4, full)
    guest = taken(GUESTS[0], 100)
    assert of(one, *[guest] * 8)[1:] == (full // 4 // 8,) * 8  # nor do those without votes show anything


@given(st.lists(ANY, max_size=40), st.integers(2, 9))
def test_a_liar_moves_no_more_by_many_turns_from_the_newest_state_than_by_one(rows: list[Taken], count: int) -> None:
    others = [row for row in rows if row.member != VOTERS[0] and row.staleness and row.member in VOTERS]
    others = list({(row.member, row.staleness): row for row in others}.values())
    liar = taken(VOTERS[0], 1000)
    many, one = of(*others, *[liar] * count), of(*others, liar)
    assert sum(many[len(others) :]) <= one[-1]
    assert many[: len(others)] == one[: len(others)]


def test_where_no_voter_contributes_nobody_has_weight() -> None:
    assert of(taken(GUESTS[0], 1000), taken(STRANGER, 1000)) == (0, 0)
    assert of() == ()


def test_where_all_have_votes_nothing_is_cut() -> None:
    assert of(*(taken(voter, 2**24) for voter in VOTERS)) == (2**24 * STALE[0],) * 3
