"""What a node answers: what it knows, within bounds; and what it refuses to keep."""

import pytest

from shoal.dht.answering import ASKED_BURST, ASKED_PER_S, BUDGETS_MAX, Answering
from shoal.dht.contacts import Contact
from shoal.dht.held import HeldRecords
from shoal.dht.keys import (
    DIRECTORY_KEYS,
    PROVIDER_KEY_BYTES_MAX,
    blob_providers_key,
    note_key,
    own_directory_key,
    position_of,
    position_of_peer,
)
from shoal.dht.messages import CONTACTS_MAX, MESSAGE_BYTES_MAX, PROVIDERS_MAX, KadMessage, MessageKind, encode_message
from shoal.dht.peer_records import seal_addresses
from shoal.dht.providers import Providers
from shoal.dht.records import BODY_BYTES_MAX, LIFETIME_S, Record, sign_record
from shoal.dht.routing import Check, RoutingTable, TableSettings
from shoal.transport.identity import peer_id_of
from shoal.transport.multiaddrs import peer_bytes
from shoal.transport.port import Address
from shoal.transport.wire import Malformed, encode
from tests.dht.peers import EPOCH_S, contact, identity

ME, ASKER, WRITER = identity(0).peer_id, contact(1), identity(2)


class Node:
    """A node that answers, and what it answers from."""

    def __init__(self) -> None:
        self.table = RoutingTable(ME, TableSettings(), 1)
        self.held = HeldRecords(position_of_peer(ME), 1)
        self.providers = Providers(1)
        self.answering = Answering(ME, self.table, self.held, self.providers)

    def answer(self, question: KadMessage, now: float = 0.0) -> KadMessage | Malformed:
        return self.answering.answer(ASKER.peer, ASKER.addresses[0], question, now, EPOCH_S + now)

    def knows(self, count: int) -> list[Contact]:
        contacts = [contact(number) for number in range(100, 100 + count)]
        for each in contacts:
            self.table.answered(each, each.addresses[0], 0.0)
        return contacts


def record(sequence: int = 1, body: bytes = b"body") -> Record:
    key = note_key("note", WRITER.peer_id)
    assert not isinstance(key, Malformed)
    return sign_record(WRITER, key, sequence, EPOCH_S, body)


def put(item: Record) -> KadMessage:
    return KadMessage(MessageKind.PUT_VALUE, item.key, encode(item))


def test_a_ping_comes_back() -> None:
    assert Node().answer(KadMessage(MessageKind.PING)) == KadMessage(MessageKind.PING)


def test_the_closest_peers_are_named_but_not_the_asker_and_a_peer_asked_for_comes_first() -> None:
    node = Node()
    contacts = node.knows(30)
    node.table.answered(ASKER, None, 0.0)
    for each in (contacts[3], ASKER):
        key = peer_bytes(each.peer)
        answer = node.answer(KadMessage(MessageKind.FIND_NODE, key))
        assert isinstance(answer, KadMessage)
        ranked = sorted(node.table.contacts(), key=lambda other: position_of_peer(other.peer) ^ position_of(key))
        assert list(answer.closer) == [other for other in ranked if other != ASKER][:CONTACTS_MAX]


def test_a_record_put_is_confirmed_and_given_to_whoever_asks_until_it_expires() -> None:
    node = Node()
    item = record()
    assert node.answer(put(item)) == KadMessage(MessageKind.PUT_VALUE, item.key, encode(item))
    question = KadMessage(MessageKind.GET_VALUE, item.key)
    assert node.answer(question) == KadMessage(MessageKind.GET_VALUE, item.key, encode(item))
    assert node.answer(question, LIFETIME_S) == KadMessage(MessageKind.GET_VALUE, item.key)


def test_a_node_far_from_a_key_keeps_its_record_for_a_short_time_only() -> None:
    node = Node()
    item = record()
    lying_closer = 0
    for number in range(100, 400):
        each = contact(number)
        if position_of_peer(each.peer) ^ position_of(item.key) < position_of_peer(ME) ^ position_of(item.key):
            node.table.answered(each, None, 0.0)
            lying_closer += 1
    assert not node.table.is_near(position_of(item.key)), lying_closer
    node.answer(put(item))
    answer = node.answer(KadMessage(MessageKind.GET_VALUE, item.key), 3600.0)
    assert isinstance(answer, KadMessage)
    assert answer.value is None


def test_no_record_is_kept_that_is_unsigned_old_or_in_no_namespace() -> None:
    node = Node()
    assert isinstance(node.answer(put(record(2))), KadMessage)
    refused = [
        put(record(1)),
        KadMessage(MessageKind.PUT_VALUE, record().key),
        KadMessage(MessageKind.PUT_VALUE, b"/other/key", encode(record())),
        KadMessage(MessageKind.PUT_VALUE, record().key, encode(record(3))[:-1] + b"\x00"),
        KadMessage(MessageKind.PUT_VALUE, record().key, b"value"),
    ]
    for question in refused:
        assert isinstance(node.answer(question), Malformed)
    assert len(node.held) == 1


