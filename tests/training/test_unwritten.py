"""What waits for the disk is bounded, and nothing that must be kept is lost."""

from hypothesis import given
from hypothesis import strategies as st

from shoal.training.effects import ApplyRecord, Effect, Recovered
from shoal.training.unwritten import KEPT_MAX, SAID_MAX, Unwritten
from shoal.training.votes import Journal, Step, cast
from shoal.training.voting_effects import Save, Send
from tests.training.round_member import ANN, BEN, SWARM, closed, contribution, record_of


def say(attempt: int) -> Send:
    return Send(cast(ANN, SWARM, 1, attempt, Step.PREVOTE, b""))


def save(attempt: int) -> Save:
    return Save(Journal(1, attempt, None, (), None))


APPLY = ApplyRecord(closed(record_of(contribution(BEN))), ())


def filled(*effects: Effect) -> Unwritten:
    waiting = Unwritten()
    for effect in effects:
        waiting.put(effect)
    return waiting


def test_what_is_said_again_and_again_waits_once() -> None:
    assert filled(save(0), say(0), say(0), Send(say(0).ballot, BEN.peer_id), say(0)).take() == [
        save(0),
        say(0),
        Send(say(0).ballot, BEN.peer_id),
    ]


def test_of_words_the_newest_wait_and_of_journals_the_last() -> None:
    made = filled(*(each for attempt in range(SAID_MAX + 9) for each in (save(attempt), say(attempt)))).take()
    assert [each for each in made if isinstance(each, Save)] == [save(SAID_MAX + 8)]
    assert [each for each in made if isinstance(each, Send)] == [say(9 + number) for number in range(SAID_MAX)]


@given(st.lists(st.sampled_from([save(0), save(1), say(0), say(1), APPLY, Recovered()]), max_size=30))
def test_nothing_else_is_shed_and_all_stays_in_order(effects: list[Effect]) -> None:
    made = filled(*effects).take()
    kept = [each for each in effects if isinstance(each, ApplyRecord | Recovered)]
    assert [each for each in made if isinstance(each, ApplyRecord | Recovered)] == kept
    assert {type(each) for each in made} == {type(each) for each in effects}


def test_who_has_no_room_for_what_must_be_kept_says_so_until_it_is_written() -> None:
    waiting = filled(*[Recovered()] * (KEPT_MAX - 1), *map(say, range(SAID_MAX)))
    assert not waiting.is_full
    waiting.put(APPLY)
    assert waiting.is_full
    waiting.take()
    assert not waiting.is_full
    assert not waiting.is_done
    waiting.carried_out()
    assert waiting.is_done
