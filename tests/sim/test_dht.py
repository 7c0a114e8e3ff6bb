"""A network of DHT nodes on a virtual clock: what lookups cost, and what dead, frozen and lying peers change about it.

The sizes of `make test` are small; `python -m bench.dht_sim` runs a thousand nodes.
"""

from itertools import pairwise

import pytest

from shoal.dht.keys import (
    RecordKey,
    blob_providers_key,
    directory_key,
    note_key,
    own_directory_key,
    position_of,
    position_of_peer,
)
from shoal.dht.lookup import LookupSettings
from shoal.dht.messages import MessageKind
from shoal.dht.records import Record
from shoal.dht.routing import TableSettings
from shoal.dht.search import Goal, Search
from tests.fuzz.garbage import IS_SOAK
from tests.sim.dht_network import ASK_S_MAX, EPOCH_S, Fate, Network, Node

K = 8
TABLE = TableSettings(bucket_size=K, narrow_in_total=K // 2)
NODES = 240 if IS_SOAK else 80
GETS = 120 if IS_SOAK else 40


def network(count: int = NODES, seed: int = 1) -> Network:
    nodes = Network(seed, LookupSettings(wanted=K), TABLE)
    nodes.grow(count)
    return nodes


def stored(nodes: Network, count: int = GETS) -> list[Record]:
    return [nodes.store(nodes.any_sound(), f"n{number}") for number in range(count)]


def stranger(nodes: Network, record: Record) -> Node:
    """Somebody who does not hold the record."""
    while True:
        node = nodes.any_sound()
        if node.held.get(record.key, nodes.now, nodes.now + EPOCH_S) is None:
            return node


def gets(nodes: Network, records: list[Record]) -> tuple[list[Search], list[float]]:
    searches: list[Search] = []
    spans: list[float] = []
    for record in records:
        search, span_s = nodes.get(stranger(nodes, record), record.key)
        nodes.run()
        assert search.record == record
        searches.append(search)
        spans.append(span_s)
    return searches, sorted(spans)


def test_a_record_is_stored_at_the_closest_and_found_by_anybody_in_a_few_hops() -> None:
    nodes = network()
    records = stored(nodes)
    for record in records:
        closest = nodes.closest_sound(position_of(record.key), K)
        holders = {node.identity.peer_id for node in nodes.holders(record.key)}
        assert len(holders) >= K - 1
        assert set(closest[: K // 2]) - {record.key.rpartition(b"/")[2].decode()} <= holders
    searches, _ = gets(nodes, records)
    assert max(search.hop_count for search in searches) <= 4
    assert sum(search.asked_count for search in searches) / GETS <= 2 * K


def test_with_three_in_ten_killed_every_get_succeeds_the_holders_among_the_dead() -> None:
    nodes = network()
    records = stored(nodes)
    nodes.strike(0.3, Fate.KILLED)
    gets(nodes, records)


def test_with_three_in_ten_frozen_every_get_succeeds_and_hardly_any_waits_for_a_timeout() -> None:
    nodes = network()
    records = stored(nodes)
    _, before_s = gets(nodes, records)
    nodes.strike(0.3, Fate.FROZEN)
    _, after_s = gets(nodes, records)
    assert after_s[GETS // 2] <= 3 * before_s[GETS // 2]
    assert after_s[-1] < ASK_S_MAX / 2


def test_liars_who_name_made_up_peers_close_to_everything_hide_no_record() -> None:
    nodes = network(NODES - NODES // 10)
    nodes.grow(NODES // 10, Fate.LIAR)
    records = stored(nodes)
    searches, spans_s = gets(nodes, records)
    assert spans_s[GETS // 2] < 0.5
    assert max(search.asked_count for search in searches) <= 8 * K


def test_one_range_of_addresses_cannot_fill_the_tables_of_others() -> None:
    nodes = network(50)
    nodes.grow(25, Fate.LIAR, lambda number: f"8.8.4.{number}")
    for node in nodes.sound():
        crowd = [each for each in node.table.contacts() if each.addresses[0].startswith("/ip4/8.8.4.")]
        assert len(crowd) <= TABLE.narrow_in_total
    gets(nodes, stored(nodes))


def test_ids_made_to_surround_a_key_from_one_range_of_addresses_do_not_hide_it() -> None:
    nodes = network(60)
    writer, getter = nodes.sound()[:2]
    key = note_key("wanted", writer.identity.peer_id)
    assert isinstance(key, RecordKey)
    position = position_of(key.data)
    surrounding = nodes.grow(2 * K, Fate.LIAR, lambda number: f"8.8.4.{number}", near=position)
    everybody = sorted(nodes.nodes, key=lambda peer: position_of_peer(peer) ^ position)
    assert {node.identity.peer_id for node in surrounding} == set(everybody[: 2 * K])
    record = nodes.store(writer, "wanted")
    search, _ = nodes.get(getter, record.key)
    assert search.record == record


def test_newcomers_find_what_was_stored_before_them_and_what_the_dead_held_is_passed_on() -> None:
    nodes = network()
    records = stored(nodes, 10)
    nodes.grow(5)
    newest = list(nodes.nodes.values())[-1]
    for record in records:
        search, _ = nodes.get(newest, record.key)
        assert search.record == record
    record = records[0]
    for holder in nodes.holders(record.key)[1:]:
        holder.fate = Fate.KILLED
    nodes.now += 2 * 3600
    nodes.republish()
    assert len([node for node in nodes.holders(record.key) if node.fate is Fate.SOUND]) >= K - 1


def test_whoever_provides_is_found_and_the_directory_is_read_whole() -> None:
    nodes = network()
    holders = [nodes.any_sound() for _ in range(3)]
    key = blob_providers_key(bytes(range(32)))
    for holder in holders:
        assert nodes.provide(holder, key) >= K - 1
        assert nodes.provide(holder, own_directory_key(holder.identity.peer_id)) >= K - 1
    asker = nodes.any_sound()
    search, _ = nodes.search(asker, Goal(MessageKind.GET_PROVIDERS, key))
    assert {each.peer for each in search.providers} == {holder.identity.peer_id for holder in holders}
    listed = {
        each.peer
        for shard in range(16)
        for each in nodes.search(asker, Goal(MessageKind.GET_PROVIDERS, directory_key(shard)))[0].providers
    }
    assert listed == {holder.identity.peer_id for holder in holders}


def test_the_same_seed_gives_the_same_network_to_the_last_message() -> None:
    runs = [network(40, seed=3) for _ in range(2)]
    for one, other in pairwise(runs):
        assert one.now == other.now
        assert [node.asked_count for node in one.nodes.values()] == [node.asked_count for node in other.nodes.values()]


@pytest.mark.parametrize("count", [2, 3, 8])
def test_in_the_smallest_networks_everybody_knows_everybody(count: int) -> None:
    nodes = network(count)
    assert {len(node.table) for node in nodes.nodes.values()} == {count - 1}
