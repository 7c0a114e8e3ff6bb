"""What members ask to be changed: kept once it is proved, gathered, put in order, and let go of in time."""

from dataclasses import replace
from functools import partial

from msgspec import structs

from shoal.training.admission import admits, join_change
from shoal.training.agreed import (
    CHANGES_MAX,
    Position,
    leave_statement,
    next_record,
    opine_statement,
    record_value,
    remove_statement,
    unproved,
    vouch_statement,
)
from shoal.training.conduct import Behaviour, Conduct
from shoal.training.members import (
    RIGHT,
    Change,
    Expel,
    Join,
    Leave,
    Opine,
    Remove,
    Resume,
    Suspend,
    Vouch,
    electorate_of,
)
from shoal.training.reputation import STANDINGS_MAX, TRUST_MIN, Copies, Reputation, Standing
from shoal.training.spec import Quorum, swarm_id
from shoal.training.verdicts import CASE_ROUNDS, CASES_MAX, Case, Opinion
from shoal.training.votes import VALUE_BYTES_MAX, Signed, Step, cast, shortened
from shoal.training.words import JOINS_MAX, OPINIONS_MAX, Words
from shoal.transport.identity import Identity
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed
from tests.training.round_member import ANN, BEN, CAT, DAN, EVE, SPEC, SWARM, THREE, admission, make_spec


def words(members_max: int = 64) -> Words:
    return Words(SWARM, members_max, admission())


def joins(who: Identity, round: int = 0) -> Change:
    change = join_change(SPEC, SWARM, who, None, round)
    assert isinstance(change, Join), change
    return change


def leaves(who: Identity, by: Identity | None = None) -> Change:
    return Leave(who.peer_id, (by or who).sign(leave_statement(SWARM, who.peer_id, 0)))


def removes(who: Identity, *signers: Identity, since: int = 0) -> Change:
    statement = remove_statement(SWARM, who.peer_id, since)
    return Remove(who.peer_id, tuple(Signed(each.peer_id, each.sign(statement)) for each in signers))


def vouches(voucher: Identity, member: Identity, votes: int) -> Change:
    word = voucher.sign(vouch_statement(SWARM, voucher.peer_id, member.peer_id, votes, 0))
    return Vouch(member.peer_id, voucher.peer_id, votes, word)


def expels(who: Identity) -> Change:
    one, other = (shortened(cast(who, SWARM, 1, 0, Step.PREVOTE, choice)) for choice in (b"", bytes(32)))
    return Expel(who.peer_id, one, other)


def opines(judge: Identity, who: Identity, came_out: int = 0, round: int = 1) -> Change:
    opinion = Opine(who.peer_id, judge.peer_id, round, round - 1, came_out, bytes(64))
    return structs.replace(opinion, word=judge.sign(opine_statement(SWARM, opinion)))


def test_opinions_of_voters_are_gathered_and_what_doubts_comes_first() -> None:
    heard, content = words(), opines(ANN, CAT, RIGHT)
    assert heard.hear(THREE, content)
    assert heard.fitting(THREE) == ()  # nobody doubts it yet
    doubt = opines(BEN, CAT)
    assert heard.hear(THREE, doubt)
    assert not heard.hear(THREE, doubt)
    assert heard.fitting(THREE) == (doubt, content)
    assert not heard.hear(THREE, opines(CAT, CAT))
    assert not heard.hear(THREE, opines(DAN, CAT))
    forged = structs.replace(opines(CAT, BEN), came_out=1)
    assert not heard.hear(THREE, forged)
    late = Position(CASE_ROUNDS + 1, bytes(32), THREE.electorate)
    heard.forget(late)
    assert heard.fitting(Position(0, bytes(32), THREE.electorate)) == ()


def test_one_judge_does_not_fill_all_room_for_opinions() -> None:
    heard, position = words(), Position(CASE_ROUNDS + 4, SWARM, THREE.electorate)
    kept = [heard.hear(position, opines(BEN, who, round=round)) for who in (ANN, CAT) for round in range(5, 20)]
    assert sum(kept) == OPINIONS_MAX
    assert heard.hear(position, opines(CAT, ANN, round=19))


def test_what_is_proved_is_news_once() -> None:
    heard = words()
    for change in (joins(DAN), leaves(BEN), expels(CAT)):
        assert heard.hear(THREE, change)
        assert not heard.hear(THREE, change)
    assert set(heard.fitting(THREE)) == {joins(DAN), leaves(BEN), expels(CAT)}


def test_what_is_not_proved_is_not_kept() -> None:
    heard = words()
    assert not heard.hear(THREE, leaves(BEN, by=CAT))
    assert not heard.hear(THREE, Join(DAN.peer_id, 1, b"please"))
    assert not heard.hear(THREE, leaves(DAN))  # no member
    assert not heard.hear(THREE, joins(ANN))  # one already
    assert heard.fitting(THREE) == ()
    assert heard.version == 0


