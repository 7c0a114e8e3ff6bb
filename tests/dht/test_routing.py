"""Whom a node knows: who stays, who may not enter, and what it checks and refreshes when."""

import random
from collections import Counter

import pytest

from shoal.dht.contacts import Contact, ranges_of
from shoal.dht.keys import position_of, position_of_peer, shared_bits
from shoal.dht.routing import (
    CANDIDATES_MAX,
    CHECK_S_MAX,
    CHECKS_MAX,
    RECHECK_S,
    RECHECK_S_MAX,
    REFRESHED_MAX,
    SAVED_BYTES_MAX,
    SAVED_MAX,
    Check,
    Refresh,
    RoutingTable,
    SavedContact,
    SavedTable,
    TableSettings,
    restored,
)
from shoal.transport.identity import peer_id_of
from shoal.transport.multiaddrs import peer_bytes
from shoal.transport.port import Address, PeerId
from shoal.transport.wire import decode, encode

ME = peer_id_of(bytes(32))
SMALL = TableSettings(bucket_size=3, spares=2)


def contact(number: int, host: str = "127.0.0.1") -> Contact:
    peer = peer_id_of(number.to_bytes(32, "big"))
    return Contact(peer, (Address(f"/ip4/{host}/tcp/4001/p2p/{peer}"),))


def far(count: int) -> list[Contact]:
    """Peers of the bucket that shares no bit with ME."""
    contacts = (contact(number) for number in range(1, 10_000))
    found = (each for each in contacts if shared_bits(position_of_peer(each.peer), position_of_peer(ME)) == 0)
    return [each for each, _ in zip(found, range(count), strict=False)]


def table(settings: TableSettings = SMALL) -> RoutingTable:
    return RoutingTable(ME, settings, 1)


def answer(known: RoutingTable, contacts: list[Contact], now: float = 0.0) -> None:
    for each in contacts:
        known.answered(each, each.addresses[0] if each.addresses else None, now)


def checks(known: RoutingTable, now: float) -> list[PeerId]:
    return [effect.contact.peer for effect in known.due(now) if isinstance(effect, Check)]


def test_the_closest_come_first_and_self_is_not_among_them() -> None:
    known = table(TableSettings())
    contacts = [contact(number) for number in range(1, 61)]
    answer(known, [*contacts, Contact(ME)])
    position = position_of(b"target")
    ranked = sorted(known.contacts(), key=lambda each: position_of_peer(each.peer) ^ position)
    assert known.closest(position, 10) == ranked[:10]
    assert ME not in {each.peer for each in known.contacts()}


def test_a_full_bucket_keeps_the_old_and_a_newcomer_waits_for_a_place() -> None:
    known = table()
    one, two, three, newcomer, other = far(5)
    answer(known, [one, two, three, newcomer, other])
    assert set(known.contacts()) == {one, two, three}
    for _ in range(SMALL.failures_max):
        known.failed(two.peer, 1.0)
        answer(known, [one], 1.0)
    assert set(known.contacts()) == {one, three, other}  # the spare heard of last


def test_who_was_heard_of_longest_ago_is_checked_once_somebody_waits_for_its_place() -> None:
    known = table()
    one, two, three, newcomer = far(4)
    answer(known, [one, two, three], 0.0)
    known.due(0.0)
    assert checks(known, SMALL.idle_s) == []
    answer(known, [two], 1.0)
    answer(known, [newcomer], 2.0)
    assert known.deadline == SMALL.idle_s
    assert checks(known, SMALL.idle_s) == [one.peer]
    answer(known, [one], SMALL.idle_s)
    assert checks(known, SMALL.idle_s) == [three.peer]


def test_a_peer_that_fails_is_no_longer_named_is_checked_again_and_comes_back_when_it_answers() -> None:
    known = table()
    one, two = far(2)
    answer(known, [one, two])
    known.due(0.0)
    known.failed(one.peer, 0.0)
    assert known.closest(0, 5) == [two]
    assert known.deadline == RECHECK_S
    assert checks(known, RECHECK_S) == [one.peer]
    answer(known, [one], RECHECK_S)
    assert set(known.closest(0, 5)) == {one, two}


def test_a_node_that_is_cut_off_keeps_whom_it_knows_and_names_them_for_want_of_others() -> None:
    known = table()
    contacts = far(3)
    answer(known, contacts, 0.0)
    for attempt in range(10):
        for each in contacts:
            known.failed(each.peer, 1.0 + attempt)
    assert set(known.contacts()) == set(contacts)
    assert set(known.closest(0, 5)) == set(contacts)


