"""Whom a lookup asks: closer and closer, in parallel, on paths of their own, around the silent and the lying."""

import random
from collections.abc import Iterable

import pytest

from shoal.dht.contacts import Contact
from shoal.dht.keys import position_of, position_of_peer
from shoal.dht.lookup import (
    ASKED_MAX,
    LOOKUP_S_MAX,
    NAMED_MAX,
    Lookup,
    LookupSettings,
)
from shoal.dht.patience import FIRST_S, Patience
from shoal.transport.identity import peer_id_of
from shoal.transport.port import Address, PeerId

TARGET = position_of(b"target")
ME = peer_id_of(bytes(32))


def contact(number: int, host: str = "127.0.0.1") -> Contact:
    peer = peer_id_of(number.to_bytes(32, "big"))
    return Contact(peer, (Address(f"/ip4/{host}/tcp/4001/p2p/{peer}"),))


def distance(each: Contact) -> int:
    return position_of_peer(each.peer) ^ TARGET


# By distance from the target, closest first.
PEERS = sorted((contact(number) for number in range(1, 400)), key=distance)


def lookup(start: Iterable[Contact], wanted: int = 4, parallelism: int = 3, paths: int = 1) -> Lookup:
    return Lookup(TARGET, ME, start, LookupSettings(wanted, parallelism, paths), Patience())


def test_it_asks_the_closest_it_knows_as_many_at_once_as_allowed_and_each_answer_brings_the_next() -> None:
    search = lookup(PEERS[10:20])
    assert search.begin(0.0) == PEERS[10:13]
    assert search.answered(PEERS[10].peer, PEERS[0:3], 0.1) == [PEERS[0]]
    assert search.answered(PEERS[11].peer, PEERS[0:3], 0.1) == [PEERS[1]]
    assert search.failed(PEERS[12].peer, 0.1) == [PEERS[2]]
    assert not search.is_over
    for each in PEERS[0:3]:
        search.answered(each.peer, PEERS[0:4], 0.2)
    search.answered(PEERS[3].peer, [], 0.3)
    assert search.is_over
    assert search.closest == tuple(PEERS[0:4])
    assert (search.asked_count, search.hop_count) == (7, 3)
    assert search.deadline == float("inf")


def test_it_is_over_at_once_where_nobody_is_known_and_never_asks_its_own_node() -> None:
    search = lookup([Contact(ME)])
    assert search.begin(0.0) == []
    assert search.is_over
    other = lookup(PEERS[:1])
    other.begin(0.0)
    assert other.answered(PEERS[0].peer, [Contact(ME)], 0.1) == []
    assert other.is_over


def test_a_silent_peer_no_longer_counts_against_the_parallelism_then_no_longer_holds_up_the_end() -> None:
    search = lookup(PEERS[:4], wanted=2, parallelism=1)
    assert search.begin(0.0) == PEERS[:1]
    assert search.deadline == FIRST_S
    assert search.woken(FIRST_S) == [PEERS[1]]
    assert search.answered(PEERS[1].peer, [], FIRST_S + 0.3) == []
    assert not search.is_over
    same = Patience()
    same.answered(0.3)
    given_up_at = same.give_up_s
    assert search.deadline == pytest.approx(given_up_at)
    assert list(search.silent) == []
    assert search.woken(search.deadline) == [PEERS[2]]  # in its place
    assert list(search.silent) == [PEERS[0].peer]
    search.answered(PEERS[2].peer, [], given_up_at + 0.1)
    assert search.is_over
    assert search.closest == (PEERS[1], PEERS[2])


def test_a_late_answer_counts_as_long_as_the_lookup_goes_on() -> None:
    search = lookup(PEERS[:3], wanted=2, parallelism=1)
    search.begin(0.0)
    while not search.silent:
        search.woken(search.deadline)
    assert list(search.silent) == [PEERS[0].peer]
    search.answered(PEERS[0].peer, [], Patience().give_up_s + 0.1)
    assert list(search.silent) == []
    assert PEERS[0] in search.closest


