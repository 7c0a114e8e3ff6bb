"""The records held for others: until when, how many, whose, and when they are passed on."""

import random

import pytest

from shoal.dht.held import (
    BYTES_MAX,
    CACHE_S,
    PER_RANGE_MAX,
    PER_WRITER_MAX,
    RECORDS_MAX,
    REPUBLISH_S,
    REPUBLISHED_AT_ONCE_MAX,
    HeldRecords,
)
from shoal.dht.keys import note_key, position_of, position_of_peer
from shoal.dht.records import BODY_BYTES_MAX, LIFETIME_S, Record, sign_record
from shoal.transport.identity import Identity
from shoal.transport.port import Address
from shoal.transport.wire import Malformed
from tests.dht.peers import EPOCH_S, contact, identity

ME = position_of_peer(identity(0).peer_id)
PUBLIC = contact(1, "8.8.4.4").addresses[0]
WRITERS = [identity(number) for number in range(1, 40)]


def record(name: str, writer: Identity = WRITERS[0], sequence: int = 1, body: bytes = b"") -> Record:
    key = note_key(name, writer.peer_id)
    assert not isinstance(key, Malformed)
    return sign_record(writer, key, sequence, EPOCH_S, body)


def put(held: HeldRecords, item: Record, sent_from: Address | None = None, now: float = 0.0) -> Malformed | None:
    return held.put(item, sent_from, True, now, EPOCH_S + now)


def test_a_record_is_held_until_it_expires_and_a_cached_one_for_ten_minutes() -> None:
    held = HeldRecords(ME, 1)
    near, far = record("near"), record("far")
    assert held.put(near, None, True, 100.0, EPOCH_S) is None
    assert held.put(far, None, False, 100.0, EPOCH_S) is None
    assert held.get(far.key, 100 + CACHE_S - 1, EPOCH_S + CACHE_S - 1) == far
    assert held.get(far.key, 100 + CACHE_S, EPOCH_S + CACHE_S) is None
    assert held.get(near.key, 100 + LIFETIME_S - 1, EPOCH_S + LIFETIME_S - 1) == near
    assert held.get(near.key, 100 + LIFETIME_S, EPOCH_S + LIFETIME_S) is None
    held.due(100.0 + LIFETIME_S, EPOCH_S + LIFETIME_S)
    assert len(held) == 0
    assert held.deadline == float("inf")


def test_caching_a_record_again_shortens_nobodys_life() -> None:
    held = HeldRecords(ME, 1)
    item = record("x")
    held.put(item, None, True, 0.0, EPOCH_S)
    held.put(item, None, False, 10.0, EPOCH_S + 10)
    assert held.get(item.key, CACHE_S * 2, EPOCH_S + CACHE_S * 2) == item


def test_a_newer_record_replaces_an_older_one_and_never_the_other_way_round() -> None:
    held = HeldRecords(ME, 1)
    old, new = record("x", sequence=1), record("x", sequence=2)
    assert put(held, new) is None
    assert isinstance(put(held, old), Malformed)
    assert held.get(new.key, 0.0, EPOCH_S) == new
    assert len(held) == 1


def test_one_writer_has_only_so_many_places_and_keeps_those_it_has() -> None:
    held = HeldRecords(ME, 1)
    for number in range(PER_WRITER_MAX):
        assert put(held, record(f"n{number}")) is None
    assert isinstance(put(held, record("one-more")), Malformed)
    assert put(held, record("n0", sequence=2)) is None
    assert put(held, record("other", WRITERS[1])) is None
    assert len(held) == PER_WRITER_MAX + 1


def test_one_range_of_addresses_may_send_only_so_many_and_private_ones_are_no_range() -> None:
    held = HeldRecords(ME, 1)
    for number in range(PER_RANGE_MAX):
        assert put(held, record(f"n{number}", WRITERS[number % 39]), PUBLIC) is None
    newer = record("n0", WRITERS[0], sequence=2)
    assert isinstance(put(held, record("more", WRITERS[1]), PUBLIC), Malformed)
    assert put(held, newer, PUBLIC) is None
    assert put(held, record("more", WRITERS[1]), contact(1).addresses[0]) is None


