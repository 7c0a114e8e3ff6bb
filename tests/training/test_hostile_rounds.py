"""What one voter or stranger makes of the others' rounds by what it proposes, contributes and tells."""

from typing import Any

import pytest
from msgspec.structs import replace

from shoal.training.agreed import record_value
from shoal.training.course import HASTY_MAX
from shoal.training.effects import AskLog, Collect, Effect, FetchPayload, Resync
from shoal.training.heard import PROPOSALS_KEPT
from shoal.training.judging import shares_of
from shoal.training.named_values import VALUES_MAX
from shoal.training.records import Head
from shoal.training.rounds import Phase
from shoal.training.skipping import Anchor, Proof
from shoal.training.votes import Decided, Proposal, Step, Vote, value_of
from shoal.transport.blobs import BlobRef
from tests.training.seated import DIGEST, PEOPLE, Seated, make_spec, of_kind, of_read, said, stranger
from tests.training.test_judging import Desk

ANN, BEN, CAT, DAN = PEOPLE[:4]


def proposer(**values: Any) -> Seated:
    """Whose turn it is."""
    each = (Seated(me=number, spec=make_spec(**values)) for number in range(4))
    return next(me for me in each if me.turn() is PEOPLE[me.me])


def listener(**values: Any) -> Seated:
    """Whose turn it is not."""
    each = (Seated(me=number, spec=make_spec(**values)) for number in range(4))
    return next(me for me in each if me.turn() is not PEOPLE[me.me])


def all_contribute(me: Seated, now: float = 1.0) -> list[Effect]:
    effects: list[Effect] = []
    for each in PEOPLE[: me.voters]:
        offered = me.contribution(each)
        effects += me.contribute(now, offered) if each is PEOPLE[me.me] else me.hold(now, offered)
    return effects


def choices(effects: list[Effect]) -> list[bytes]:
    return [vote.choice for vote in said(effects, Vote)]


def test_who_leaves_or_is_expelled_takes_nothing_with_it_that_the_others_would_refuse() -> None:
    """A record that lets a member go cannot take what it contributed: nobody would vote for that."""
    me = proposer()
    liar = next(each for each in PEOPLE[:4] if each is not PEOPLE[me.me])
    me.rounds.heard_words(1.0, [me.expel(liar)])
    (proposal,) = said(all_contribute(me), Proposal)
    record = of_read(value_of(proposal.value))
    assert [type(change).__name__ for change in record.changes] == ["Expel"]
    assert liar.peer_id not in {share.member for share in record.taken}
    assert len(record.taken) == 3


def test_a_record_never_takes_fewer_members_than_the_spec_asks_for_because_one_goes() -> None:
    me = proposer(members_min=4, members_start=4)
    liar = next(each for each in PEOPLE[:4] if each is not PEOPLE[me.me])
    me.rounds.heard_words(1.0, [me.expel(liar)])
    (proposal,) = said(all_contribute(me), Proposal)
    assert of_read(value_of(proposal.value)).taken == ()


def test_more_contributions_than_fit_in_a_record_leave_out_nobody() -> None:
    me = Seated(spec=make_spec(members_max=1024))
    offers = [me.contribution(stranger(n), round) for n in range(300) for round in range(1, 6)]
    shares = shares_of(offers, Desk(make_spec(members_max=1024)).view)
    assert len(shares) == 1024
    assert len({share.member for share in shares}) == 300
    record = me.record(shares)
    assert of_read(record_value(record)) == record


def test_a_record_after_the_last_round_gets_no_vote() -> None:
    me = listener(rounds_max=1)
    contribution = me.contribution(BEN)
    me.decide(1.0, me.record([me.share(contribution)]))
    me.rounds.adopted(2.0, Head(1, me.position.record, DIGEST))
    record = me.record((), me.leave(CAT))
    heard = me.rounds.heard_ballots(3.0, me.turn().peer_id, [me.proposal(record)])
    assert set(choices(heard)) <= {b""}


def test_what_nobody_could_take_is_not_asked_for() -> None:
    """Else a proposer had everybody fetch whatever it likes."""
    me = listener()
    liar = me.turn()
    good = me.share(me.contribution(liar))
    for spoiled in (
        (good.member, 7, 0),  # too far ahead of the state it starts from
        (stranger(1).peer_id, 1, 0),  # not a member
    ):
        share = type(good)(*spoiled, good.contribution, 1)
        heard = listener().rounds.heard_ballots(1.0, liar.peer_id, [me.proposal(me.record([share]))])
        assert of_kind(heard, Collect) == []
        assert choices(heard) == [b""]


def test_what_is_collected_is_fetched_only_if_it_is_what_the_record_says() -> None:
    me = listener()
    liar = me.turn()
    real = me.contribution(liar, payload=BlobRef(bytes(32), 9_000), samples=5)
    named = me.share(real)
    record = me.record([type(named)(named.member, named.round, named.base_round, named.contribution, 6)])
    heard = me.rounds.heard_ballots(1.0, liar.peer_id, [me.proposal(record)])
    (collect,) = of_kind(heard, Collect)
    assert of_kind(me.rounds.collected(2.0, collect.record, collect.missing, (real,)), FetchPayload) == []
    sound = me.record([named])
    again = listener()
    (collect,) = of_kind(again.rounds.heard_ballots(1.0, liar.peer_id, [me.proposal(sound)]), Collect)
    assert of_kind(again.rounds.collected(2.0, collect.record, collect.missing, (real,)), FetchPayload)