def test_when_this_node_itself_was_busy_nobody_counts_as_silent_for_that_long() -> None:
    search = lookup(PEERS[:6], wanted=6, parallelism=3)
    search.begin(0.0)
    search.answered(PEERS[0].peer, [], 0.010)
    silence_s = search.deadline
    busy_until = search.deadline + 10.0
    search.woken(busy_until)
    assert list(search.silent) == []
    search.woken(search.deadline)
    assert busy_until < search.deadline <= busy_until + silence_s


def test_every_peer_is_asked_once_whatever_comes_twice_or_from_strangers() -> None:
    search = lookup(PEERS[:2], parallelism=2)
    search.begin(0.0)
    assert search.answered(PEERS[50].peer, PEERS[60:70], 0.1) == []
    search.answered(PEERS[0].peer, PEERS[:3], 0.1)
    assert search.answered(PEERS[0].peer, PEERS[5:9], 0.1) == []
    assert search.failed(PEERS[0].peer, 0.1) == []
    assert search.asked_count == 3


def test_of_one_answer_only_the_closest_few_are_taken() -> None:
    many = sorted((contact(number) for number in range(500, 560)), key=distance)
    search = lookup(PEERS[:1], wanted=100, parallelism=200)
    search.begin(0.0)
    assert search.answered(PEERS[0].peer, many, 0.1) == many[:NAMED_MAX]


def test_a_path_considers_few_peers_of_one_range_of_addresses_whoever_names_them() -> None:
    crowd = sorted((contact(number, f"8.8.4.{number % 250}") for number in range(600, 620)), key=distance)
    hiding = [Contact(each.peer, (contact(1).addresses[0], *each.addresses)) for each in crowd]
    search = lookup(PEERS[:4], wanted=100, parallelism=200)
    search.begin(0.0)
    limit = LookupSettings().narrow_per_path
    asked = search.answered(PEERS[0].peer, crowd[:3], 0.1)
    asked += search.answered(PEERS[1].peer, crowd[3:], 0.1)
    asked += search.answered(PEERS[2].peer, hiding, 0.1)
    assert asked == crowd[:limit]
    others = [contact(number, f"8.8.{number % 250}.1") for number in range(600, 620)]
    assert len(search.answered(PEERS[3].peer, others, 0.1)) == 20 - limit


def test_paths_are_disjoint_a_liar_on_one_does_not_steer_the_others() -> None:
    search = lookup(PEERS[20:26], wanted=4, parallelism=2, paths=2)
    liar, honest = search.begin(0.0)
    lies = PEERS[0:3]  # nobody is there
    asked = search.answered(liar.peer, lies, 0.1)
    assert asked == [lies[0]]
    assert search.answered(honest.peer, PEERS[5:10], 0.1) == [PEERS[5]]  # this path has not heard of the lies
    now = 0.1
    under_way = {PEERS[5].peer}
    for _ in range(50):
        now += 0.1
        for peer in sorted(under_way):
            under_way.discard(peer)
            more = search.answered(peer, PEERS[5:10], now)
            under_way |= {each.peer for each in more} - {each.peer for each in lies}
        if search.is_over:
            break
        if not under_way:
            now = search.deadline
            under_way |= {each.peer for each in search.woken(now)} - {each.peer for each in lies}
    assert search.is_over
    assert set(PEERS[5:8]) <= set(search.closest)


def test_a_liar_who_names_sound_peers_at_wrong_addresses_does_not_take_them_from_the_other_paths() -> None:
    search = lookup(PEERS[20:22], wanted=4, parallelism=2, paths=2)
    liar, honest = search.begin(0.0)
    wrong = [Contact(each.peer, (Address(f"/ip4/127.0.0.9/tcp/9/p2p/{each.peer}"),)) for each in PEERS[0:3]]
    assert search.answered(liar.peer, wrong, 0.1) == wrong[:1]
    assert search.failed(wrong[0].peer, 0.2) == wrong[1:2]
    assert search.answered(honest.peer, PEERS[0:3], 0.3) == PEERS[0:1]
    assert search.failed(PEERS[0].peer, 0.4) == [PEERS[2]]  # at neither address: not again
    assert search.failed(wrong[1].peer, 0.4) == [PEERS[1]]


