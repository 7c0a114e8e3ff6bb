"""One round's voting, rule by rule; the laws are tested by simulation (tests/sim/test_agreement.py)."""

import itertools
import math

import pytest
from msgspec.structs import replace

from shoal.training.ballot_box import FIRST_KEPT, NEWEST_KEPT
from shoal.training.heard import PROPOSALS_KEPT
from shoal.training.members import electorate_of
from shoal.training.spec import Quorum
from shoal.training.votes import (
    Ballot,
    Decided,
    Journal,
    Polka,
    Proposal,
    Step,
    Value,
    Vote,
    cast,
    fault,
    propose,
    signatures_of,
    value_of,
)
from shoal.training.voting import Voting
from shoal.training.voting_effects import Accuse, Began, Effect, Judge, Save, Send, Timeouts
from shoal.transport.identity import Identity

SWARM = b"s" * 32
KEYS = sorted((Identity.from_seed(bytes([number]) * 32) for number in range(1, 5)), key=lambda key: key.peer_id)
TIMEOUTS = Timeouts(2.0, 1.0, 1.0)
ELECTORATE = electorate_of(Quorum.TWO_THIRDS, {key.peer_id: 1 for key in KEYS})
ROUND = 4
ONE, OTHER = value_of(b"one"), value_of(b"other")


def voting(number: int, journal: Journal | None = None) -> Voting:
    return Voting(SWARM, ROUND, ELECTORATE, KEYS[number], TIMEOUTS, lambda value: value.data != b"unsound", journal)


def proposer_of(attempt: int) -> int:
    peer = ELECTORATE.proposer(ROUND, attempt)
    return next(number for number, key in enumerate(KEYS) if key.peer_id == peer)


def other_than(*numbers: int) -> int:
    return next(number for number in range(4) if number not in numbers)


def sent(effects: list[Effect]) -> list[Ballot]:
    return [effect.ballot for effect in effects if isinstance(effect, Send)]


def proposal(attempt: int = 0, value: Value = ONE, polka: Polka | None = None) -> Proposal:
    return propose(KEYS[proposer_of(attempt)], SWARM, ROUND, attempt, value, polka)


def vote(number: int, step: Step, choice: bytes, attempt: int = 0) -> Vote:
    return cast(KEYS[number], SWARM, ROUND, attempt, step, choice)


def polka(attempt: int, value: Value = ONE) -> Polka:
    votes = [vote(number, Step.PREVOTE, value.hash, attempt) for number in range(3)]
    return Polka(attempt, value.data, signatures_of(votes))


def polka_of(*numbers: int, attempt: int = 0) -> Polka:
    return Polka(attempt, ONE.data, signatures_of(vote(number, Step.PREVOTE, ONE.hash, attempt) for number in numbers))


def listener(*others: int) -> int:
    """Whose turn it is in neither of the first two attempts."""
    return other_than(proposer_of(0), proposer_of(1), *others)


def test_four_members_decide_in_one_attempt() -> None:
    members = [voting(number) for number in range(4)]
    waiting = [ballot for member in members for ballot in sent(member.ready(0.0, ONE))]
    decided: list[Decided] = []
    while waiting:
        ballot = waiting.pop(0)
        assert fault(ballot, SWARM, ELECTORATE.by_member) is None
        for member in members:
            effects = member.heard(0.0, ballot)
            waiting += sent(effects)
            decided += [effect for effect in effects if isinstance(effect, Decided)]
    assert len(decided) == 4
    assert {each.value for each in decided} == {ONE.data}
    assert all(fault(each, SWARM, ELECTORATE.by_member) is None for each in decided)
    assert all(member.deadline == math.inf for member in members)


def test_what_is_signed_is_saved_before_it_is_sent() -> None:
    me = voting(proposer_of(0))
    effects = me.ready(0.0, ONE)
    kinds = [type(effect) for effect in effects if isinstance(effect, Save | Send)]
    assert kinds == [Save, Send, Save, Send]
    saves = [effect.journal for effect in effects if isinstance(effect, Save)]
    assert [ballot for ballot in sent(effects) if isinstance(ballot, Proposal)] == [saves[0].proposal]
    assert [ballot for ballot in sent(effects) if isinstance(ballot, Vote)] == list(saves[1].votes)


def test_who_is_started_again_says_the_same_again_and_nothing_else() -> None:
    number = proposer_of(0)
    effects = voting(number).ready(0.0, ONE)
    journal = next(effect.journal for effect in reversed(effects) if isinstance(effect, Save))
    again = voting(number, journal)
    said = sent(again.look(0.0))
    assert said == sent(effects)
    assert sent(again.ready(0.1, OTHER)) == []
    assert sent(again.heard(0.2, proposal(0, OTHER))) == []