def test_what_is_collected_is_not_fetched_where_it_is_larger_than_the_spec_allows() -> None:
    me = listener()
    large = me.contribution(me.turn(), payload=BlobRef(bytes(32), me.spec.payload_bytes_max + 1))
    record = me.record([me.share(large)])
    (collect,) = of_kind(me.rounds.heard_ballots(1.0, me.turn().peer_id, [me.proposal(record)]), Collect)
    effects = me.rounds.collected(2.0, collect.record, collect.missing, (large,))
    assert of_kind(effects, FetchPayload) == []
    assert me.rounds.pool.get(large.hash) is None


@pytest.mark.parametrize(("count", "phase"), [(1, Phase.OPEN), (2, Phase.WAITING)])
def test_those_who_say_that_they_are_further_hold_up_the_next_round_only_if_they_are_most(
    count: int, phase: Phase
) -> None:
    me = Seated()
    for other in PEOPLE[1 : 1 + count]:
        me.rounds.heard_have(1.0, other.peer_id, Head(9, b"r" * 32, b""), (), 0, is_idle=False)
    me.decide(1.0, me.record((), me.join(PEOPLE[4])))
    me.rounds.applied(1.0, me.closed(1), DIGEST)
    assert me.rounds.phase is phase


@pytest.mark.parametrize("is_doubted", [False, True])
def test_whose_log_led_nowhere_is_not_asked_again_for_what_it_votes_on(is_doubted: bool) -> None:
    me = Seated()
    later = me.vote(BEN, Step.PREVOTE, b"", round=7)
    assert len(of_kind(me.rounds.heard_ballots(1.0, BEN.peer_id, [later]), AskLog)) == 1
    me.rounds.heard_have(1.0, BEN.peer_id, Head(6, b"r" * 32, b""), (), 0, is_idle=False)
    if is_doubted:
        me.rounds.log_told(1.1, BEN.peer_id, 0)
        me.rounds.log_asked(1.1, 0)
    else:
        me.rounds.leapt(1.1, me.position, Proof(Anchor(), ()), ())
    asked = [*me.rounds.heard_ballots(4.0, BEN.peer_id, [later]), *me.rounds.look(4.0)]
    assert bool(of_kind(asked, AskLog)) is not is_doubted


def test_a_proposal_that_comes_with_the_record_before_is_judged_by_what_stands_after_it() -> None:
    """Methods without a common state have nothing else that tells one state from the next."""
    me = listener()
    first = me.contribution(BEN)
    me.hold(1.0, first)
    record = me.record([me.share(first)])
    me.decide(1.0, record)
    position = me.position
    again = listener()
    again.hold(1.0, first)
    twice = me.record([me.share(first)])
    proposal = me.proposal(twice)
    decided = me.closed(1).decided
    heard = again.rounds.heard_ballots(1.0, me.turn().peer_id, [decided, proposal])
    assert again.position == position
    assert all(choice == b"" for choice in choices(heard))


def test_contributions_from_one_state_count_as_from_one_state_however_many_records_took_nothing() -> None:
    """Else who starts from each of these rounds were counted once for each."""
    me = listener()
    for round in range(1, 4):
        me.decide(float(round), me.record((), me.join(PEOPLE[4 + round - 1], round - 1)))
        me.rounds.applied(float(round), me.closed(round), DIGEST)
    assert me.rounds.head.round == 3
    base = Head(0, me.swarm, DIGEST)
    assert not isinstance(me.rounds.heard(4.0, me.contribution(BEN, 1, base)), str)
    for round in range(1, 4):
        later = Head(round, me.closed(round).hash, DIGEST)
        assert isinstance(me.rounds.heard(4.0, me.contribution(BEN, round + 1, later)), str)


def test_proposals_for_far_attempts_are_neither_judged_nor_kept() -> None:
    me = listener()
    liar = PEOPLE[0] if me.me else PEOPLE[1]
    attempt = 2
    for number in range(200):
        attempt = me.attempt_of(liar, attempt + 1)
        share = me.share(me.contribution(liar, samples=1 + number % 100))
        heard = me.rounds.heard_ballots(1.0, liar.peer_id, [me.proposal(me.record([share]), attempt)])
        assert of_kind(heard, Collect) == []
    assert len(me.rounds._situation.deliberation._waiting) <= 2  # pyright: ignore[reportPrivateUsage]


