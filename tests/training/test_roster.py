"""The roster stays within its bound, and agrees with a dumb list at every step."""

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from shoal.training.records import (
    Contribution,
    Head,
    Offered,
    Presence,
    Present,
    Standing,
    seal_contribution,
)
from shoal.training.roster import DOUBT_S, GONE_MAX, Roster
from shoal.transport.identity import Identity
from shoal.transport.port import PeerId

SWARM = bytes(32)
PEOPLE = sorted((Identity.from_seed(bytes([n]) * 32) for n in range(6)), key=lambda identity: identity.peer_id)
ME, ANN, BEN, CAT, DAN, EVE = PEOPLE
HERE, THERE = Head(1, bytes(32), bytes(32)), Head(2, b"\x01" * 32, bytes(32))


def present(who: Identity, sequence: int = 1, standing: Standing = Standing.TRAINER) -> Present:
    return Present(who.peer_id, Presence(sequence, standing, (f"/dns4/{sequence}/p2p/{who.peer_id}",)))


def offered(who: Identity) -> Offered:
    return seal_contribution(who, SWARM, 2, Contribution(1, bytes(32), bytes(32), 1, b""))


def roster_with(*who: Identity, members_max: int = 64) -> Roster:
    roster = Roster(ME.peer_id, members_max)
    for each in who:
        assert roster.greet(present(each), HERE)
    return roster


def test_the_newest_presence_by_sequence_is_kept_whatever_the_order() -> None:
    roster = Roster(ME.peer_id, 64)
    assert roster.hear(present(ANN, 5))
    assert not roster.hear(present(ANN, 4))
    assert not roster.hear(present(ANN, 5))
    assert roster.addresses() == {ANN.peer_id: (f"/dns4/5/p2p/{ANN.peer_id}",)}


def test_oneself_is_never_in_it() -> None:
    roster = Roster(ME.peer_id, 64)
    assert not roster.hear(present(ME))
    assert not roster.greet(present(ME), HERE)
    assert roster.table() == ()


def test_who_is_merely_heard_of_is_a_member_but_not_connected() -> None:
    roster = Roster(ME.peer_id, 64)
    roster.hear(present(ANN))
    roster.tell(ANN.peer_id, THERE)
    assert roster.is_member(ANN.peer_id)
    assert roster.connected() == ()
    assert roster.heads(0.0) == {}


def test_who_has_left_is_gone_and_comes_back_only_with_a_newer_word() -> None:
    roster = roster_with(ANN)
    roster.hear(present(ANN, 2, Standing.LEFT))
    assert not roster.is_member(ANN.peer_id)
    assert roster.connected() == ()
    assert not roster.greet(present(ANN, 1), HERE)
    assert roster.greet(present(ANN, 3), HERE)


def test_paused_and_storage_members_are_connected_but_not_expected_to_work() -> None:
    roster = roster_with(ANN, BEN, CAT)
    roster.greet(present(BEN, 2, Standing.PAUSED), HERE)
    roster.greet(present(CAT, 2, Standing.STORAGE), HERE)
    assert roster.at_work(HERE, set()) == {ANN.peer_id}
    assert len(roster.connected()) == 3


def test_at_work_are_those_who_stand_here_or_contributed_to_the_head_and_are_not_idle() -> None:
    roster = roster_with(ANN, BEN, CAT, DAN)
    roster.tell(BEN.peer_id, THERE)
    roster.tell(CAT.peer_id, THERE)
    roster.tell_work(DAN.peer_id, (), 0, is_idle=True)
    assert roster.at_work(HERE, {CAT.peer_id, EVE.peer_id}) == {ANN.peer_id, CAT.peer_id}
    roster.tell_work(DAN.peer_id, (), 0, is_idle=False)
    assert DAN.peer_id in roster.at_work(HERE, set())


def test_a_head_that_was_overtaken_on_its_way_changes_nothing() -> None:
    roster = roster_with(ANN)
    roster.tell(ANN.peer_id, THERE)
    roster.tell(ANN.peer_id, HERE)  # an older message, overtaken on its way
    assert roster.head(ANN.peer_id) == THERE
    assert roster.is_anybody_behind(3)
    assert not roster.is_anybody_behind(2)


def test_what_a_member_holds_and_how_fast_it_fetches_counts_while_it_is_connected() -> None:
    roster = roster_with(ANN, BEN)
    payload = offered(CAT)
    roster.tell_work(ANN.peer_id, (payload.hash,), 500, is_idle=False)
    roster.tell_work(BEN.peer_id, (payload.hash,), 700, is_idle=False)
    roster.tell_work(DAN.peer_id, (payload.hash,), 900, is_idle=False)
    assert sorted(roster.that_hold(payload.hash)) == [ANN.peer_id, BEN.peer_id]
    assert sorted(roster.rates()) == [500, 700]
    roster.tell_work(BEN.peer_id, (), 800, is_idle=False)
    assert roster.that_hold(payload.hash) == [ANN.peer_id]
    roster.lose(ANN.peer_id, 1.0)
    assert roster.that_hold(payload.hash) == []
    assert roster.rates() == [800]


def test_who_went_is_gone_after_a_while_and_not_when_it_comes_back() -> None:
    roster, voters = roster_with(ANN, BEN), (ANN.peer_id, BEN.peer_id)
    roster.lose(ANN.peer_id, 10.0)
    assert roster.gone(13.9, voters, 4.0) == set()
    assert roster.gone(14.0, voters, 4.0) == {ANN.peer_id}
    assert roster.gone(14.0, (BEN.peer_id,), 4.0) == set()
    roster.greet(present(ANN, 2), HERE)
    assert roster.gone(99.0, voters, 4.0) == set()