def test_a_journal_of_another_round_binds_nobody() -> None:
    journal = Journal(ROUND - 1, 3, None, (), polka(2))
    assert voting(0, journal).attempt == 0


def test_who_is_bound_prevotes_nothing_else_and_shows_why() -> None:
    number = other_than(proposer_of(1))
    me = voting(number, Journal(ROUND, 0, None, (), polka(0)))
    me.judged(0.0, ONE.hash, True)
    me.look(0.0)
    for each in range(4):
        me.heard(0.0, vote(each, Step.PRECOMMIT, b"")) if each != number else None
    assert me.attempt == 1
    me.heard(0.0, proposal(1, OTHER))
    (prevote,) = [ballot for ballot in sent(me.judged(0.0, OTHER.hash, True)) if isinstance(ballot, Vote)]
    assert (prevote.step, prevote.choice, prevote.bound_by) == (Step.PREVOTE, b"", polka(0))


def test_who_is_bound_is_freed_by_later_prevotes() -> None:
    number = other_than(proposer_of(2))
    me = voting(number, Journal(ROUND, 2, None, (), polka(0)))
    me.heard(0.0, proposal(2, OTHER, polka(1, OTHER)))
    (prevote,) = [each for each in sent(me.judged(0.0, OTHER.hash, True)) if isinstance(each, Vote)]
    assert prevote.choice == OTHER.hash


def test_a_proposer_names_what_a_quorum_has_prevoted_before() -> None:
    number = proposer_of(1)
    me = voting(number)
    me.ready(0.0, OTHER)
    me.heard(0.0, replace(vote(other_than(number), Step.PRECOMMIT, b""), bound_by=polka(0)))
    effects: list[Effect] = []
    for each in range(4):
        if each != number:
            effects += me.heard(0.0, vote(each, Step.PRECOMMIT, b""))
    (named,) = [ballot for ballot in sent(effects) if isinstance(ballot, Proposal)]
    assert (named.value, named.polka_attempt) == (ONE.data, 0)
    assert fault(named, SWARM, ELECTORATE.by_member) is None


def test_of_what_quorums_have_prevoted_the_newest_is_proposed_whichever_was_shown_last() -> None:
    turn = next(attempt for attempt in range(4, 20) if proposer_of(attempt) != proposer_of(0))
    others = [number for number in range(4) if number != proposer_of(turn)]
    shown = [
        replace(vote(others[0], Step.PREVOTE, b"", attempt), bound_by=polka(attempt - 1, value))
        for attempt, value in ((3, OTHER), (2, ONE))
    ]
    for ballots in (shown, shown[::-1]):
        me = voting(proposer_of(turn))
        effects: list[Effect] = []
        for ballot in (*ballots, *(vote(number, Step.PREVOTE, b"", turn) for number in others)):
            effects += me.heard(0.0, ballot)
        (named,) = [ballot for ballot in sent(effects) if isinstance(ballot, Proposal)]
        assert (named.value, named.polka_attempt) == (OTHER.data, 2)


def test_what_a_quorum_turns_out_to_back_is_judged_anew() -> None:
    me = voting(other_than(proposer_of(0), proposer_of(1)))
    assert me.heard(0.0, proposal()) == [Judge(ONE, is_backed=False)]
    assert Judge(ONE, is_backed=True) in me.heard(0.0, proposal(1, ONE, polka(0)))


def test_who_found_it_unsound_judges_what_a_quorum_backs_anew_and_votes_for_it_then() -> None:
    me = voting(other_than(proposer_of(0), proposer_of(1)))
    me.heard(0.0, proposal())
    (prevote,) = [ballot for ballot in sent(me.judged(0.0, ONE.hash, False)) if isinstance(ballot, Vote)]
    assert prevote.choice == b""
    assert Judge(ONE, is_backed=True) in me.heard(1.0, proposal(1, ONE, polka(0)))
    me.heard(1.0, vote(proposer_of(1), Step.PREVOTE, ONE.hash, 1))
    me.heard(1.0, vote(other_than(proposer_of(1)), Step.PREVOTE, ONE.hash, 1))
    votes = [ballot for ballot in sent(me.judged(1.0, ONE.hash, True)) if isinstance(ballot, Vote)]
    assert {vote.choice for vote in votes} == {ONE.hash}
    assert not [each for each in me.heard(2.0, proposal(1, ONE, polka(0))) if isinstance(each, Judge)]


def test_without_a_proposal_the_patience_ends_and_the_next_one_has_more() -> None:
    me = voting(other_than(proposer_of(0)))
    assert me.deadline == math.inf  # nobody has to hurry yet
    me.ready(0.0, ONE)
    assert me.deadline == TIMEOUTS.propose_s
    (prevote,) = [ballot for ballot in sent(me.look(2.0)) if isinstance(ballot, Vote)]
    assert prevote.choice == b""
    assert TIMEOUTS.at(3).propose_s == 4 * TIMEOUTS.propose_s


