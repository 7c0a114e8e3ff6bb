"""What one member does for others beside voting: it tells who comes back what was said meanwhile."""

from shoal.training.agreed import Position, Share, next_record, record_value
from shoal.training.agreeing import Agreement
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