def test_who_does_not_answer_is_missed_until_it_says_something() -> None:
    roster = roster_with(ANN, BEN)
    roster.miss(ANN.peer_id, 10.0)
    assert roster.is_connected(ANN.peer_id)
    assert roster.present() == {BEN.peer_id}
    roster.miss(ANN.peer_id, 13.0)  # its silence began before
    assert roster.gone(14.0, (ANN.peer_id,), 4.0) == {ANN.peer_id}
    roster.tell(ANN.peer_id, HERE)
    assert roster.present() == {ANN.peer_id, BEN.peer_id}
    assert roster.gone(99.0, (ANN.peer_id,), 4.0) == set()


def test_who_was_never_heard_is_gone_a_while_after_it_was_first_asked_for() -> None:
    roster = roster_with(ANN)
    assert roster.gone(50.0, (EVE.peer_id,), 4.0) == set()
    assert roster.gone(53.9, (EVE.peer_id,), 4.0) == set()
    assert roster.gone(54.0, (EVE.peer_id,), 4.0) == {EVE.peer_id}


def test_a_payload_is_asked_of_its_author_first_then_of_those_who_say_they_have_it() -> None:
    roster = roster_with(ANN, BEN, CAT)
    payload = offered(BEN)
    roster.tell_work(CAT.peer_id, (payload.hash,), 0, is_idle=False)
    assert roster.holders(payload) == (BEN.peer_id, CAT.peer_id, ANN.peer_id)


def test_a_doubted_head_is_ignored_for_longer_each_time_until_it_proves_true() -> None:
    roster = roster_with(ANN)
    for times in range(3):
        roster.doubt(ANN.peer_id, 0.0)
        span = DOUBT_S * 2**times
        assert roster.doubt_ends_at(0.0) == span
        assert roster.heads(span - 0.1) == {}
        assert roster.heads(span) == {HERE: {ANN.peer_id}}
    roster.trust(ANN.peer_id)
    roster.doubt(ANN.peer_id, 0.0)
    assert roster.doubt_ends_at(0.0) == DOUBT_S


def test_a_full_roster_refuses_the_unknown_and_lets_the_connected_displace_the_absent() -> None:
    roster = roster_with(ANN, members_max=3)
    assert roster.hear(present(BEN))
    assert not roster.hear(present(CAT))
    assert roster.greet(present(DAN), HERE)
    assert not roster.is_member(BEN.peer_id)
    assert not roster.greet(present(EVE), HERE)
    roster.hear(present(ANN, 2, Standing.LEFT))
    assert roster.hear(present(CAT))


def test_who_comes_and_goes_under_ever_new_keys_is_forgotten_and_absent_voters_are_not() -> None:
    roster, voters = roster_with(ANN), [ANN.peer_id]
    roster.lose(ANN.peer_id, 0.0)
    strangers = [PeerId(f"m{number}".ljust(52, "-")) for number in range(GONE_MAX + 100)]
    for second, peer in enumerate(strangers):
        assert roster.greet(Present(peer, Presence(1, Standing.TRAINER, ())), HERE)
        roster.lose(peer, float(second))
        assert roster.gone(float(second), voters, 4.0) == ({ANN.peer_id} if second >= 4 else set())
    now = float(GONE_MAX + 200)
    assert roster.gone(now, [ANN.peer_id, strangers[0], strangers[-1]], 4.0) == {ANN.peer_id, strangers[-1]}


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["hear", "greet", "pause", "leave", "lose", "here", "there"]),
        st.integers(1, 5),
        st.integers(1, 4),
    ),
    max_size=40,
)


@given(STEPS)
def test_the_indexes_agree_with_a_walk_over_all_members(steps: Iterable[Step]) -> None:
    roster = Roster(ME.peer_id, 64)
    words: dict[PeerId, Present] = {}
    heads: dict[PeerId, Head] = {}
    for action, number, sequence in steps:
        who = PEOPLE[number]
        peer = who.peer_id
        standing = {"pause": Standing.PAUSED, "leave": Standing.LEFT}.get(action, Standing.TRAINER)
        match action:
            case "lose":
                roster.lose(peer, 0.0)
                heads.pop(peer, None)
            case "here" | "there":
                head = HERE if action == "here" else THERE
                roster.tell(peer, head)
                if peer in heads and heads[peer].round <= head.round:
                    heads[peer] = head
            case _:
                word = present(who, sequence, standing)
                if peer not in words or words[peer].sequence < sequence:
                    words[peer] = word
                    if standing is Standing.LEFT:
                        heads.pop(peer, None)
                (roster.greet(word, HERE) if action != "hear" else roster.hear(word))
                if action != "hear" and words[peer].presence.standing is not Standing.LEFT:
                    heads[peer] = HERE
        trainers = {peer for peer in heads if words[peer].presence.standing is Standing.TRAINER}
        assert roster.connected() == tuple(sorted(heads))
        assert roster.trainers() == trainers
        assert roster.at_work(HERE, set()) == {peer for peer in trainers if heads[peer] == HERE}
        told = roster.heads(0.0)
        assert {peer: head for head, peers in told.items() for peer in peers} == heads
