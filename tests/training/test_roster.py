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
from shoal.training.roster import DOUBT_S, Roster
from shoal.transport.identity import Identity
from shoal.transport.port import PeerId

SWARM = bytes(32)
PEOPLE = sorted((Identity.from_seed(bytes([n]) * 32) for n in range(6)), key=lambda identity: identity.peer_id)
ME, ANN, BEN, CAT, DAN, EVE = PEOPLE
HERE, THERE = Head(1, bytes(32), bytes(32)), Head(2, b"\x01" * 32, bytes(32))


def present(who: Identity, sequence: int = 1, standing: Standing = Standing.TRAINER) -> Present:
    return Present(who.peer_id, Presence(sequence, standing, (f"/dns4/{sequence}/p2p/{who.peer_id}",)))


def offered(who: Identity) -> Offered:
    return seal_contribution(who, SWARM, 2, Contribution(bytes(32), bytes(32), 1, b""))


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
    roster.tell_work(DAN.peer_id, (), is_idle=True)
    assert roster.at_work(HERE, {CAT.peer_id, EVE.peer_id}) == {ANN.peer_id, CAT.peer_id}
    roster.tell_work(DAN.peer_id, (), is_idle=False)
    assert DAN.peer_id in roster.at_work(HERE, set())


def test_a_payload_is_asked_of_its_author_first_then_of_those_who_say_they_have_it() -> None:
    roster = roster_with(ANN, BEN, CAT)
    payload = offered(BEN)
    roster.tell_work(CAT.peer_id, (payload.hash,), is_idle=False)
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
                roster.lose(peer)
                heads.pop(peer, None)
            case "here" | "there":
                head = HERE if action == "here" else THERE
                roster.tell(peer, head)
                if peer in heads:
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
