"""What is said to one peer of what agreement wants said, and how often."""

from shoal.training.calls import BALLOTS_MAX
from shoal.training.outbox import Kind
from shoal.training.talker_service import Talker
from shoal.training.votes import Ballot, Decided, Step, Vote, cast
from shoal.transport.identity import Identity

ANN = Identity.from_seed(bytes([1]) * 32)


def vote(round: int, step: Step = Step.PREVOTE, attempt: int = 0) -> Vote:
    return cast(ANN, b"s" * 32, round, attempt, step, b"c" * 32)


def talker() -> Talker:
    """Of a peer that has answered a hello."""
    made = Talker(0.0, is_acquainted=True)
    assert made.outbox.take(0.0) is Kind.HELLO
    made.outbox.sent(Kind.HELLO)
    return made


def test_a_new_vote_is_said_while_the_one_before_is_under_way() -> None:
    made = talker()
    made.put(vote(7))
    assert made.take(7) == (vote(7),)
    made.put(vote(7, Step.PRECOMMIT))
    assert made.take(7) == (vote(7, Step.PRECOMMIT),)


def test_what_is_under_way_is_repeated_once_it_has_been_answered_and_not_before() -> None:
    made = talker()
    made.put(vote(7))
    said = made.take(7)
    for _ in range(10):
        made.put(vote(7))
    assert made.take(7) == ()
    made.ended(said, have_arrived=True)
    assert made.outbox.take(0.0) is Kind.BALLOTS
    assert made.take(7) == (vote(7),)


def test_what_has_arrived_and_was_not_wanted_again_is_not_repeated() -> None:
    made = talker()
    made.put(vote(7))
    made.ended(made.take(7), have_arrived=True)
    assert made.outbox.take(0.0) is None
    assert made.take(7) == ()


def test_what_did_not_arrive_is_said_again_before_what_is_new() -> None:
    made = talker()
    for step in Step:
        made.put(vote(7, step))
    said = made.take(7)
    made.put(vote(7, attempt=1))
    made.ended(said, have_arrived=False)
    assert made.take(7) == (vote(7), vote(7, Step.PRECOMMIT), vote(7, attempt=1))


def test_of_what_did_not_arrive_no_more_is_kept_than_is_said_at_once() -> None:
    made = talker()
    said = list[tuple[Ballot, ...]]()
    for start in (0, BALLOTS_MAX):
        for attempt in range(start, start + BALLOTS_MAX):
            made.put(vote(7, attempt=attempt))
        said.append(made.take(7))
    for each in said:
        made.ended(each, have_arrived=False)
    assert len(made.take(7)) == BALLOTS_MAX


def test_what_has_been_overtaken_is_not_said() -> None:
    made = talker()
    ended = Decided(3, 0, b"record", ())
    for ballot in (vote(5), vote(6), ended):
        made.put(ballot)
    assert made.take(7) == (vote(6), ended)