def test_who_only_asks_enters_after_having_answered() -> None:
    known = table()
    one = contact(1)
    known.asked(one, one.addresses[0], 0.0)
    assert len(known) == 0
    assert known.deadline == 0.0
    assert checks(known, 0.0) == [one.peer]
    known.asked(one, one.addresses[0], 0.0)  # while the check is under way
    assert checks(known, 0.0) == []
    answer(known, [one])
    assert len(known) == 1


def test_a_check_that_nobody_reports_on_counts_as_failed() -> None:
    known = table()
    one = contact(1)
    known.asked(one, None, 0.0)
    assert checks(known, 0.0) == [one.peer]
    known.asked(one, None, 1.0)
    assert checks(known, CHECK_S_MAX) == []
    known.asked(one, None, CHECK_S_MAX)
    assert checks(known, CHECK_S_MAX) == [one.peer]


def test_of_many_who_ask_a_few_are_checked_at_a_time_a_bounded_number_waits_and_of_one_range_a_few() -> None:
    known = table(TableSettings())
    for number in range(200):
        known.asked(contact(number), None, 0.0)
    asked: list[PeerId] = []
    while batch := checks(known, 0.0):
        assert len(batch) <= CHECKS_MAX
        asked += batch
        for peer in batch:
            known.failed(peer, 0.0)
    assert len(asked) == CANDIDATES_MAX
    for number in range(200, 300):
        each = contact(number, f"8.8.4.{number % 250}")
        known.asked(each, each.addresses[0], 0.0)
    assert len(checks(known, 0.0)) == TableSettings().narrow_per_bucket


def test_addresses_known_are_kept_when_an_answer_brings_none() -> None:
    known = table()
    one = contact(1)
    answer(known, [one, Contact(one.peer)])
    assert known.contacts() == (one,)


def test_what_others_say_of_a_peers_addresses_does_not_replace_where_it_answered() -> None:
    known = table()
    one = contact(1)
    wrong = Contact(one.peer, (Address(f"/ip4/127.0.0.9/tcp/9/p2p/{one.peer}"),))
    assert known.known(wrong) == wrong
    answer(known, [one])
    assert known.known(wrong) == one


def test_a_peer_that_moves_counts_for_its_new_range() -> None:
    known = table(TableSettings(narrow_in_total=1))
    one, two = contact(1, "8.8.4.4"), contact(2, "8.8.4.5")
    answer(known, [one, two])
    assert known.contacts() == (one,)
    moved = contact(1, "9.9.9.9")
    answer(known, [moved, two])
    assert set(known.contacts()) == {moved, two}


def test_a_relayed_peer_counts_for_its_relay() -> None:
    known = table(TableSettings(narrow_per_bucket=2))
    relay = contact(0).peer
    for each in far(5):
        through = Address(f"/ip4/8.8.4.4/tcp/1/p2p/{relay}/p2p-circuit/p2p/{each.peer}")
        known.answered(Contact(each.peer, (through,)), through, 0.0)
    assert len(known) == 2


def test_everybody_on_a_private_network_may_be_known() -> None:
    known = table(TableSettings(narrow_per_bucket=1, wide_per_bucket=1, narrow_in_total=1, wide_in_total=1))
    answer(known, [contact(number, f"192.168.0.{number}") for number in range(1, 20)])
    assert len(known) == 19


def test_the_own_surroundings_and_every_used_bucket_are_refreshed_once_an_hour_with_keys_that_lie_there() -> None:
    known = table(TableSettings())
    assert known.due(0.0) == []  # nobody to ask
    contacts = [contact(number) for number in range(1, 61)]
    answer(known, contacts)
    position = position_of_peer(ME)
    deepest = max(shared_bits(position, position_of_peer(each.peer)) for each in contacts)
    keys = [effect.key for effect in known.due(0.0) if isinstance(effect, Refresh)]
    assert keys[0] == peer_bytes(ME)
    assert [shared_bits(position, position_of(key)) for key in keys[1:]] == list(range(deepest + 1))
    assert all(2 <= len(key) <= 50 for key in keys)  # what py-libp2p takes as the key of a FIND_NODE
    assert known.due(1.0) == []
    known.looked_up(position_of(keys[1]), 100.0)
    again = [effect for effect in known.due(TableSettings().refresh_s) if isinstance(effect, Refresh)]
    assert len(again) == len(keys) - 1
    assert {effect.key for effect in again[1:]}.isdisjoint(keys)


