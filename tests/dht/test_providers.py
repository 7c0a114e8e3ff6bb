"""Who provides where: for how long, how many, and whom a crowd cannot push out."""

import random

import pytest

from shoal.dht.contacts import Contact
from shoal.dht.keys import DIRECTORY_KEYS, blob_providers_key, own_directory_key
from shoal.dht.messages import PROVIDERS_MAX
from shoal.dht.providers import (
    ENTRIES_MAX,
    NARROW_PER_KEY_MAX,
    PER_KEY_MAX,
    PER_PROVIDER_MAX,
    PROVIDER_S,
    SWEEP_S,
    SWEPT_MAX,
    WIDE_PER_KEY_MAX,
    Providers,
)
from shoal.transport.identity import peer_id_of
from shoal.transport.port import Address, PeerId
from shoal.transport.wire import Malformed
from tests.dht.peers import contact

KEY = blob_providers_key(bytes(32))


def peer(number: int) -> PeerId:
    return peer_id_of(number.to_bytes(32, "big"))


def provider(number: int, host: str = "127.0.0.1") -> Contact:
    return Contact(peer(number), (Address(f"/ip4/{host}/tcp/4001/p2p/{peer(number)}"),))


def add(providers: Providers, number: int, host: str = "127.0.0.1", key: bytes = KEY) -> Malformed | None:
    item = provider(number, host)
    return providers.add(key, item, item.addresses[0], 0.0)


def test_an_announcement_lives_for_a_day_and_a_half_from_the_last_time() -> None:
    providers = Providers(1)
    providers.add(KEY, contact(1), None, 0.0)
    providers.add(KEY, contact(2), None, 0.0)
    providers.add(KEY, contact(2), None, 100.0)
    assert providers.get(KEY, PROVIDER_S - 1) == (contact(1), contact(2))
    assert providers.get(KEY, PROVIDER_S) == (contact(2),)
    providers.expire(PROVIDER_S)
    assert len(providers) == 1
    assert providers.deadline == PROVIDER_S + SWEEP_S
    providers.expire(PROVIDER_S + 100)
    assert (len(providers), providers.deadline) == (0, float("inf"))


def test_a_sweep_looks_at_a_part_of_all_that_is_held_and_the_next_ones_at_the_rest() -> None:
    providers = Providers(1)
    for number in range(3 * SWEPT_MAX):
        add(providers, number % 5, key=number.to_bytes(34, "big"))
    left = [len(providers)]
    for sweep in range(3):
        providers.expire(PROVIDER_S + sweep)
        left.append(len(providers))
    assert left == [3 * SWEPT_MAX, 2 * SWEPT_MAX, SWEPT_MAX, 0]


@pytest.mark.parametrize("seed", range(5))
def test_providers_are_those_of_a_dumb_twin(seed: int) -> None:
    chance = random.Random(seed)
    providers = Providers(seed)
    twin: dict[bytes, dict[PeerId, float]] = {bytes([key]) * 34: {} for key in range(4)}
    now = 0.0
    for _ in range(500):
        now += chance.choice((0.0, 100.0, PROVIDER_S / 10))
        key, number = chance.choice(list(twin)), chance.randrange(12)
        assert providers.add(key, provider(number), None, now) is None
        twin[key][peer(number)] = now + PROVIDER_S
        if providers.deadline <= now:
            providers.expire(now)
            twin = {key: {each: until for each, until in there.items() if until > now} for key, there in twin.items()}
            assert len(providers) == sum(map(len, twin.values()))
        for key, there in twin.items():
            known = {each for each, until in there.items() if until > now}
            assert {each.peer for each in providers.get(key, now)} == known


def test_an_answer_names_only_so_many_and_other_ones_from_holder_to_holder() -> None:
    one, other = Providers(1), Providers(2)
    for number in range(100):
        add(one, number)
        add(other, number)
    assert len(one.get(KEY, 0.0)) == len(other.get(KEY, 0.0)) == PROVIDERS_MAX
    assert one.get(KEY, 0.0) == one.get(KEY, 0.0)
    assert len({*one.get(KEY, 0.0), *other.get(KEY, 0.0)}) > PROVIDERS_MAX * 3 // 2


def test_one_range_of_addresses_has_only_so_many_places_at_a_key() -> None:
    providers = Providers(1)
    results = [add(providers, number, f"8.8.4.{number}") for number in range(NARROW_PER_KEY_MAX + 5)]
    assert results.count(None) == NARROW_PER_KEY_MAX
    wide = [add(providers, 100 + number, f"8.8.{number}.1") for number in range(5, 5 + WIDE_PER_KEY_MAX)]
    assert wide.count(None) == WIDE_PER_KEY_MAX - NARROW_PER_KEY_MAX
    assert add(providers, 500, "8.9.0.1") is None


def test_a_crowd_of_one_range_gives_way_to_newcomers_of_others_and_newcomers_of_its_own_do_not_fit() -> None:
    providers = Providers(1)
    for number in range(PER_KEY_MAX):
        assert add(providers, number) is None  # private addresses: no bound but this one
    assert isinstance(add(providers, PER_KEY_MAX), Malformed)
    for number in range(100):
        assert add(providers, 1000 + number, f"20.{number}.0.1") is None
    assert len(providers) == PER_KEY_MAX
    assert add(providers, 0) is None  # the oldest of the crowd is still there: a renewal
    assert isinstance(add(providers, PER_KEY_MAX - 1), Malformed)  # its newest made room


def test_a_full_key_of_many_ranges_turns_newcomers_away() -> None:
    providers = Providers(1)
    for number in range(PER_KEY_MAX):
        assert add(providers, number, f"20.{number}.0.1") is None
    assert isinstance(add(providers, 999, "30.0.0.1"), Malformed)
    assert add(providers, 5, "20.5.0.1") is None  # a renewal needs no room


def test_one_provider_and_all_together_have_only_so_many_places() -> None:
    providers = Providers(1)
    crowd = ENTRIES_MAX // PER_PROVIDER_MAX
    keys = [number.to_bytes(34, "big") for number in range(PER_PROVIDER_MAX)]
    for number in range(crowd):
        assert add(providers, number) is None
        for key in keys[1:]:
            assert add(providers, number, key=key) is None
        assert isinstance(add(providers, number, key=keys[0]), Malformed)
    assert len(providers) == ENTRIES_MAX
    assert isinstance(add(providers, crowd), Malformed)
    assert add(providers, crowd, "8.8.4.4") is None  # another range has had its place taken by the crowd
    assert len(providers) == ENTRIES_MAX


def test_in_the_directory_a_peer_has_one_shard() -> None:
    providers = Providers(1)
    taken = [key for key in DIRECTORY_KEYS if add(providers, 1, key=key) is None]
    assert taken == [own_directory_key(peer(1))]
