"""Whom a member that is far behind asks for the way, once those it asked first could not show it."""

from shoal.training.effects import AskProof
from shoal.training.records import Head
from shoal.training.skipping import Anchor, Proof
from tests.training.round_member import ANN, BEN, CAT, DIGEST, PEOPLE, THREE, Member, of_kind


def test_who_cannot_show_the_way_it_tells_of_is_doubted_and_others_are_asked() -> None:
    """Four who say that they are far ahead, and come before all others, would else be asked for ever."""
    ann = Member(ANN).meet(*PEOPLE[1:], head=Head(1000, bytes(32), DIGEST))
    (ask,) = of_kind(ann.rounds.look(0.0), AskProof)
    assert ask.holders == tuple(other.peer_id for other in PEOPLE[1:])
    (ask,) = of_kind([*ann.rounds.not_proved(0.1, ask.holders[:4]), *ann.rounds.look(1.2)], AskProof)
    assert ask.holders == (PEOPLE[5].peer_id,)
    ann.rounds.leapt(1.3, THREE, Proof(Anchor(), ()), ask.holders)  # no further than Ann stands
    assert of_kind(ann.rounds.look(4.0), AskProof) == []


def test_whoever_cannot_show_the_way_from_the_record_that_an_invite_names_is_doubted() -> None:
    ann = Member(ANN).meet(BEN, CAT)
    ann.rounds.trust(bytes(32))
    (ask,) = of_kind(ann.rounds.look(0.0), AskProof)
    ann.rounds.not_proved(0.1, ask.holders[:1])
    (again,) = of_kind(ann.rounds.look(1.2), AskProof)
    assert again.holders == ask.holders[1:]


def test_what_has_come_by_another_way_meanwhile_is_held_against_nobody() -> None:
    ann = Member(ANN).meet(BEN)
    ann.rounds.not_proved(0.1, (BEN.peer_id,))
    assert ann.roster.doubted(0.2) == set()
