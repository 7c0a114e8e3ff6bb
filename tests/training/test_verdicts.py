"""Cases: what opens one, whose words close it, and what follows for whom."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.training.members import RIGHT, WITHHELD, Electorate, Opine, electorate_of
from shoal.training.reputation import Fault
from shoal.training.spec import Quorum
from shoal.training.verdicts import (
    CASE_ROUNDS,
    CASES_MAX,
    CASES_OF_JUDGE_MAX,
    Case,
    Verdict,
    after,
    is_wanted,
    may_come,
    settled,
)
from shoal.transport.port import PeerId

PEERS = [PeerId(f"peer {number}".ljust(40, ".")) for number in range(7)]
LIAR, *JUDGES = PEERS


def voters(quorum: Quorum = Quorum.TWO_THIRDS) -> Electorate:
    return electorate_of(quorum, dict.fromkeys(PEERS, 1))


def word(judge: PeerId, came_out: int = 0, member: PeerId = LIAR, round: int = 9) -> Opine:
    return Opine(member, judge, round, round - 1, came_out, bytes(64))


def said(*words: Opine, cases: tuple[Case, ...] = (), round: int = 10) -> tuple[Case, ...]:
    found = after(cases, round, words)
    assert found is not None
    return found


@pytest.mark.parametrize(("quorum", "enough"), [(Quorum.MAJORITY, 4), (Quorum.TWO_THIRDS, 5)])
def test_a_quorum_that_doubts_is_a_verdict_and_one_voice_fewer_is_none(quorum: Quorum, enough: int) -> None:
    words = [word(judge) for judge in JUDGES[:enough]]
    few = said(*words[:-1])
    assert settled(few, voters(quorum)) == (few, ())
    (case,), verdicts = settled(said(*words), voters(quorum))
    assert case.is_closed
    assert case.opinions == ()
    assert [(each.member, each.fault) for each in verdicts] == [(LIAR, Fault.WORK)]


def test_who_says_that_all_is_well_where_a_quorum_finds_otherwise_has_a_verdict_against_it() -> None:
    friend, *others = JUDGES
    _, verdicts = settled(said(*(word(judge) for judge in others), word(friend, RIGHT)), voters())
    assert [(each.member, each.fault) for each in verdicts] == [(LIAR, Fault.WORK), (friend, Fault.JUDGEMENT)]


@pytest.mark.parametrize(
    ("withheld", "fault"), [(0, Fault.WORK), (1, Fault.WORK), (2, Fault.WITHHELD), (4, Fault.WITHHELD)]
)
def test_who_gives_nothing_to_half_of_those_who_doubt_has_withheld_it(withheld: int, fault: Fault) -> None:
    words = [word(judge, WITHHELD if number < withheld else 0) for number, judge in enumerate(JUDGES[:4])]
    _, verdicts = settled(said(*words), voters(Quorum.MAJORITY))
    assert [(each.member, each.fault) for each in verdicts] == [(LIAR, fault)]


def test_who_says_in_vain_that_something_is_withheld_has_a_verdict_against_it() -> None:
    slanderer, *others = JUDGES
    words = [word(slanderer, WITHHELD), *(word(judge, RIGHT) for judge in others)]
    _, verdicts = settled(said(*words), voters())
    assert [(each.member, each.fault) for each in verdicts] == [(slanderer, Fault.JUDGEMENT)]


def test_who_accuses_an_honest_member_has_a_verdict_against_it_once_a_quorum_says_so() -> None:
    slanderer, *others = JUDGES
    opened = said(word(slanderer))
    assert settled(opened, voters())[1] == ()
    (case,), verdicts = settled(said(*(word(judge, RIGHT) for judge in others), cases=opened, round=11), voters())
    assert [(each.member, each.fault) for each in verdicts] == [(slanderer, Fault.JUDGEMENT)]
    assert case.is_closed


def test_nobody_speaks_of_what_nobody_doubts() -> None:
    assert after((), 10, [word(JUDGES[0], RIGHT)]) is None
    assert may_come((), word(JUDGES[0], RIGHT), 10)  # it may be kept until somebody does


def test_who_has_spoken_does_not_speak_again() -> None:
    opened = said(word(JUDGES[0]))
    assert after(opened, 11, [word(JUDGES[0], RIGHT)]) is None
    assert not may_come(opened, word(JUDGES[0], RIGHT), 11)


def test_a_closed_case_is_not_opened_again_as_long_as_it_may_be_spoken_of() -> None:
    closed, _ = settled(said(*(word(judge) for judge in JUDGES)), voters())
    late = word(JUDGES[0])
    for round in range(11, 30):
        assert after(closed, round, [late]) is None
        kept = after(closed, round, ())
        assert kept is not None
        assert bool(kept) == (round < 10 + CASE_ROUNDS)
        assert is_wanted(kept, late, round) is False


def test_a_case_that_no_quorum_closes_ends_by_itself() -> None:
    opened = said(word(JUDGES[0]))
    assert after(opened, 10 + CASE_ROUNDS - 1, ()) == opened
    assert after(opened, 10 + CASE_ROUNDS, ()) == ()


@pytest.mark.parametrize("round", [8, 10 + CASE_ROUNDS])
def test_words_of_rounds_to_come_or_long_ago_are_not_wanted(round: int) -> None:
    assert after((), round, [word(JUDGES[0])]) is None


def test_a_liar_does_not_fill_all_room_for_cases() -> None:
    cases: tuple[Case, ...] = ()
    for round in range(1, 10):
        found = after(cases, 10, [word(JUDGES[0], round=round)])
        assert (found is not None) == (round <= CASES_OF_JUDGE_MAX)
        cases = cases if found is None else found
    for judge in JUDGES[1:]:
        assert after(cases, 10, [word(judge, round=9)]) is not None
    assert CASES_OF_JUDGE_MAX * 10 <= CASES_MAX


def other_side(verdict: Verdict) -> set[PeerId]:
    """Who has spoken against the one who was judged, or against what it said."""
    is_judge = verdict.fault is Fault.JUDGEMENT
    own = next((each for each in verdict.case.opinions if is_judge and each.judge == verdict.member), None)
    is_doubted = own is None or own.came_out == RIGHT
    said = {PeerId(each.judge) for each in verdict.case.opinions if (each.came_out < RIGHT) == is_doubted}
    return said if is_doubted else {*said, PeerId(verdict.case.member)}


words = st.builds(
    word, st.sampled_from(JUDGES), st.integers(0, RIGHT), st.sampled_from(PEERS), st.integers(1, 12)
).filter(lambda each: each.judge != each.member)


@given(st.sampled_from(Quorum), st.lists(st.lists(words, max_size=12), max_size=6))
def test_no_verdict_comes_without_a_quorum_and_nobody_is_judged_twice_for_one_thing(
    quorum: Quorum, rounds: list[list[Opine]]
) -> None:
    cases: tuple[Case, ...] = ()
    seen: set[tuple[PeerId, tuple[str, int, int], Fault]] = set()
    for round, spoken in enumerate(rounds, 12):
        for each in spoken:
            cases = after(cases, round, [each]) or cases
        cases, verdicts = settled(after(cases, round, ()) or (), voters(quorum))
        for verdict in verdicts:
            assert voters(quorum).is_quorum(other_side(verdict))
            key = verdict.member, verdict.case.place, verdict.fault
            assert key not in seen
            seen.add(key)
