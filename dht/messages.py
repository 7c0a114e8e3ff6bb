"""The messages of libp2p's Kademlia, `/ipfs/kad/1.0.0` (libp2p specs, kad-dht): Protocol Buffers behind their length.

One message type asks and answers. Several questions may follow one another on a stream; answers keep their order.
A record's own `author` and `signature` are not read, our records carry theirs inside the value; nor are the signed
records of peers other than the sender: whom an address leads to is proved when it is dialed.

What a malicious peer may send: any bytes up to MESSAGE_BYTES_MAX. What it achieves: a value or one Malformed. Of one
answer at most CONTACTS_MAX closer peers and PROVIDERS_MAX providers are read, of each at most CONTACT_ADDRESSES_MAX
addresses; peers and addresses that we could not dial (other keys, other transports) are skipped, unknown fields too.
"""

import enum
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from shoal.transport.multiaddrs import address_bytes, address_of_bytes, peer_bytes, peer_of_bytes
from shoal.transport.port import Address, PeerId
from shoal.transport.protobuf import bytes_field, number_field, read_fields, read_varint, varint
from shoal.transport.wire import Malformed

from .contacts import CONTACT_ADDRESSES_MAX, Contact
from .keys import KEY_BYTES_MAX

PROTOCOL: Final = "/ipfs/kad/1.0.0"
MESSAGE_BYTES_MAX: Final = 65_536  # py-libp2p allows 4 MiB; an answer of 20 peers with signed addresses has 20 KB
LENGTH_BYTES_MAX: Final = 3  # that a length up to it may take
CONTACTS_MAX: Final = 20  # k of libp2p's networks
PROVIDERS_MAX: Final = 32
SENDER_RECORD_BYTES_MAX: Final = 4096
CONTACT_BYTES_MAX: Final = 4096  # py-libp2p's, with a signed record, have about 1 KB
CONTACTS_REMEMBERED: Final = 1024  # as bytes and as values: the same few stand in most messages
_FIELDS_MAX: Final = 256
_PEER_FIELDS_MAX: Final = 64
_TYPE, _KEY, _RECORD, _CLOSER, _PROVIDERS, _SENDER = 1, 2, 3, 8, 9, 11
_RECORD_KEY, _RECORD_VALUE = 1, 2
_PEER_ID, _PEER_ADDRESS, _PEER_CONNECTION = 1, 2, 3
_CAN_CONNECT: Final = 2


