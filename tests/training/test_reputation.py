"""Trust comes slowly and goes fast, for attackers and free riders and nobody else; the table stays within bounds."""

from collections.abc import Callable, Mapping, Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from shoal.training.evidence import COSINE, LENGTH, LENGTH_MAX, NOTHING, OVERLAP, Evidence, Given, Testimony
from shoal.training.evidence import testify as found_of
from shoal.training.order_statistics import CoordinateMedian
from shoal.training.reputation import (
    GROWTH,
    STANDINGS_MAX,
    TRUST_MAX,
    TRUST_MIN,
    TRUST_START,
    Charge,
    Copies,
    Fault,
    Reputation,
    Rules,
    Taken,
    Verdict,
    charged,
    least_similarity,
)
from shoal.training.rows import Weighted, one_by_one
from shoal.transport.wire import Malformed, decode, encode

from .rows_in_memory import normal, rows_of

RULES = Rules(ban_rounds=20)
HONEST = Evidence(int(0.8 * COSINE), LENGTH, COSINE // 2, 0, OVERLAP // 2)
AGAINST = Evidence(-COSINE // 2, LENGTH, COSINE // 4, 0, OVERLAP // 2)
ZERO = Evidence(repeated=OVERLAP, is_voters=True)
Round = Sequence[tuple[int, Evidence]]  # member's number and what it showed


def name(number: int) -> str:
    return f"{number:040}"


def taken(shown: Round, voters: int = 100) -> list[Taken]:
    """Members below `voters` have votes."""
    return [Taken(name(number), number < voters, evidence) for number, evidence in shown]


def folded(rounds: int, shown: Callable[[int], Round], start: Reputation = Reputation(), first: int = 1) -> Reputation:  # noqa: B008
    """After `rounds` rounds from the first on."""
    reputation = start
    for round in range(first, first + rounds):
        reputation = reputation.after(round, taken(shown(round)), (), RULES)
    return reputation


def with_one(number: int, evidence: Evidence, members: int = 5) -> Round:
    """All are honest but one."""
    return [(each, evidence if each == number else HONEST) for each in range(members)]


def trusts(reputation: Reputation, round: int, members: int = 5) -> list[int]:
    return [reputation.trust(name(number), round) for number in range(members)]


def test_trust_grows_to_all_there_is_in_32_contributions() -> None:
    assert trusts(folded(0, lambda _: []), 1) == [TRUST_START] * 5
    assert trusts(folded(1, lambda _: with_one(0, HONEST)), 2) == [TRUST_START + GROWTH] * 5
    assert trusts(folded(31, lambda _: with_one(0, HONEST)), 32) == [TRUST_START + 31 * GROWTH] * 5
    assert trusts(folded(40, lambda _: with_one(0, HONEST)), 41) == [TRUST_MAX] * 5


def test_who_misses_rounds_gains_nothing_and_loses_nothing() -> None:
    there = folded(10, lambda _: with_one(0, HONEST))
    away = folded(30, lambda _: with_one(0, HONEST)[1:], there, 11)
    assert away.trust(name(0), 41) == TRUST_START + 10 * GROWTH
    assert away.standing(name(0)).last_round == 10


def test_an_attacker_is_banned_after_four_rounds_and_comes_back_with_little_trust_that_grows_half_as_fast() -> None:
    full = folded(40, lambda _: with_one(0, HONEST))
    assert [folded(n, lambda _: with_one(0, AGAINST), full, 41).trust(name(0), 41 + n) for n in range(5)] == [
        TRUST_MAX,
        TRUST_MAX // 8,
        TRUST_MAX // 64,
        TRUST_MAX // 512,
        0,
    ]
    banned = folded(24, lambda _: with_one(0, AGAINST), full, 41)
    assert banned.trust(name(0), 64) == 0
    assert banned.trust(name(0), 65) == TRUST_MAX // 16
    assert banned.standing(name(0)).bans == 1
    back = folded(2, lambda _: with_one(0, HONEST), banned, 65)
    assert back.trust(name(0), 67) == TRUST_MAX // 16 + 2 * (GROWTH // 2)


def test_one_contribution_at_odds_costs_an_eighth_for_the_moment_and_half_for_a_while() -> None:
    full = folded(40, lambda _: with_one(0, HONEST))
    once = folded(1, lambda _: with_one(0, AGAINST), full, 41)
    after = [folded(n, lambda _: with_one(0, HONEST), once, 42).trust(name(0), 42 + n) for n in range(3)]
    assert after == [TRUST_MAX // 8, (TRUST_MAX // 2 + GROWTH) // 2, TRUST_MAX // 2 + 2 * GROWTH]
    assert folded(19, lambda _: with_one(0, HONEST), once, 42).trust(name(0), 61) == TRUST_MAX


def test_one_that_is_at_odds_in_every_third_round_is_not_banned_and_weighs_little() -> None:
    reputation = folded(90, lambda round: with_one(0, HONEST if round % 3 else AGAINST))
    assert reputation.standing(name(0)).bans == 0
    assert reputation.trust(name(0), 91) < TRUST_MAX // 5
    assert folded(90, lambda round: with_one(0, HONEST if round % 2 else AGAINST)).standing(name(0)).bans > 0


def test_a_much_longer_row_is_held_against_its_member_and_a_shorter_one_is_not() -> None:
    long = Evidence(HONEST.similarity, 8 * LENGTH, 0, 0, 0)
    short = Evidence(HONEST.similarity, 1, 0, 0, 0)
    assert charged(Reputation(), taken([*with_one(0, long), (5, short)])) == {name(0): Charge.LONG}


@pytest.mark.parametrize("evidence", [ZERO, Evidence(HONEST.similarity, LENGTH, 0, 0, OVERLAP)], ids=["zero", "replay"])
def test_a_free_rider_ends_without_weight_but_is_not_banned(evidence: Evidence) -> None:
    reputation = folded(50, lambda _: with_one(0, evidence))
    assert reputation.trust(name(0), 51) == TRUST_MIN
    assert reputation.standing(name(0)).bans == 0
    assert trusts(reputation, 51)[1:] == [TRUST_MAX] * 4


def test_what_had_no_weight_is_neither_good_nor_bad() -> None:
    reputation = folded(50, lambda _: with_one(0, NOTHING))
    assert reputation.trust(name(0), 51) == TRUST_START


def test_members_that_differ_are_compared_with_what_is_usual() -> None:
    apart = [0.7, 0.5, 0.3, 0.2, 0.0, -0.1, 0.6, 0.4]
    assert least_similarity([int(each * COSINE) for each in apart]) < -0.1 * COSINE
    alike = [0.85, 0.8, 0.9, 0.8, 0.85, 0.2, 0.9, 0.8]
    assert 0.2 * COSINE < least_similarity([int(each * COSINE) for each in alike]) < 0.8 * COSINE


def test_with_two_voters_nothing_is_held_against_anybody() -> None:
    for shown in ([(0, AGAINST)], [(0, HONEST), (1, AGAINST)], [(0, ZERO), (1, HONEST)]):
        assert charged(Reputation(), taken(shown)) == {}
    assert charged(Reputation(), taken([(0, HONEST), (1, AGAINST), (2, HONEST)])) == {name(1): Charge.AWAY}


def test_members_without_votes_do_not_decide_what_is_usual() -> None:
    shown = taken([(0, HONEST), (1, HONEST), (2, HONEST), *((number, AGAINST) for number in range(3, 20))], voters=3)
    assert set(charged(Reputation(), shown)) == {name(number) for number in range(3, 20)}


def test_keys_without_votes_that_copy_a_voter_with_one_that_has_some_take_no_more_from_it_than_that_one() -> None:
    def shown(strangers: int) -> Round:
        pair = [(0, copy_of(1)), (1, copy_of(0))]
        return [
            *pair,
            *((each, HONEST) for each in range(2, 6)),
            *((100 + each, copy_of(0)) for each in range(strangers)),
        ]

    alone, crowd = folded(10, lambda _: shown(0)), folded(10, lambda _: shown(50))
    assert trusts(alone, 11, 6) == trusts(crowd, 11, 6)
    assert crowd.standing(name(100)).alike == 52


def test_who_proposes_cannot_have_two_attackers_and_one_honest_member_be_compared_alone() -> None:
    start = folded(40, lambda _: with_one(0, HONEST, 10))
    few = taken([(0, AGAINST), (1, HONEST), (2, HONEST)])
    assert charged(start, few, 3) == {name(0): Charge.AWAY}
    assert charged(start, few, 10) == {}
    everybody = {name(number) for number in range(10)}
    assert start.lately(everybody) == 10
    assert start.after(41, few, (), RULES, everybody).trust(name(0), 42) == TRUST_MAX


def copy_of(number: int) -> Evidence:
    return structs.replace(HONEST, nearest=COSINE, beside=number)


def test_who_copies_now_this_one_and_now_that_loses_its_weight_and_those_that_are_copied_keep_theirs() -> None:
    def copied(round: int) -> Round:
        victim = 1 + round % 4
        both = {0: victim, victim: 0}
        return [
            (each, Evidence(HONEST.similarity, LENGTH, COSINE, both[each], 0) if each in both else HONEST)
            for each in range(5)
        ]

    reputation = folded(50, copied)
    assert reputation.trust(name(0), 51) <= TRUST_MIN
    assert trusts(reputation, 51)[1:] == [TRUST_MAX] * 4
    assert reputation.standing(name(0)).bans == 0


def equal_sets(sets: Sequence[Sequence[int]], members: int) -> Round:
    """Each of these sets sends one row: all name the next of their set, so that every name is said."""
    beside = {each: some[(place + 1) % len(some)] for some in sets for place, each in enumerate(some)}
    return [(each, copy_of(beside[each]) if each in beside else HONEST) for each in range(members)]


COLLUDERS = range(6, 10)  # of ten voters
VICTIM = 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(COLLUDERS), unique=True), min_size=1, max_size=30), st.randoms())
def test_whoever_fewer_than_half_of_the_voters_copy_is_never_the_copier(
    rounds: list[list[int]], random: Random
) -> None:
    """In whatever pattern, and whichever of equal rows is named as the nearest."""
    reputation = Reputation()
    for round in range(40):
        equal = [VICTIM, *rounds[round % len(rounds)]]
        random.shuffle(equal)
        shown = taken(equal_sets([equal] if len(equal) > 1 else [], 10))
        assert name(VICTIM) not in charged(reputation, shown, 10)
        reputation = reputation.after(round + 1, shown, (), RULES)
    assert reputation.standing(name(VICTIM)).trust == TRUST_MAX


