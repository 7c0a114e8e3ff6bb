"""Where things are: which keys there are, who may write where, and how far is far."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.dht.keys import (
    DIRECTORY_KEYS,
    KEY_BYTES_MAX,
    RELAY_KEYS,
    SUBJECT_CHARS_MAX,
    KeyKind,
    RecordKey,
    blob_providers_key,
    listing_key,
    may_provide,
    note_key,
    own_directory_key,
    own_relay_key,
    parse_key,
    position_of,
    position_of_peer,
    shared_bits,
    swarm_providers_key,
)
from shoal.transport.multiaddrs import peer_bytes
from shoal.transport.wire import Malformed
from tests.dht.peers import identity

PEER = identity(0).peer_id


def test_every_kind_of_key_comes_back_from_its_bytes_within_the_bound() -> None:
    note = note_key("n" * SUBJECT_CHARS_MAX, PEER)
    assert isinstance(note, RecordKey)
    keys = [listing_key(PEER), note]
    assert {key.kind for key in keys} == set(KeyKind)
    for key in keys:
        assert parse_key(key.data) == key
        assert len(key.data) <= KEY_BYTES_MAX


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/shoal",
        "/pk/x",
        f"/ipns/{PEER}",
        f"/shoal/unknown/{PEER}",
        "/shoal/listing/QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",
        f"/shoal/listing/{PEER}/more",
        f"/shoal/listing/x/{PEER}",
        f"/shoal/note/{PEER}",
        f"/shoal/note//{PEER}",
        f"/shoal/note/UPPER/{PEER}",
        f"/shoal/note/a/b/{PEER}",
        f"/shoal/note/{'n' * (SUBJECT_CHARS_MAX + 1)}/{PEER}",
        f"/shoal/listing/{PEER}\n",
    ],
)
def test_keys_outside_the_namespaces_and_keys_without_a_writer_are_refused(text: str) -> None:
    assert isinstance(parse_key(text.encode()), Malformed)


def test_a_note_cannot_be_named_like_another_kind_of_key() -> None:
    assert isinstance(note_key("a/b", PEER), Malformed)
    assert isinstance(note_key("é", PEER), Malformed)


def test_provider_keys_are_multihashes_and_differ_by_what_is_provided() -> None:
    keys = {blob_providers_key(bytes(32)), swarm_providers_key(bytes(32)), *DIRECTORY_KEYS}
    assert len(keys) == 2 + len(DIRECTORY_KEYS)
    assert all(len(key) == 34 and key.startswith(b"\x1e\x20") for key in keys)


def test_a_peer_may_provide_anywhere_but_in_one_shard_of_the_directory_only() -> None:
    for number in range(20):
        peer = identity(number).peer_id
        assert may_provide(peer, blob_providers_key(bytes(32)))
        assert [key for key in DIRECTORY_KEYS if may_provide(peer, key)] == [own_directory_key(peer)]
        assert [key for key in RELAY_KEYS if may_provide(peer, key)] == [own_relay_key(peer)]


def test_the_shards_of_the_directory_are_about_equally_full() -> None:
    shards = [own_directory_key(identity(number).peer_id) for number in range(400)]
    assert {shards.count(key) > 0 for key in DIRECTORY_KEYS} == {True}


def test_a_peer_lies_where_its_id_as_a_key_lies() -> None:
    assert position_of_peer(PEER) == position_of(peer_bytes(PEER))


@given(st.integers(0, 2**256 - 1), st.integers(0, 2**256 - 1))
def test_shared_bits_count_what_two_positions_have_in_common_from_the_front(one: int, other: int) -> None:
    texts = f"{one:0256b}", f"{other:0256b}"
    common = next((place for place in range(256) if texts[0][place] != texts[1][place]), 256)
    assert shared_bits(one, other) == common
