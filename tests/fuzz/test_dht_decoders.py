"""Whatever bytes come, every decoder of discovery gives a value or one refusal, at once and in little memory."""

import random
from typing import Final

import pytest

from shoal.dht.answering import Answering
from shoal.dht.contacts import ranges_of
from shoal.dht.held import HeldRecords
from shoal.dht.keys import listing_key, note_key, parse_key, position_of_peer
from shoal.dht.listing import ListedSwarm, Listing, listing_body, open_listing
from shoal.dht.lookup import LookupSettings
from shoal.dht.messages import (
    KadMessage,
    MessageKind,
    decode_length,
    decode_message,
    encode_message,
)
from shoal.dht.patience import Patience
from shoal.dht.peer_records import addresses_in, seal_addresses
from shoal.dht.providers import Providers
from shoal.dht.records import Record, open_record, sign_record
from shoal.dht.routing import SAVED_BYTES_MAX, RoutingTable, SavedTable, TableSettings, restored
from shoal.dht.search import Goal, Search
from shoal.transport.multiaddrs import address_of_bytes, peer_of_bytes
from shoal.transport.port import Address, PeerId
from shoal.transport.wire import Malformed, decode, encode
from tests.dht.peers import EPOCH_S, contact, identity
from tests.fuzz.garbage import corpus_of
from tests.fuzz.test_decoders import Decoder, attack

ME: Final = identity(0)
KEY: Final = listing_key(identity(1).peer_id)
RECORD: Final = sign_record(identity(1), KEY, 1, EPOCH_S, b"body")
SEALED: Final = seal_addresses(identity(1), contact(1).addresses, 1)
CONTACTS: Final = tuple(contact(number) for number in range(1, 21))
MESSAGES: Final = [
    KadMessage(MessageKind.FIND_NODE, KEY.data, closer=CONTACTS),
    KadMessage(MessageKind.GET_VALUE, KEY.data, encode(RECORD), closer=CONTACTS[:3], sender_record=SEALED),
    KadMessage(MessageKind.GET_PROVIDERS, bytes(34), providers=CONTACTS),
    KadMessage(MessageKind.PUT_VALUE, KEY.data, encode(RECORD)),
    KadMessage(MessageKind.ADD_PROVIDER, bytes(34), providers=CONTACTS[:1], sender_record=SEALED),
    KadMessage(MessageKind.PING),
]


def body(message: KadMessage) -> bytes:
    data = encode_message(message)
    length = decode_length(data)
    assert isinstance(length, tuple)
    return data[length[1] :]


BODIES: Final = [body(message) for message in MESSAGES]


class Node:
    """A node that has been asked everything that came before."""

    def __init__(self) -> None:
        self.table = RoutingTable(ME.peer_id, TableSettings(), 1)
        held, providers = HeldRecords(position_of_peer(ME.peer_id), 1), Providers(1)
        self.answering = Answering(ME.peer_id, self.table, held, providers)
        self.now = 0.0

    def answer(self, data: bytes) -> object:
        question = decode_message(data)
        if isinstance(question, Malformed):
            return question
        self.now += 1.0
        answer = self.answering.answer(CONTACTS[0].peer, CONTACTS[0].addresses[0], question, self.now, EPOCH_S)
        if isinstance(answer, KadMessage):
            assert isinstance(decode_message(body(answer)), KadMessage)
        return answer

    def hear(self, data: bytes) -> object:
        """An answer to each kind of question."""
        answer = decode_message(data)
        if isinstance(answer, Malformed):
            return answer
        for kind in (MessageKind.FIND_NODE, MessageKind.GET_VALUE, MessageKind.GET_PROVIDERS):
            goal = Goal(kind, answer.key or KEY.data, 1)
            search = Search(goal, ME.peer_id, CONTACTS[:2], LookupSettings(), Patience())
            for ask in search.begin(0.0):
                search.answered(ask.contact.peer, answer, 0.1, EPOCH_S)
            search.corrections()
        return answer


def believe(peer: PeerId, message: bytes, signature: bytes) -> bool:
    return True


def restore(data: bytes) -> object:
    saved = decode(data, SavedTable, SAVED_BYTES_MAX)
    return saved if isinstance(saved, Malformed) else restored(saved)


def keys() -> list[bytes]:
    note = note_key("note", ME.peer_id)
    assert not isinstance(note, Malformed)
    return [KEY.data, note.data, b"/shoal/listing/x"]


def saved() -> list[bytes]:
    table = RoutingTable(ME.peer_id, TableSettings(), 1)
    for each in CONTACTS:
        table.answered(each, None, 0.0)
    return [encode(table.to_save()), *corpus_of(random.Random(2), [SavedTable])]


DECODERS: Final = {
    "kad message": Decoder(decode_message, BODIES),
    "kad length": Decoder(decode_length, [encode_message(message) for message in MESSAGES]),
    "question": Decoder(Node().answer, BODIES),
    "answer": Decoder(Node().hear, BODIES),
    "peer record": Decoder(lambda data: addresses_in(data, identity(1).peer_id), [SEALED]),
    "multiaddr": Decoder(lambda data: address_of_bytes(data, ME.peer_id), [SEALED[-90:], *BODIES]),
    "peer id bytes": Decoder(peer_of_bytes, [bytes.fromhex("002408011220") + bytes(32)]),
    "record": Decoder(
        lambda data: open_record(KEY.data, data, EPOCH_S), [encode(RECORD), *corpus_of(random.Random(3), [Record])]
    ),
    "record of a valid signature": Decoder(
        lambda data: open_record(KEY.data, data, EPOCH_S, believe), [encode(RECORD)]
    ),
    "record key": Decoder(parse_key, keys()),
    "listing": Decoder(
        open_listing,
        [listing_body((ListedSwarm(bytes(32), "name", "invite"),)), *corpus_of(random.Random(4), [Listing])],
    ),
    "saved table": Decoder(restore, saved()),
    "range": Decoder(lambda data: ranges_of(Address(data.decode(errors="replace"))), [b"/ip4/8.8.4.4/tcp/1"]),
}


@pytest.mark.parametrize("name", DECODERS)
def test_any_bytes_are_a_value_or_one_refusal(name: str) -> None:
    attack(DECODERS[name].read, DECODERS[name].corpus, f"dht {name}")


def test_a_peer_that_sends_garbage_gets_nobody_into_the_table() -> None:
    node = Node()
    attack(node.answer, BODIES, "dht table", 300)
    assert len(node.table) == 0