def test_a_proposer_who_is_gone_is_not_waited_for() -> None:
    number = other_than(proposer_of(0))
    me = voting(number)
    me.ready(0.0, ONE)
    assert me.deadline == TIMEOUTS.propose_s
    me.hears = lambda peer: peer != KEYS[proposer_of(0)].peer_id
    (nothing,) = sent(me.look(0.5))
    assert isinstance(nothing, Vote)
    assert nothing.choice == b""


def test_what_a_proposer_has_said_before_it_is_gone_still_counts() -> None:
    me = voting(other_than(proposer_of(0)))
    me.ready(0.0, None)
    assert sent(me.heard(0.1, proposal())) == []  # not judged yet
    me.hears = lambda peer: peer != KEYS[proposer_of(0)].peer_id
    assert sent(me.look(0.2)) == []
    (prevote,) = sent(me.judged(0.3, ONE.hash, True))
    assert isinstance(prevote, Vote)
    assert prevote.choice == ONE.hash


def test_more_than_a_third_are_followed_and_fewer_are_not() -> None:
    me = voting(0)
    me.heard(0.0, vote(1, Step.PREVOTE, b"", 7))
    assert me.attempt == 0
    assert any(isinstance(effect, Began) for effect in me.heard(0.0, vote(2, Step.PREVOTE, b"", 9)))
    assert me.attempt == 7


def test_two_proposals_and_two_votes_in_one_step_are_told() -> None:
    me = voting(other_than(proposer_of(0)))
    me.heard(0.0, proposal())
    assert Accuse(proposal(), proposal(0, OTHER)) in me.heard(0.0, proposal(0, OTHER))
    me.heard(0.0, vote(1, Step.PREVOTE, ONE.hash))
    effects = me.heard(0.0, vote(1, Step.PREVOTE, b""))
    assert Accuse(vote(1, Step.PREVOTE, ONE.hash), vote(1, Step.PREVOTE, b"")) in effects


def shown(number: int) -> list[Ballot]:
    """What others may show of an attempt 0 in which they heard this member's votes for ONE."""
    others = [other for other in range(4) if other != listener(number)]
    locked = polka_of(*others)
    speaker = next(other for other in others if other != number)
    for_nothing = replace(vote(speaker, Step.PRECOMMIT, b"", 1), bound_by=locked)
    precommits = signatures_of(vote(other, Step.PRECOMMIT, ONE.hash) for other in others)
    return [for_nothing, proposal(1, ONE, locked), Decided(ROUND, 0, ONE.data, precommits)]


@pytest.mark.parametrize("which", range(3))
def test_who_told_this_member_something_else_than_the_others_is_found_out_by_what_they_show(which: int) -> None:
    liar = proposer_of(0)
    me = voting(listener(liar))
    ballot = shown(liar)[which]
    step = Step.PRECOMMIT if isinstance(ballot, Decided) else Step.PREVOTE
    heard = vote(liar, step, b"")
    me.heard(0.0, heard)
    for attempt in range(20, 20 + 2 * NEWEST_KEPT):
        me.heard(0.0, vote(liar, Step.PREVOTE, b"", attempt))  # nor do far attempts make it forget
    accusations = [effect for effect in me.heard(0.0, ballot) if isinstance(effect, Accuse)]
    assert accusations == [Accuse(heard, vote(liar, step, ONE.hash))]


def test_who_proposes_again_in_a_later_attempt_may_name_something_else() -> None:
    first = proposer_of(0)
    again = next(attempt for attempt in range(1, 20) if proposer_of(attempt) == first)
    me = voting(first)
    assert [ballot.value for ballot in sent(me.ready(0.0, ONE, OTHER)) if isinstance(ballot, Proposal)] == [ONE.data]
    others = [number for number in range(4) if number != first][:2]
    later = [each for number in others for each in sent(me.heard(0.0, vote(number, Step.PREVOTE, b"", again)))]
    assert [ballot.value for ballot in later if isinstance(ballot, Proposal)] == [OTHER.data]


def test_nobody_proposes_out_of_turn() -> None:
    me = voting(other_than(proposer_of(0)))
    wrong = propose(KEYS[other_than(proposer_of(0))], SWARM, ROUND, 0, ONE, None)
    assert me.heard(0.0, wrong) == []


