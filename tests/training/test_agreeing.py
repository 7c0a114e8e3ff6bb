"""What one member makes of what is not of the open round, and what it tells who comes back or is behind."""

from shoal.training.agreed import Position, Share, next_record, record_value
from shoal.training.agreeing import DECIDED_KEPT, Agreement, Ask, Effect
from shoal.training.members import electorate_of
from shoal.training.spec import Quorum
from shoal.training.votes import Decided, Step, Value, Vote, cast, signatures_of
from shoal.training.voting_effects import Accuse, Send, Timeouts
from shoal.transport.identity import Identity
from shoal.transport.wire import Malformed

SWARM = b"s" * 32
ANN, BEN, CLEO, STRANGER = [Identity.from_seed(bytes([number]) * 32) for number in range(1, 5)]
ORIGIN = Position(0, SWARM, electorate_of(Quorum.MAJORITY, {key.peer_id: 1 for key in (ANN, BEN, CLEO)}))


def candidate() -> Value:
    record = next_record(ORIGIN, b"", [Share(ANN.peer_id, 1, 0, bytes(32), 7)])
    assert not isinstance(record, Malformed)
    return record_value(record)


def proposer() -> Agreement:
    first = ORIGIN.electorate.proposer(1, 0)
    me = next(key for key in (ANN, BEN, CLEO) if key.peer_id == first)
    return Agreement(SWARM, me, Timeouts(), ORIGIN)


def test_a_voter_that_comes_back_hears_at_once_what_was_said() -> None:
    core = proposer()
    said = [effect.ballot for effect in core.ready(0.0, candidate()) if isinstance(effect, Send)]
    other = next(key.peer_id for key in (ANN, BEN) if key.peer_id != core.proposer)
    assert len(said) == 2  # a proposal and its prevote
    assert core.met(other) == [Send(ballot, other) for ballot in said]


def test_what_comes_late_shows_who_told_others_something_else() -> None:
    core = proposer()
    core.ready(0.0, candidate())
    me, liar, third = core.proposer, *(key for key in (ANN, BEN, CLEO) if key.peer_id != core.proposer)

    def vote(key: Identity, choice: bytes) -> Vote:
        return cast(key, SWARM, 1, 0, Step.PRECOMMIT, choice)

    core.heard(0.1, liar.peer_id, vote(liar, b""))
    mine = next(key for key in (ANN, BEN, CLEO) if key.peer_id == me)
    certificate = [vote(mine, candidate().hash), vote(third, candidate().hash)]
    core.heard(0.2, third.peer_id, Decided(1, 0, candidate().data, signatures_of(certificate)))
    assert core.round == 2
    other = vote(liar, candidate().hash)
    later = Decided(1, 0, candidate().data, signatures_of([other, certificate[1]]))
    assert core.heard(0.3, third.peer_id, later) == [Accuse(vote(liar, b""), other)]
    assert Accuse(vote(liar, b""), other) in core.heard(0.4, liar.peer_id, other)
    forged = Vote(third.peer_id, 1, 0, Step.PRECOMMIT, b"", bytes(64))
    assert not [each for each in core.heard(0.5, third.peer_id, forged) if isinstance(each, Accuse)]


def test_who_has_no_vote_is_told_nothing() -> None:
    core = proposer()
    core.ready(0.0, candidate())
    assert core.met(STRANGER.peer_id) == []


def closed(core: Agreement, now: float) -> Decided:
    """The open round ends as all but this member have it."""
    record = next_record(core.position, b"", [Share(ANN.peer_id, core.round, core.round - 1, bytes(32), 7)])
    assert not isinstance(record, Malformed)
    decided = certified(core.round, record_value(record), ANN, BEN, CLEO)
    core.heard(now, BEN.peer_id, decided)
    return decided


def certified(round: int, value: Value, *signers: Identity) -> Decided:
    votes = [cast(key, SWARM, round, 0, Step.PRECOMMIT, value.hash) for key in signers]
    return Decided(round, 0, value.data, signatures_of(votes))


def test_a_liar_alone_shows_nobody_that_a_round_ended_twice() -> None:
    core = proposer()
    closed(core, 0.0)
    other = next_record(ORIGIN, b"", [Share(BEN.peer_id, 1, 0, bytes(32), 7)])
    assert not isinstance(other, Malformed)
    core.heard(0.1, CLEO.peer_id, certified(1, record_value(other), CLEO))
    assert core.split is None
    assert core.heard(0.2, CLEO.peer_id, certified(1, record_value(other), BEN, CLEO)) != []
    assert core.split is not None


def test_how_so_many_of_the_newest_rounds_ended_is_told_and_of_older_ones_nothing() -> None:
    core = proposer()
    ended = [closed(core, 0.0) for _ in range(DECIDED_KEPT + 1)]
    assert core.round == DECIDED_KEPT + 2

    def asked(round: int) -> list[Effect]:
        return core.heard(1.0, CLEO.peer_id, cast(CLEO, SWARM, round, 0, Step.PREVOTE, b""))

    assert asked(1) == []
    assert asked(2) == [Send(ended[1], CLEO.peer_id)]


def test_who_is_ahead_is_asked_for_the_log_every_now_and_then() -> None:
    core, later = proposer(), cast(CLEO, SWARM, 2, 0, Step.PREVOTE, b"")
    assert core.heard(0.0, CLEO.peer_id, later) == [Ask(CLEO.peer_id)]
    assert core.heard(0.0, CLEO.peer_id, later) == []
    assert core.heard(Timeouts().repeat_s, CLEO.peer_id, later) == [Ask(CLEO.peer_id)]


def test_who_votes_late_for_what_was_decided_is_told_of_it_when_it_says_so_again() -> None:
    core = proposer()
    decided = closed(core, 0.0)
    late = cast(CLEO, SWARM, 1, 0, Step.PRECOMMIT, candidate().hash)
    assert core.heard(0.1, CLEO.peer_id, late) == []
    assert core.heard(0.2, CLEO.peer_id, late) == [Send(decided, CLEO.peer_id)]