def test_of_one_range_no_more_are_found_on_all_paths_than_on_one() -> None:
    crowd = sorted((contact(number, f"8.8.4.{number % 250}") for number in range(600, 620)), key=distance)
    search = lookup([*crowd[:3], *PEERS[:2], *crowd[3:5], PEERS[2]], wanted=8, parallelism=10, paths=2)
    for each in search.begin(0.0):
        search.answered(each.peer, [], 0.1)
    found = search.closest
    assert len(set(found) & set(crowd)) == LookupSettings().narrow_per_path
    assert set(PEERS[:2]) <= set(found)
    assert list(found) == sorted(found, key=distance)


def test_a_liar_who_names_ever_closer_peers_is_asked_a_bounded_number_of_times() -> None:
    search = lookup(PEERS[-1:], wanted=4, parallelism=1)
    chain = list(reversed(PEERS[:-1]))  # ever closer, without end
    asked = search.begin(0.0)
    now = 0.0
    while not search.is_over:
        now += 0.01
        [each] = asked
        asked = search.answered(each.peer, [chain.pop(0)], now)
    assert search.asked_count == ASKED_MAX


def test_whatever_the_peers_do_it_ends_in_time() -> None:
    patience = Patience()
    for _ in range(20):
        patience.answered(1.0)
    search = Lookup(TARGET, ME, PEERS, LookupSettings(60, 1, 1), patience)
    asked = search.begin(0.0)
    while not search.is_over:
        asked += search.woken(search.deadline)
    assert len(asked) <= LOOKUP_S_MAX + 1


def test_paths_that_begin_with_nobody_share_the_first_answer() -> None:
    search = lookup(PEERS[10:11], parallelism=3, paths=3)
    search.begin(0.0)
    assert search.answered(PEERS[10].peer, PEERS[:6], 0.1) == PEERS[:3]


@pytest.mark.parametrize("seed", range(20))
def test_in_a_network_of_which_everybody_knows_a_part_the_closest_are_found(seed: int) -> None:
    """Random answers, failures and silences in any order; the invariants of every step."""
    chance = random.Random(seed)
    settings = LookupSettings(wanted=8, parallelism=3, paths=chance.choice((1, 2, 3)))
    knows = {each.peer: {*chance.sample(PEERS, 40), *PEERS[:12]} for each in PEERS}
    dead = {each.peer for each in chance.sample(PEERS, 100)}
    search = Lookup(TARGET, ME, chance.sample(PEERS, 20), settings, Patience())
    now = 0.0
    under_way: list[tuple[float, PeerId]] = []
    asked: set[PeerId] = set()

    def ask(contacts: list[Contact]) -> None:
        for each in contacts:
            assert each.peer not in asked
            asked.add(each.peer)
            if each.peer not in dead or chance.random() < 0.5:
                under_way.append((now + chance.uniform(0.01, 0.3), each.peer))

    ask(search.begin(now))
    while not search.is_over:
        under_way.sort()
        if under_way and under_way[0][0] <= search.deadline:
            now, peer = under_way.pop(0)
            if peer in dead:
                ask(search.failed(peer, now))
            else:
                ask(search.answered(peer, sorted(knows[peer], key=distance)[:20], now))
        else:
            now = search.deadline
            ask(search.woken(now))
    assert now <= LOOKUP_S_MAX
    assert len(search.closest) == 8
    assert dead.isdisjoint(each.peer for each in search.closest)
    alive = [each for each in PEERS if each.peer not in dead]
    assert set(alive[:5]) <= set(search.closest)