def test_proposals_of_what_nobody_has_are_forgotten_as_attempts_go_by() -> None:
    me = listener()
    others = [each for each in PEOPLE[:4] if each is not PEOPLE[me.me]]
    for attempt in range(4 * PROPOSALS_KEPT):
        share = me.share(me.contribution(others[0], samples=1 + attempt))
        me.rounds.heard_ballots(1.0, me.turn(attempt).peer_id, [me.proposal(me.record([share]), attempt)])
        for each in others:
            nothing = me.vote(each, Step.PRECOMMIT, b"", attempt)
            me.rounds.heard_ballots(1.0, each.peer_id, [nothing])
    assert me.voting.attempt > 3 * PROPOSALS_KEPT
    assert len(me.rounds._situation.deliberation._waiting) <= VALUES_MAX  # pyright: ignore[reportPrivateUsage]


def test_a_member_that_tells_of_a_record_that_came_meanwhile_is_not_doubted() -> None:
    me = listener()
    head = Head(1, b"r" * 32, b"")
    (ask,) = of_kind(me.rounds.heard_have(1.0, CAT.peer_id, head, (), 0, is_idle=False), AskLog)
    me.decide(1.1, me.record((), me.leave(DAN)))
    me.rounds.log_told(1.2, CAT.peer_id, 1)
    assert CAT.peer_id in {peer for peers in me.roster.heads(1.3).values() for peer in peers}
    me.rounds.heard_have(2.0, CAT.peer_id, Head(9, b"r" * 32, b""), (), 0, is_idle=False)
    me.rounds.log_told(3.5, CAT.peer_id, 1)
    assert CAT.peer_id not in {peer for peers in me.roster.heads(3.6).values() for peer in peers}
    assert ask.round == 1


@pytest.mark.parametrize("is_member", [True, False])
def test_only_members_contribute_and_only_they_are_waited_for(is_member: bool) -> None:
    me = proposer()
    other = stranger(5)
    if is_member:
        me.rounds.heard_words(0.5, [me.join(other)])
    me.meet(other)
    me.rounds.heard_have(0.6, other.peer_id, me.rounds.head, (), 0, is_idle=False)
    assert bool(said(all_contribute(me), Proposal)) is not is_member  # who is one is waited for
    heard = me.rounds.heard(2.0, me.contribution(other, payload=BlobRef(bytes(32), 9_000)))
    assert isinstance(heard, str) is not is_member


def test_where_the_newest_state_is_not_certified_yet_votes_count_and_not_heads() -> None:
    """Anybody can bring many keys that tell the same lie."""
    me = listener()
    me.decide(1.0, me.record([me.share(me.contribution(BEN, payload=BlobRef(DIGEST, 9_000)))]))
    honest, lie = (Head(1, me.position.record, digest * 32) for digest in (b"h", b"l"))
    for number in range(5):
        me.meet(stranger(number))
        me.rounds.heard_have(2.0, stranger(number).peer_id, lie, (), 0, is_idle=False)
    voter = next(each for each in PEOPLE[:4] if each is not PEOPLE[me.me])
    me.rounds.heard_have(2.0, voter.peer_id, honest, (), 0, is_idle=False)
    (resync,) = of_kind(me.rounds.look(60.0), Resync)
    assert resync.head == honest


@pytest.mark.parametrize("is_hasty", [False, True])
def test_many_who_come_and_go_do_not_outrun_the_others_work(is_hasty: bool) -> None:
    me = Seated(spec=make_spec(members_max=1024))
    count = 0
    while count < (HASTY_MAX if is_hasty else 1) or me.turn() is not PEOPLE[me.me]:
        me.decide(1.0, me.record((), me.join(stranger(count), count)))
        count += 1
        me.rounds.applied(1.0, me.closed(count), DIGEST)
    leaver = next(each for each in PEOPLE[:4] if each is not PEOPLE[me.me])
    assert bool(said(me.rounds.heard_words(1.1, [me.leave(leaver)]), Proposal)) is not is_hasty
    assert said(me.rounds.look(26.0), Proposal) or not is_hasty


def test_only_what_voters_have_signed_is_passed_on() -> None:
    me = listener()
    record = me.record([me.share(me.contribution(BEN))])
    sound = me.vote(BEN, Step.PREVOTE, bytes(32))
    forged = replace(sound, choice=b"x" * 32)
    assert me.rounds.are_sound([sound, me.proposal(record)])
    assert not me.rounds.are_sound([sound, forged])
    assert not me.rounds.are_sound([me.vote(stranger(1), Step.PREVOTE, bytes(32))])
    assert not me.rounds.are_sound([me.vote(BEN, Step.PREVOTE, bytes(32), round=2)])
    assert not me.rounds.are_sound([Decided(1, 0, record_value(record).data, ())])


def test_no_crowd_of_strangers_keeps_a_voter_out() -> None:
    me = Seated(spec=make_spec(members_max=5))
    voter = next(each for each in PEOPLE[:4] if each is not PEOPLE[me.me])
    me.roster.lose(voter.peer_id, 1.0)
    met = [stranger(number) for number in range(9) if me.greets(stranger(number))]
    assert len(met) == 1
    assert me.greets(voter)
    assert set(me.roster.connected()) >= {each.peer_id for each in PEOPLE[:4]} - {PEOPLE[me.me].peer_id}
    newcomer = stranger(10)
    me.decide(2.0, me.record((), me.join(newcomer)))
    assert not me.greets(stranger(11))
    assert me.greets(newcomer)
