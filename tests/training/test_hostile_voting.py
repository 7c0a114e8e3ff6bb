"""What a voter achieves by votes for far attempts, and what others achieve by telling a member its own votes."""

from cProfile import Profile

from msgspec.structs import replace

from shoal.training.ballot_box import FIRST_KEPT, NEWEST_KEPT
from shoal.training.members import electorate_of
from shoal.training.spec import Quorum
from shoal.training.votes import (
    ATTEMPTS_MAX,
    Journal,
    Polka,
    Proposal,
    Step,
    Vote,
    cast,
    propose,
    signatures_of,
    value_of,
)
from shoal.training.voting import Voting
from shoal.training.voting_effects import Judge, Send, Timeouts
from shoal.transport.identity import Identity
from tests.training.seated import PEOPLE

SWARM = b"s" * 32
ROUND = 4
KEYS = PEOPLE[:4]
VOTES = {key.peer_id: 1 for key in KEYS}
ONE = value_of(b"one")


def voting(number: int, quorum: Quorum = Quorum.TWO_THIRDS, journal: Journal | None = None) -> Voting:
    return Voting(SWARM, ROUND, electorate_of(quorum, VOTES), KEYS[number], Timeouts(), lambda value: True, journal)


def proposal(attempt: int = 0) -> Proposal:
    peer = electorate_of(Quorum.TWO_THIRDS, VOTES).proposer(ROUND, attempt)
    return propose(next(key for key in KEYS if key.peer_id == peer), SWARM, ROUND, attempt, ONE, None)


def vote(number: int, step: Step, choice: bytes, attempt: int = 0) -> Vote:
    return cast(KEYS[number], SWARM, ROUND, attempt, step, choice)


def listener() -> int:
    return next(number for number, key in enumerate(KEYS) if key.peer_id != proposal().proposer)


def test_what_was_refused_is_judged_anew_once_a_quorum_backs_it() -> None:
    """The first verdict may have been an opinion: who is bound by the quorum's and who is not would never meet."""
    number = listener()
    me = voting(number)
    me.heard(0.0, proposal())
    me.judged(0.0, ONE.hash, False)
    effects = [
        effect for each in range(4) if each != number for effect in me.heard(0.1, vote(each, Step.PREVOTE, ONE.hash))
    ]
    assert Judge(ONE, is_backed=True) in effects
    (precommit,) = [each.ballot for each in me.judged(0.2, ONE.hash, True) if isinstance(each, Send)]
    assert isinstance(precommit, Vote)
    assert (precommit.step, precommit.choice) == (Step.PRECOMMIT, ONE.hash)


def test_what_was_refused_twice_stays_refused() -> None:
    number = listener()
    me = voting(number)
    me.heard(0.0, proposal())
    me.judged(0.0, ONE.hash, False)
    for each in range(4):
        me.heard(0.1, vote(each, Step.PREVOTE, ONE.hash)) if each != number else None
    effects = [*me.judged(0.2, ONE.hash, False), *me.look(0.3)]
    assert not any(isinstance(effect, Judge) for effect in effects)


def test_old_votes_told_to_who_was_started_again_in_a_later_attempt_are_not_news_to_it() -> None:
    """It was carried to attempt 6 by others, has proposed there, and was killed: its journal names no older vote."""
    old = vote(0, Step.PRECOMMIT, ONE.hash, 1)
    me = voting(0, journal=Journal(ROUND, 6, None, (), None))
    assert me.remembers(old)
    assert not me.remembers(vote(0, Step.PREVOTE, ONE.hash, 6))
    assert not voting(0).remembers(old)


def test_a_liar_that_votes_in_the_last_attempt_there_is_leaves_room_for_others() -> None:
    """Where nobody is expected to lie one voice is enough to be followed."""
    me = voting(0, Quorum.MAJORITY)
    me.ready(0.0, ONE)
    me.heard(0.0, vote(1, Step.PREVOTE, b"", ATTEMPTS_MAX))
    assert me.attempt == 0
    me.heard(0.0, vote(2, Step.PREVOTE, b"", 9))
    assert me.attempt == 9


def test_the_same_polka_from_everybody_is_kept_once() -> None:
    me = voting(0)
    polka = Polka(0, ONE.data, signatures_of(vote(each, Step.PREVOTE, ONE.hash) for each in range(3)))
    for attempt in range(1, NEWEST_KEPT + 1):
        for number in range(1, 4):
            me.heard(0.0, replace(vote(number, Step.PREVOTE, b"", attempt), bound_by=polka))
    kept = [each for number in range(1, 4) for each in me.votes.of(KEYS[number].peer_id, 0) if not each.choice]
    assert [each.bound_by for each in kept] == [None] * 3 * NEWEST_KEPT
    assert len(me._heard.values) == 1  # pyright: ignore[reportPrivateUsage]


def test_liars_who_vote_in_ever_other_attempts_cost_some_calls_for_each_vote_that_is_kept_of_them() -> None:
    """For each pair of such a vote and a member, a hundred members would be busy for 25 ms with every message."""
    keys = [Identity.from_seed(bytes([number]) * 32) for number in range(40)]
    electorate = electorate_of(Quorum.TWO_THIRDS, {key.peer_id: 1 for key in keys})
    me = Voting(SWARM, ROUND, electorate, keys[0], Timeouts(), lambda value: True)
    votes = [
        Vote(liar.peer_id, ROUND, 1000 + 100 * number + attempt, Step.PRECOMMIT, ONE.hash, bytes(64))
        for number, liar in enumerate(keys[1:14])
        for attempt in range(FIRST_KEPT + NEWEST_KEPT)
    ]
    for each in votes:
        me.votes.put(each)
    profile = Profile()
    profile.runcall(me.heard, 0.0, Vote(keys[20].peer_id, ROUND, 0, Step.PREVOTE, ONE.hash, bytes(64)))
    assert sum(entry.callcount for entry in profile.getstats()) < 20 * len(votes)