def test_whether_to_suspend_is_not_anybodys_to_ask_for() -> None:
    assert not words().hear(THREE, Suspend(BEN.peer_id))
    assert not words().hear(THREE, Resume(BEN.peer_id))


def test_who_lies_goes_first_then_who_leaves_then_come_the_new_ones() -> None:
    heard = words()
    given = [joins(DAN), leaves(BEN), joins(EVE), expels(CAT)]
    for change in given:
        assert heard.hear(THREE, change)
    kinds = [type(change) for change in heard.fitting(THREE)]
    assert kinds == [Expel, Leave, Join, Join]
    assert not isinstance(THREE.electorate.after(1, heard.fitting(THREE)), Malformed)


def test_a_newcomers_later_word_takes_the_place_of_the_one_that_has_grown_old() -> None:
    heard, old, new = words(), joins(DAN), joins(DAN, 60)
    assert heard.hear(THREE, old)
    assert not heard.hear(THREE, new)  # the first is good still
    later = Position(70, SWARM, THREE.electorate)
    assert heard.fitting(later) == ()
    assert heard.hear(later, new)
    assert heard.fitting(later) == (new,)


def test_the_words_of_those_who_want_a_member_to_go_add_up_to_a_quorum() -> None:
    heard = words()
    assert heard.hear(THREE, removes(CAT, ANN))
    assert heard.fitting(THREE) == ()
    assert not heard.hear(THREE, removes(CAT, ANN))
    assert heard.hear(THREE, removes(CAT, BEN))
    assert heard.fitting(THREE) == (removes(CAT, ANN, BEN),)
    assert unproved(heard.fitting(THREE), SWARM, THREE.electorate, admission()(THREE)) is None


def test_nobody_wants_a_member_to_go_in_anothers_name_nor_without_a_vote() -> None:
    heard = words()
    forged = Signed(BEN.peer_id, ANN.sign(remove_statement(SWARM, CAT.peer_id, 0)))
    assert not heard.hear(THREE, Remove(CAT.peer_id, (forged,)))
    assert not heard.hear(THREE, removes(CAT, DAN))
    assert not heard.hear(THREE, removes(CAT))
    assert not heard.hear(THREE, removes(DAN, ANN))  # no member
    assert heard.removers() == {}
    assert heard.version == 0
    assert heard.hear(THREE, removes(CAT, ANN))
    assert heard.removers() == {CAT.peer_id: (ANN.peer_id,)}


def test_the_words_of_who_has_lost_its_vote_count_no_more() -> None:
    heard = words()
    heard.hear(THREE, removes(CAT, ANN, BEN))
    without = electorate_of(Quorum.MAJORITY, {ANN.peer_id: 1, BEN.peer_id: 0, CAT.peer_id: 1, DAN.peer_id: 1})
    assert heard.fitting(Position(0, SWARM, without)) == ()


def test_votes_are_given_away_within_what_the_voucher_has() -> None:
    electorate = electorate_of(Quorum.MAJORITY, {ANN.peer_id: 3, DAN.peer_id: 0, EVE.peer_id: 0})
    position, heard = Position(0, SWARM, electorate), words()
    for member in (DAN, EVE):
        assert heard.hear(position, vouches(ANN, member, 2))
    assert len(heard.fitting(position)) == 1  # of three votes she keeps one


def test_the_last_voter_does_not_go() -> None:
    alone, heard = Position(0, SWARM, electorate_of(Quorum.MAJORITY, {ANN.peer_id: 1, BEN.peer_id: 0})), words()
    heard.hear(alone, leaves(ANN))
    assert heard.fitting(alone) == ()


def test_no_more_are_let_in_than_the_spec_allows() -> None:
    heard = words(members_max=4)
    for who in (DAN, EVE):
        assert heard.hear(THREE, joins(who))
    assert heard.fitting(THREE) == (joins(DAN),)
    assert heard.joining(THREE) == {DAN.peer_id}
    full = words(members_max=2)  # as it was when there were more members already
    full.hear(THREE, joins(DAN))
    assert full.fitting(THREE) == ()


def test_who_leaves_and_who_comes_shows() -> None:
    heard = words()
    assert not heard.is_anybody_leaving(THREE)
    heard.hear(THREE, joins(DAN))
    assert not heard.is_anybody_leaving(THREE)
    heard.hear(THREE, leaves(BEN))
    assert heard.is_anybody_leaving(THREE)
    assert heard.joining(THREE) == {DAN.peer_id}