def test_the_deepest_buckets_are_left_to_the_lookup_of_the_node_itself() -> None:
    known = table(TableSettings())
    position = position_of_peer(ME)
    contacts = [contact(number) for number in range(1, 6000)]
    deep = max(contacts, key=lambda each: shared_bits(position, position_of_peer(each.peer)))
    assert shared_bits(position, position_of_peer(deep.peer)) > REFRESHED_MAX
    answer(known, [deep])
    keys = [effect.key for effect in known.due(0.0) if isinstance(effect, Refresh)]
    assert [shared_bits(position, position_of(key)) for key in keys[1:]] == list(range(REFRESHED_MAX + 1))


def test_a_table_survives_a_restart_as_peers_to_ask_first() -> None:
    known = table(TableSettings())
    contacts = [contact(number) for number in range(1, 41)]
    answer(known, contacts)
    answer(known, contacts[:1], 5.0)
    known.failed(contacts[1].peer, 6.0)
    data = encode(known.to_save())
    saved = decode(data, SavedTable, SAVED_BYTES_MAX)
    assert isinstance(saved, SavedTable)
    back = restored(saved)
    assert set(back) == set(known.contacts())
    assert (back[0], back[-1]) == (contacts[0], contacts[1])


def test_of_a_huge_table_the_best_are_saved_in_a_bounded_file() -> None:
    known = table(TableSettings(bucket_size=SAVED_MAX))
    answer(known, [contact(number) for number in range(1, SAVED_MAX + 100)])
    assert len(known) > SAVED_MAX
    saved = known.to_save()
    assert len(saved.contacts) == SAVED_MAX
    assert len(encode(saved)) < SAVED_BYTES_MAX


def test_a_node_that_is_cut_off_asks_those_it_knows_every_few_minutes() -> None:
    known, now = table(), 1.0
    [one] = far(1)
    answer(known, [one])
    known.due(now)
    pauses: list[float] = []
    for _ in range(9):
        known.failed(one.peer, now)
        pauses.append(known.deadline - now)
        now = known.deadline
        assert checks(known, now) == [one.peer]
    assert pauses[:3] == [RECHECK_S, 2 * RECHECK_S, 4 * RECHECK_S]
    assert pauses[-2:] == [RECHECK_S_MAX, RECHECK_S_MAX]


def test_a_spoiled_file_restores_nothing_that_cannot_be_dialed() -> None:
    one = contact(1)
    lies = [SavedContact(one.peer, ("/ip4/nonsense",)), SavedContact(one.peer, contact(2).addresses)]
    assert restored(SavedTable(1, tuple(lies))) == []


def test_a_node_is_near_a_key_if_fewer_than_k_sound_peers_lie_closer() -> None:
    known = table(TableSettings(bucket_size=2))
    position = position_of(b"key")
    ranked = sorted((contact(number) for number in range(50)), key=lambda each: position_of_peer(each.peer) ^ position)
    closer = [each for each in ranked if position_of_peer(each.peer) ^ position < position_of_peer(ME) ^ position]
    answer(known, closer[:1])
    assert known.is_near(position)
    answer(known, closer[:2])
    assert not known.is_near(position)
    known.failed(closer[0].peer, 1.0)
    assert known.is_near(position)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_no_bucket_and_no_range_has_more_than_its_share(seed: int) -> None:
    chance = random.Random(seed)
    settings = TableSettings(bucket_size=4, spares=2, narrow_per_bucket=2, wide_per_bucket=3, narrow_in_total=3)
    known = table(settings)
    contacts = [contact(number, f"8.{chance.randrange(3)}.{chance.randrange(3)}.{number}") for number in range(150)]
    now = 0.0
    for _ in range(2_000):
        now += chance.choice((0.0, 1.0, 60.0))
        each = chance.choice(contacts)
        match chance.randrange(4):
            case 0 | 1:
                known.answered(each, each.addresses[0], now)
            case 2:
                known.failed(each.peer, now)
            case _:
                known.asked(each, each.addresses[0], now)
        if known.deadline <= now:
            known.due(now)
        there = known.contacts()
        buckets = [shared_bits(position_of_peer(ME), position_of_peer(each.peer)) for each in there]
        ranges = [ranges_of(each.addresses[0]) for each in there]
        narrow = [each.narrow for each in ranges if each]
        wide = [each.wide for each in ranges if each]
        assert max(Counter(buckets).values(), default=0) <= settings.bucket_size
        assert max(Counter(zip(buckets, narrow, strict=True)).values(), default=0) <= settings.narrow_per_bucket
        assert max(Counter(zip(buckets, wide, strict=True)).values(), default=0) <= settings.wide_per_bucket
        assert max(Counter(narrow).values(), default=0) <= settings.narrow_in_total
        assert max(Counter(wide).values(), default=0) <= settings.wide_in_total
    assert len(known) > 10
