"""What somebody with many keys, or with others' old words, makes of the changes that members ask for."""

import pytest

from shoal.training.agreed import remove_statement
from shoal.training.members import Leave, Remove
from shoal.training.votes import Signed, Vote
from shoal.training.words import JOINS_MAX
from tests.training.seated import PEOPLE, Seated, make_spec, said, stranger

ANN, BEN, CAT, DAN = PEOPLE[:4]


def joins_heard(me: Seated, count: int) -> int:
    before = me.rounds.words.version
    for number in range(count):
        me.rounds.heard_words(1.0, [me.join(stranger(number))])
    return me.rounds.words.version - before


def test_no_more_are_let_in_at_once_than_there_are_seats() -> None:
    me = Seated(spec=make_spec(members_max=6))
    assert joins_heard(me, 5) == 5
    assert len(me.rounds.words.fitting(me.position)) == 2


def test_those_who_want_to_come_keep_nobody_from_leaving_or_being_removed() -> None:
    me = Seated(spec=make_spec(members_max=1024))
    assert joins_heard(me, JOINS_MAX + 3) == JOINS_MAX
    me.rounds.heard_words(1.0, [me.leave(BEN)])
    statement = remove_statement(me.swarm, CAT.peer_id, 0)
    words = tuple(Signed(each.peer_id, each.sign(statement)) for each in (ANN, BEN, DAN))
    me.rounds.heard_words(1.0, [Remove(CAT.peer_id, words)])
    kinds = {type(change) for change in me.rounds.words.fitting(me.position)}
    assert {Leave, Remove} <= kinds


def test_words_of_strangers_that_are_no_members_take_no_room() -> None:
    me = Seated()
    word = Leave(stranger(1).peer_id, stranger(1).sign(b"whatever"))
    assert me.rounds.heard_words(1.0, [word]) == []
    assert me.rounds.heard_words(1.0, [Remove(BEN.peer_id, ())]) == []
    assert me.rounds.words.version == 0


def test_who_asks_to_be_let_in_and_waits_too_long_makes_room_for_others() -> None:
    me = Seated(spec=make_spec(members_max=4))
    joins_heard(me, JOINS_MAX)
    assert joins_heard(me, JOINS_MAX + 1) == 0
    for round in range(1, 66):
        own = me.contribution(ANN, round)
        me.contribute(float(round), own)
        me.decide(float(round), me.record([me.share(own)]))
        me.rounds.applied(float(round), me.closed(round), bytes(32))
    assert me.rounds.heard_words(99.0, [me.join(stranger(999), 65)]) is not None
    assert me.rounds.words.version > JOINS_MAX


@pytest.mark.parametrize("is_replayed", [True, False])
def test_who_left_is_not_brought_back_by_what_it_said_before(is_replayed: bool) -> None:
    me = Seated()
    old = me.join(PEOPLE[5])
    me.decide(1.0, me.record((), old))
    me.rounds.applied(1.0, me.closed(1), bytes(32))
    me.decide(2.0, me.record((), me.leave(PEOPLE[5])))
    me.rounds.applied(2.0, me.closed(2), bytes(32))
    before = me.rounds.words.version
    me.rounds.heard_words(3.0, [old if is_replayed else me.join(PEOPLE[5], 2)])
    assert (me.rounds.words.version > before) is not is_replayed


def test_nobody_votes_for_bringing_back_who_left() -> None:
    me = Seated()
    old = me.join(PEOPLE[5])
    for round, change in ((1, old), (2, None)):
        me.decide(float(round), me.record((), change or me.leave(PEOPLE[5])))
        me.rounds.applied(float(round), me.closed(round), bytes(32))
    heard = me.rounds.heard_ballots(3.0, me.turn().peer_id, [me.proposal(me.record((), old))])
    assert [vote.choice for vote in said(heard, Vote)] == [b""]