def test_what_cannot_follow_is_never_decided() -> None:
    me, unsound = voting(0), value_of(b"unsound")
    me.heard(0.0, proposal(0, unsound))
    for number in range(1, 4):
        me.heard(0.0, vote(number, Step.PRECOMMIT, unsound.hash))
    precommits = signatures_of(vote(number, Step.PRECOMMIT, unsound.hash) for number in range(3))
    me.heard(0.0, Decided(ROUND, 0, unsound.data, precommits))
    assert me.decided is None
    with pytest.raises(ValueError, match="cannot follow"):
        me.ready(0.0, unsound)


def test_what_is_kept_of_a_liar_is_bounded() -> None:
    me = voting(0)
    last = 10 * NEWEST_KEPT
    for attempt in range(1, last + 1):
        me.heard(0.0, vote(1, Step.PREVOTE, b"", attempt))
        me.heard(0.0, proposal(attempt, value_of(b"%d" % attempt)))
    attempts = [each.attempt for each in me.votes.of(KEYS[1].peer_id, 0)]
    assert attempts == [*range(1, FIRST_KEPT + 1), *range(last - NEWEST_KEPT + 1, last + 1)]
    assert len(me._heard.proposals) <= PROPOSALS_KEPT  # pyright: ignore[reportPrivateUsage]
    assert len(me._heard.values) <= 2 * PROPOSALS_KEPT  # pyright: ignore[reportPrivateUsage]


def test_who_has_no_vote_follows_and_says_nothing() -> None:
    stranger = Identity.from_seed(b"9" * 32)
    me = Voting(SWARM, ROUND, ELECTORATE, stranger, TIMEOUTS, lambda _: True)
    effects = me.ready(0.0, ONE)
    effects += me.heard(0.0, proposal())
    for number in range(3):
        effects += me.heard(0.0, vote(number, Step.PRECOMMIT, ONE.hash))
    assert sent(effects) == []
    assert me.decided is not None


def test_silence_is_broken_ever_more_rarely() -> None:
    me = voting(proposer_of(0))
    me.ready(0.0, ONE)
    said_at = list[float]()
    now = 0.0
    while now < 100.0:
        now = me.deadline
        if sent(me.look(now)):
            said_at.append(now)
    gaps = [later - earlier for earlier, later in itertools.pairwise(said_at)]
    assert gaps[:4] == [2.0, 4.0, 8.0, 16.0]
    assert max(gaps) <= 32.0


@pytest.mark.parametrize(
    "ballot",
    [
        vote(0, Step.PREVOTE, b"x"),
        Vote(KEYS[0].peer_id, ROUND, 0, Step.PREVOTE, b"", bytes(64)),
        Vote(KEYS[0].peer_id, ROUND, 0, Step.PREVOTE, b"", vote(1, Step.PREVOTE, b"").signature),
        cast(Identity.from_seed(b"9" * 32), SWARM, ROUND, 0, Step.PREVOTE, b""),
        proposal(1, ONE, polka(1)),
        propose(KEYS[0], bytes(32), ROUND, 0, ONE, None),
        Decided(ROUND, 0, ONE.data, signatures_of([vote(0, Step.PRECOMMIT, ONE.hash)] * 2)),
        Decided(ROUND, 1, ONE.data, signatures_of([vote(0, Step.PRECOMMIT, ONE.hash)])),
        Decided(ROUND, 0, ONE.data, signatures_of([vote(0, Step.PREVOTE, ONE.hash)])),
    ],
)
def test_what_is_not_signed_for_its_place_is_at_fault(ballot: Ballot) -> None:
    assert fault(ballot, SWARM, ELECTORATE.by_member) is not None


def test_opinions_are_proposed_in_the_first_attempt_only() -> None:
    first, later = proposer_of(0), proposer_of(1)
    me = voting(first)
    assert [ballot.value for ballot in sent(me.ready(0.0, ONE, OTHER)) if isinstance(ballot, Proposal)] == [ONE.data]
    me = voting(later)
    said = sent(me.ready(0.0, ONE, OTHER))
    for each in range(4):
        said += sent(me.heard(0.0, vote(each, Step.PRECOMMIT, b""))) if each != later else []
    assert me.attempt == 1
    assert [ballot.value for ballot in said if isinstance(ballot, Proposal)] == [OTHER.data]


def test_who_has_gone_on_is_not_waited_for() -> None:
    """Two precommit, one goes on by a liar's vote and without its own: the two may not wait for that one's for ever."""
    ahead, *here = (number for number in range(3))
    me = voting(here[0])
    me.ready(0.0, None)
    me.look(2.0)
    for number in range(3):
        me.heard(2.0, vote(number, Step.PREVOTE, b""))
    me.heard(2.0, vote(here[1], Step.PRECOMMIT, b""))
    assert me.attempt == 0
    me.heard(2.0, vote(ahead, Step.PREVOTE, b"", attempt=1))
    me.look(3.1)
    assert me.attempt == 1