def test_two_that_take_turns_to_copy_one_member_take_half_of_its_weight_and_have_no_more_themselves() -> None:
    def copied(round: int) -> Round:
        return equal_sets([(VICTIM, COLLUDERS[round % 2])], 10)

    for rounds in (50, 51):
        found = trusts(folded(rounds, copied), rounds + 1, 10)
        assert found[VICTIM] == TRUST_MAX // 2
        assert found[COLLUDERS[0]] + found[COLLUDERS[1]] == TRUST_MAX // 2 + TRUST_MAX


@pytest.mark.parametrize("seed", range(5))
def test_who_copies_another_member_at_random_in_each_round_is_charged_within_fifteen(seed: int) -> None:
    random = Random(seed)
    reputation = Reputation()
    for round in range(1, 31):
        shown = taken(equal_sets([(9, random.randrange(9))], 10))
        found = charged(reputation, shown, 10)
        assert set(found) <= {name(9)}
        assert found == {name(9): Charge.COPIED} or round < 15
        reputation = reputation.after(round, shown, (), RULES)
    assert reputation.trust(name(9), 31) <= TRUST_MIN
    assert trusts(reputation, 31, 9) == [min(TRUST_START + 30 * GROWTH, TRUST_MAX)] * 9  # whom it copied last, too