def test_a_refused_newer_record_leaves_the_older_one_in_place() -> None:
    held = HeldRecords(ME, 1)
    first = record("x", WRITERS[38])
    assert put(held, first) is None
    for number in range(PER_RANGE_MAX):
        assert put(held, record(f"n{number}", WRITERS[number % 38]), PUBLIC) is None
    assert isinstance(put(held, record("x", WRITERS[38], sequence=2), PUBLIC), Malformed)
    assert held.get(first.key, 0.0, EPOCH_S) == first


def test_a_full_node_keeps_what_lies_closest_to_it() -> None:
    held = HeldRecords(ME, 1)
    records = [record(f"n{number}", WRITERS[number % 39]) for number in range(RECORDS_MAX + 500)]
    for item in records:
        put(held, item)
    assert len(held) == RECORDS_MAX
    kept = {item.key for item in records if held.get(item.key, 0.0, EPOCH_S)}
    assert kept == set(sorted((item.key for item in records), key=lambda key: position_of(key) ^ ME)[:RECORDS_MAX])


def test_bytes_are_bounded_as_well_as_records() -> None:
    held = HeldRecords(ME, 1)
    fitting = BYTES_MAX // (BODY_BYTES_MAX + 1000)
    for number in range(fitting + 200):
        put(held, record(f"n{number}", WRITERS[number % 39], body=bytes(BODY_BYTES_MAX)))
    assert fitting <= len(held) <= BYTES_MAX // BODY_BYTES_MAX


def test_each_record_is_passed_on_about_every_hour_unless_somebody_else_just_did() -> None:
    held = HeldRecords(ME, 1)
    first, second = record("a"), record("b")
    put(held, first)
    put(held, second)
    assert held.due(REPUBLISH_S - 1, EPOCH_S + REPUBLISH_S - 1) == []
    put(held, second, now=REPUBLISH_S - 1)
    assert held.due(2 * REPUBLISH_S - 1, EPOCH_S + 2 * REPUBLISH_S - 1)[0] == first
    now, times = 0.0, 0
    while now < 24 * 3600:
        now = max(now + 1, held.deadline)
        times += first in held.due(now, EPOCH_S + now)
    assert 11 <= times <= 24


def test_only_a_few_are_passed_on_at_a_time_and_none_is_forgotten() -> None:
    held = HeldRecords(ME, 1)
    records = [record(f"n{number}") for number in range(30)]
    for item in records:
        put(held, item)
    passed: list[Record] = []
    while len(passed) < 30:
        some = held.due(2 * REPUBLISH_S, EPOCH_S + 2 * REPUBLISH_S)
        assert 0 < len(some) <= REPUBLISHED_AT_ONCE_MAX
        passed += some
    assert {item.key for item in passed} == {item.key for item in records}


@pytest.mark.parametrize("seed", range(5))
def test_held_is_what_a_dumb_twin_holds(seed: int) -> None:
    chance = random.Random(seed)
    held = HeldRecords(ME, seed)
    twin: dict[bytes, tuple[Record, float]] = {}
    now = 0.0
    for _ in range(300):
        now += chance.choice((0.0, 1.0, 400.0, 4000.0))
        item = record(f"n{chance.randrange(6)}", sequence=chance.randrange(3))
        is_near = chance.random() < 0.5
        lives_s = item.expires_at - EPOCH_S - now
        old = twin.get(item.key)
        if lives_s > 0:
            refused = held.put(item, None, is_near, now, EPOCH_S + now) is not None
            assert refused == (old is not None and old[1] > now and old[0].rank > item.rank)
            if not refused:
                until = now + (lives_s if is_near else min(lives_s, CACHE_S))
                twin[item.key] = (item, max(until, old[1]) if old is not None and old[0] == item else until)
        if held.deadline <= now:
            held.due(now, EPOCH_S + now)
        for key, (known, until) in twin.items():
            assert held.get(key, now, EPOCH_S + now) == (known if until > now else None)


def test_a_record_replaced_again_and_again_is_passed_on_once_in_its_newest_form() -> None:
    held = HeldRecords(ME, 1)
    items = [record("x", sequence=sequence) for sequence in range(1, 5 * REPUBLISHED_AT_ONCE_MAX)]
    for now, item in enumerate(items):
        assert put(held, item, now=float(now)) is None
    assert held.due(3 * REPUBLISH_S, EPOCH_S + 3 * REPUBLISH_S) == [items[-1]]
    assert held.due(3 * REPUBLISH_S, EPOCH_S + 3 * REPUBLISH_S) == []