def test_a_provider_announces_itself_with_an_address_and_nobody_else() -> None:
    node = Node()
    key = blob_providers_key(bytes(32))
    refused = [
        KadMessage(MessageKind.ADD_PROVIDER, key),
        KadMessage(MessageKind.ADD_PROVIDER, key, providers=(contact(5),)),
        KadMessage(MessageKind.ADD_PROVIDER, key, providers=(Contact(ASKER.peer),)),
        KadMessage(MessageKind.ADD_PROVIDER, b"", providers=(ASKER,)),
        KadMessage(MessageKind.ADD_PROVIDER, bytes(PROVIDER_KEY_BYTES_MAX + 1), providers=(ASKER,)),
    ]
    for question in refused:
        assert isinstance(node.answer(question), Malformed)
    question = KadMessage(MessageKind.ADD_PROVIDER, key, providers=(contact(5), ASKER))
    assert node.answer(question) == KadMessage(MessageKind.ADD_PROVIDER, key)
    assert node.answer(KadMessage(MessageKind.GET_PROVIDERS, key)) == KadMessage(
        MessageKind.GET_PROVIDERS, key, providers=(ASKER,)
    )


def test_in_the_directory_an_announcer_is_taken_at_its_own_shard_only() -> None:
    node = Node()
    for key in DIRECTORY_KEYS:
        answer = node.answer(KadMessage(MessageKind.ADD_PROVIDER, key, providers=(ASKER,)))
        assert isinstance(answer, KadMessage) == (key == own_directory_key(ASKER.peer))


def test_who_asks_is_checked_at_the_addresses_it_says_and_not_believed_before() -> None:
    node = Node()
    listens = Address(f"/ip4/192.0.2.1/tcp/7/p2p/{ASKER.peer}")
    sealed = seal_addresses(identity(1), [listens], 1)
    node.answer(KadMessage(MessageKind.PING, sender_record=sealed))
    assert len(node.table) == 0
    assert node.table.due(0.0) == [Check(Contact(ASKER.peer, (listens,)))]


def test_a_peer_that_asks_too_often_is_refused_until_it_slows_down_and_others_are_not() -> None:
    node = Node()
    ping = KadMessage(MessageKind.PING)
    answers = [node.answer(ping) for _ in range(ASKED_BURST + 1)]
    assert [isinstance(answer, Malformed) for answer in answers] == [False] * ASKED_BURST + [True]
    assert node.answering.answer(contact(3).peer, None, ping, 0.0, EPOCH_S) == ping
    later = [node.answer(ping, 1.0) for _ in range(round(ASKED_PER_S) + 1)]
    assert [isinstance(answer, Malformed) for answer in later] == [False] * round(ASKED_PER_S) + [True]


def test_budgets_are_kept_of_so_many_peers_and_forgotten_with_them() -> None:
    node = Node()
    ping = KadMessage(MessageKind.PING)
    for _ in range(ASKED_BURST):
        node.answer(ping)
    assert isinstance(node.answer(ping), Malformed)
    node.answering.gone(ASKER.peer)
    assert node.answer(ping) == ping
    for _ in range(ASKED_BURST):
        node.answer(ping)
    for number in range(BUDGETS_MAX):
        peer = peer_id_of(number.to_bytes(32, "big"))
        node.answering.answer(peer, None, ping, 0.0, EPOCH_S)
    assert node.answer(ping) == ping  # forgotten for others


def test_the_longest_answer_fits_a_message() -> None:
    node = Node()
    for number in range(100, 140):
        peer = contact(number).peer
        addresses = [Address(f"/dns4/{'a' * 60}.{'b' * 60}.example/tcp/{port}/p2p/{peer}") for port in range(1, 9)]
        node.table.answered(Contact(peer, tuple(addresses)), contact(number).addresses[0], 0.0)
        node.providers.add(record().key, Contact(peer, tuple(addresses)), None, 0.0)
    node.answer(put(record(1, bytes(BODY_BYTES_MAX))))
    for kind, providers_count in ((MessageKind.GET_VALUE, 0), (MessageKind.GET_PROVIDERS, PROVIDERS_MAX)):
        answer = node.answer(KadMessage(kind, record().key))
        assert isinstance(answer, KadMessage)
        assert len(answer.providers) == providers_count
        assert len(answer.closer) == CONTACTS_MAX
        assert len(encode_message(answer)) <= MESSAGE_BYTES_MAX


@pytest.mark.parametrize("kind", MessageKind)
def test_an_empty_question_of_any_kind_gets_an_answer_or_a_refusal(kind: MessageKind) -> None:
    assert isinstance(Node().answer(KadMessage(kind)), KadMessage | Malformed)


def test_who_is_met_in_public_and_listens_only_at_home_is_a_client() -> None:
    node, at_home = Node(), contact(1, "192.168.1.2")
    question = KadMessage(MessageKind.PING, sender_record=seal_addresses(identity(1), at_home.addresses, 1))
    public = contact(1, "8.8.4.4").addresses[0]
    assert node.answering.answer(ASKER.peer, public, question, 0.0, EPOCH_S) == KadMessage(MessageKind.PING)
    assert not node.table.due(0.0)
    assert node.answering.answer(ASKER.peer, at_home.addresses[0], question, 0.0, EPOCH_S)
    assert node.table.due(0.0) == [Check(at_home)]


def test_who_does_not_say_where_it_listens_is_a_client() -> None:
    node = Node()
    node.answer(KadMessage(MessageKind.PING))
    assert not node.table.due(0.0)