def test_partners_are_those_that_were_compared_and_not_what_lies_between_them() -> None:
    """Attackers 1 and 2 lie between 0 and 3, which are honest: 0 is equal to 1, that to 2, and that to 3."""
    chain = [(0, copy_of(1)), (1, copy_of(2)), (2, copy_of(3)), (3, copy_of(2)), (4, HONEST)]
    reputation = folded(10, lambda _: chain)
    assert charged(reputation, taken(chain), 5).keys() <= {name(1), name(2)}


def test_where_most_rows_agree_as_copies_do_nobody_is_a_copier() -> None:
    """Of rows that nearly coincide each is nearest to another one in each round."""

    def close(round: int) -> Round:
        evidence = Evidence(COSINE - COSINE // 100, LENGTH, COSINE, 0, 0)
        return [(each, structs.replace(evidence, beside=(each + 1 + round % 4) % 5)) for each in range(5)]

    reputation = folded(30, close)
    assert all(reputation.standing(name(number)).trust > TRUST_START + 29 * GROWTH for number in range(5))


def test_copies_are_forgotten_after_some_contributions_without() -> None:
    reputation = folded(2, lambda round: equal_sets([(0, round)], 10))
    for contributions in range(16):
        assert (reputation.standing(name(0)).copies is None) == (contributions == 16)
        reputation = folded(1, lambda _: with_one(0, HONEST, 10), reputation, 3 + contributions)
    assert reputation == folded(18, lambda _: with_one(0, HONEST, 10))


def test_what_a_member_was_equal_to_takes_one_form() -> None:
    known = folded(1, lambda _: equal_sets([(0, 1)], 10)).standing(name(0)).copies
    assert known is not None
    for partners in (b"", known.partners[:-1], known.partners + bytes(1)):
        encoded = encode(structs.replace(known, partners=partners))
        assert isinstance(decode(encoded, Copies, len(encoded)), Malformed)


def test_members_that_are_always_equal_count_as_one_together() -> None:
    def equal(round: int) -> Round:
        beside = {0: 1, 1: 0, 2: 0}
        return [
            (each, Evidence(HONEST.similarity, LENGTH, COSINE, beside[each], 0) if each in beside else HONEST)
            for each in range(6)
        ]

    reputation = folded(50, equal)
    assert trusts(reputation, 51, 6) == [TRUST_MAX // 3] * 3 + [TRUST_MAX] * 3


def test_a_verdict_on_work_bans_at_once_and_one_on_judgement_after_four() -> None:
    start = folded(40, lambda _: with_one(0, HONEST))
    found = start.after(41, (), [Verdict(name(0), Fault.WORK), Verdict(name(1), Fault.JUDGEMENT)], RULES)
    assert trusts(found, 42) == [0, TRUST_MAX // 8, *[TRUST_MAX] * 3]
    for round in range(42, 45):
        shown = taken(with_one(0, HONEST))
        found = found.after(round, shown, [Verdict(name(1), Fault.JUDGEMENT), Verdict(name(2), Fault.WITHHELD)], RULES)
    assert found.trust(name(1), 45) == 0
    assert found.trust(name(2), 45) == TRUST_MAX // 512
    assert found.trust(name(3), 45) == TRUST_MAX
    assert found.trust(name(1), 44 + RULES.ban_rounds + 1) > 0


def test_a_ban_that_more_verdicts_prolong_is_one() -> None:
    start = folded(40, lambda _: with_one(0, HONEST))
    found = start.after(41, (), [Verdict(name(0), Fault.WORK)] * 2, RULES)
    found = found.after(45, (), [Verdict(name(0), Fault.WORK)], RULES)
    standing = found.standing(name(0))
    assert (standing.bans, standing.banned_until, standing.trust) == (1, 45 + RULES.ban_rounds, TRUST_START)
    again = found.after(standing.banned_until + 1, (), [Verdict(name(0), Fault.WORK)], RULES)
    assert again.standing(name(0)).bans == 2


def test_keys_that_cost_nothing_push_nobody_out_who_is_known_for_anything() -> None:
    known = folded(16, lambda round: with_one(0, AGAINST if round > 12 else HONEST))
    for round in range(17, 22):
        crowd = range(1000 * round, 1000 * round + 1000)
        known = known.after(round, taken([(number, HONEST) for number in crowd], voters=0), (), RULES)
    assert len(known.standings) == STANDINGS_MAX
    assert trusts(known, 22) == [0, *[TRUST_START + 16 * GROWTH] * 4]


def test_a_crowd_that_is_known_for_something_does_not_push_out_a_voter_that_is_banned_or_away() -> None:
    voters = {name(number) for number in range(5)}
    known = folded(4, lambda _: with_one(0, AGAINST))
    for round in range(5, 25):
        crowd = taken([(1000 * (1 + round // 7) + number, HONEST) for number in range(1000)], voters=0)
        known = known.after(round, crowd, (), Rules(ban_rounds=50), voters)
    assert len(known.standings) == STANDINGS_MAX
    assert trusts(known, 24) == [0, *[TRUST_START + 4 * GROWTH] * 4]


def test_the_largest_table_is_some_tens_of_bytes_a_member() -> None:
    largest = folded(1, lambda _: [(number, HONEST) for number in range(STANDINGS_MAX)])
    assert len(encode(largest)) < 80 * STANDINGS_MAX
    copies = Copies(b"\xff" * 32, STANDINGS_MAX, 15)
    largest = Reputation(tuple(structs.replace(standing, copies=copies) for standing in largest.standings))
    assert len(encode(largest)) < 120 * STANDINGS_MAX


evidences = st.builds(
    Evidence,
    st.integers(-COSINE, COSINE),
    st.integers(0, LENGTH_MAX),
    st.integers(-COSINE, COSINE) | st.just(COSINE),
    st.just(0),
    st.integers(0, OVERLAP) | st.just(OVERLAP),
)
rounds_of = st.lists(st.dictionaries(st.integers(0, 7), evidences | st.just(NOTHING)), max_size=12)
verdicts_of = st.lists(st.builds(Verdict, st.integers(0, 7).map(name), st.sampled_from(Fault)), max_size=2)


@settings(max_examples=100, deadline=None)
@given(rounds_of, st.data())
def test_whatever_is_shown_trust_stays_in_bounds_and_the_table_sorted(
    rounds: list[dict[int, Evidence]], data: st.DataObject
) -> None:
    reputation = Reputation()
    for round, shown in enumerate(rounds, 1):
        verdicts = data.draw(verdicts_of)
        places = [
            (number, evidence if evidence == NOTHING else structs.replace(evidence, beside=round % len(shown)))
            for number, evidence in sorted(shown.items())
        ]
        reputation = reputation.after(round, taken(places), verdicts, RULES)
        members = [standing.member for standing in reputation.standings]
        assert members == sorted(set(members))
        for standing in reputation.standings:
            trust = reputation.trust(standing.member, round + 1)
            assert trust == 0 if round < standing.banned_until else 0 < trust <= TRUST_MAX
    encoded = encode(reputation)
    assert decode(encoded, Reputation, len(encoded)) == reputation


ATTACKS: Mapping[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "opposite": lambda honest, seed: -honest,
    "long opposite": lambda honest, seed: -1e4 * honest,
    "noise": lambda honest, seed: 100 * normal(seed, *honest.shape),
    "same noise": lambda honest, seed: normal(1, *honest.shape),
    "nothing": lambda honest, seed: 0 * honest,
    "copy": lambda honest, seed: honest,
    "a little": lambda honest, seed: honest + 0.3 * normal(1, *honest.shape),
}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 5), st.floats(0, 1), st.data())
def test_a_majority_of_honest_members_that_agree_is_never_charged_with_an_attack(
    seed: int, majority: int, noise: float, data: st.DataObject
) -> None:
    """Whatever the others contribute, who name themselves so that they come first or last."""
    size, attackers = 300, data.draw(st.integers(1, majority - 1))
    reputation, testimony = Reputation(), Testimony()
    for round in range(1, 8):
        common = normal(seed + round, size)
        honest = [common + np.float32(noise / 4) * normal(seed + 100 * round + n, size) for n in range(majority)]
        forged = [ATTACKS[data.draw(st.sampled_from(sorted(ATTACKS)))](honest[0], seed + n) for n in range(attackers)]
        rows = rows_of([*honest, *forged])
        median = CoordinateMedian([Weighted(row, 1) for row in rows])
        testimony = found_of([Given(row, True) for row in rows], median, median, testimony, size, one_by_one)
        shown = taken(list(enumerate(testimony.evidence)))
        against = charged(reputation, shown)
        assert not any(against[name(n)].is_attack for n in range(majority) if name(n) in against)
        reputation = reputation.after(round, shown, (), RULES)