class MessageKind(enum.IntEnum):
    """What is asked. The numbers are on the wire."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


_KINDS: Final = frozenset(int(kind) for kind in MessageKind)


@dataclass(frozen=True, slots=True)
class KadMessage:
    """A question or an answer."""

    kind: MessageKind
    key: bytes = b""
    value: bytes | None = None  # of the record under `key`
    closer: tuple[Contact, ...] = ()
    providers: tuple[Contact, ...] = ()
    sender_record: bytes = b""  # `peer_records`: where the sender listens


def encode_message(message: KadMessage) -> bytes:
    """The message behind its length."""
    body = number_field(_TYPE, message.kind)
    if message.key:
        body += bytes_field(_KEY, message.key)
    if message.value is not None:
        record = bytes_field(_RECORD_KEY, message.key) + bytes_field(_RECORD_VALUE, message.value)
        body += bytes_field(_RECORD, record)
    body += b"".join(bytes_field(_CLOSER, _contact_bytes(contact)) for contact in message.closer)
    body += b"".join(bytes_field(_PROVIDERS, _contact_bytes(contact)) for contact in message.providers)
    if message.sender_record:
        body += bytes_field(_SENDER, message.sender_record)
    return varint(len(body)) + body


def decode_length(data: bytes) -> tuple[int, int] | Malformed | None:
    """The length that begins a message and where the message begins; None if more bytes are needed to know it."""
    length = read_varint(data[:LENGTH_BYTES_MAX], 0)
    if length is None:
        if len(data) < LENGTH_BYTES_MAX:
            return None
        return Malformed(f"a length of more than {LENGTH_BYTES_MAX} bytes")
    if length[0] > MESSAGE_BYTES_MAX:
        return Malformed(f"a message of {length[0]} bytes; {MESSAGE_BYTES_MAX} are allowed")
    return length


def decode_message(data: bytes) -> KadMessage | Malformed:
    """What `data`, a message without its length, says."""
    if len(data) > MESSAGE_BYTES_MAX:
        return Malformed(f"a message of {len(data)} bytes; {MESSAGE_BYTES_MAX} are allowed")
    fields = read_fields(data, _FIELDS_MAX)
    if fields is None:
        return Malformed(f"no Protocol Buffer of at most {_FIELDS_MAX} fields")
    last = dict(fields)
    kind = last.get(_TYPE, 0)
    key = last.get(_KEY, b"")
    sender_record = last.get(_SENDER, b"")
    if not isinstance(kind, int) or kind not in _KINDS:
        return Malformed(f"a message of kind {kind!r}"[:80])
    if not isinstance(key, bytes) or len(key) > KEY_BYTES_MAX:
        return Malformed(f"a key that is not up to {KEY_BYTES_MAX} bytes")
    if not isinstance(sender_record, bytes) or len(sender_record) > SENDER_RECORD_BYTES_MAX:
        sender_record = b""
    value = _record_value(last.get(_RECORD), key)
    if isinstance(value, Malformed):
        return value
    return KadMessage(
        MessageKind(kind),
        key,
        value,
        _contacts([value for field, value in fields if field == _CLOSER], CONTACTS_MAX),
        _contacts([value for field, value in fields if field == _PROVIDERS], PROVIDERS_MAX),
        sender_record,
    )


def _record_value(data: int | bytes | None, key: bytes) -> bytes | Malformed | None:
    if data is None or not isinstance(data, bytes):
        return None
    fields = read_fields(data, _PEER_FIELDS_MAX)
    if fields is None:
        return Malformed("a record that is no Protocol Buffer")
    last = dict(fields)
    value = last.get(_RECORD_VALUE, b"")
    if last.get(_RECORD_KEY) != key or not isinstance(value, bytes):
        return Malformed("a record under another key than its message's")
    return value


@lru_cache(maxsize=CONTACTS_REMEMBERED)
def _contact_bytes(contact: Contact) -> bytes:
    addresses = [address_bytes(address) for address in contact.addresses[:CONTACT_ADDRESSES_MAX]]
    data = bytes_field(_PEER_ID, peer_bytes(contact.peer))
    data += b"".join(bytes_field(_PEER_ADDRESS, address) for address in addresses if address is not None)
    return data + number_field(_PEER_CONNECTION, _CAN_CONNECT)


def _contacts(items: list[int | bytes], count_max: int) -> tuple[Contact, ...]:
    """The peers that can be read, each once."""
    contacts: dict[PeerId, Contact] = {}
    for data in items[:count_max]:
        contact = _contact(data) if isinstance(data, bytes) and len(data) <= CONTACT_BYTES_MAX else None
        if contact is not None:
            contacts.setdefault(contact.peer, contact)
    return tuple(contacts.values())


@lru_cache(maxsize=CONTACTS_REMEMBERED)
def _contact(data: bytes) -> Contact | None:
    fields = read_fields(data, _PEER_FIELDS_MAX)
    if fields is None:
        return None
    identity = dict(fields).get(_PEER_ID)
    peer = peer_of_bytes(identity) if isinstance(identity, bytes) else None
    if peer is None:
        return None
    addresses: dict[Address, None] = {}
    for field, value in fields:
        if field == _PEER_ADDRESS and isinstance(value, bytes) and len(addresses) < CONTACT_ADDRESSES_MAX:
            address = address_of_bytes(value, peer)
            if address is not None:
                addresses[address] = None
    return Contact(peer, tuple(addresses))