def test_what_a_record_has_made_is_let_go_of() -> None:
    heard = words()
    for change in (joins(DAN), joins(EVE), leaves(BEN), removes(CAT, ANN)):
        heard.hear(THREE, change)
    after = THREE.electorate.after(1, (joins(DAN), leaves(BEN)))
    assert not isinstance(after, Malformed)
    heard.forget(Position(1, SWARM, after))
    assert heard.fitting(Position(1, SWARM, after)) == (joins(EVE),)
    assert heard.hear(Position(1, SWARM, after), removes(CAT, DAN))  # what Ann said is known still
    assert heard.fitting(Position(1, SWARM, after))[:1] == (removes(CAT, ANN, DAN),)


def test_who_has_left_and_come_back_since_can_be_wanted_to_go_anew() -> None:
    heard = words()
    assert heard.hear(THREE, removes(CAT, ANN))
    gone = THREE.electorate.after(5, (leaves(CAT),))
    assert not isinstance(gone, Malformed)
    back = gone.after(9, (joins(CAT),))
    assert not isinstance(back, Malformed)
    later = Position(9, SWARM, back)
    heard.forget(later)  # this member was away, and learns of both records at once
    assert heard.removers() == {}
    assert heard.hear(later, removes(CAT, ANN, since=9))
    assert heard.hear(later, removes(CAT, BEN, since=9))
    assert heard.fitting(later) == (removes(CAT, ANN, BEN, since=9),)


def test_a_crowd_at_the_door_has_room_of_its_own_and_grows_old() -> None:
    spec = make_spec(admission="open", allowed=(), quorum="majority")
    swarm, crowd = swarm_id(spec), [Identity.from_seed(n.to_bytes(32, "big")) for n in range(1000, 1005 + JOINS_MAX)]
    heard = Words(swarm, 64, lambda position: partial(admits, spec, swarm, position))
    at, late = (Position(round, swarm, THREE.electorate) for round in (0, 100))

    def knocks(who: Identity, position: Position) -> bool:
        change = join_change(spec, swarm, who, None, position.round)
        return isinstance(change, Join) and heard.hear(position, change)

    assert sum(knocks(who, at) for who in crowd) == JOINS_MAX
    leave = Leave(BEN.peer_id, BEN.sign(leave_statement(swarm, BEN.peer_id, 0)))
    assert heard.hear(at, leave)
    assert heard.fitting(at)[0] == leave
    assert len(heard.fitting(at)) == 1 + 64 - 2
    heard.forget(late)
    assert knocks(crowd[-1], late)


def signs_anything(member: PeerId, message: bytes, signature: bytes) -> bool:
    return True


def test_a_record_makes_no_more_changes_than_it_has_room_for() -> None:
    keys = sorted((Identity.from_seed(n.to_bytes(32, "big")) for n in range(1000, 1500)), key=lambda key: key.peer_id)
    position = Position(0, SWARM, electorate_of(Quorum.MAJORITY, {key.peer_id: 1 for key in keys}))
    heard = Words(SWARM, 1024, admission(), signs_anything)
    for key in keys[:20]:
        heard.hear(position, Remove(key.peer_id, tuple(Signed(each.peer_id, bytes(64)) for each in keys)))
    made = heard.fitting(position)
    assert 0 < len(made) < 20
    record = next_record(position, bytes(32), (), made)
    assert not isinstance(record, Malformed)
    assert len(record_value(record).data) < VALUE_BYTES_MAX
    for key in keys[20:400]:
        heard.hear(position, Leave(key.peer_id, bytes(64)))
    assert len(heard.fitting(position)) == CHANGES_MAX


def test_changes_leave_room_for_what_a_record_says_of_how_members_have_behaved() -> None:
    """As much as it may say, after a crowd has come and gone and liars have spoken in all cases that may be open."""
    peers = [f"{number:052}" for number in range(STANDINGS_MAX)]
    standings = tuple(Standing(peer, TRUST_MIN, 1, Copies(b"\xff" * 32, 2, 9), 2, 2**20, 2, 2**20) for peer in peers)
    opinions = tuple(Opinion(peer, RIGHT - 1) for peer in peers[:64])
    cases = tuple(Case(peer, 2**20, 2**20 - 1, 2**20, opinions) for peer in peers[:CASES_MAX])
    position = replace(THREE, round=2**20, behaviour=Behaviour(Conduct(Reputation(standings), cases)))
    crowd = Words(SWARM, 1024, lambda _: lambda member, admission: 0)
    for peer in peers[:JOINS_MAX]:
        assert crowd.hear(position, Join(PeerId(peer), 0, bytes(1000)))
    made = next_record(position, bytes(32), (), crowd.fitting(position))
    assert not isinstance(made, Malformed)
    assert 30 < len(made.changes) < JOINS_MAX
    assert len(record_value(made).data) + 32 * 1024 <= VALUE_BYTES_MAX
