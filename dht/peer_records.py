"""Where the sender of a message listens: libp2p's signed peer record (RFC 0002 and 0003 of the libp2p specs).

Without it a node that was dialed knows a peer by the port it came from, and nobody could be sent there. Written here
with a signature, since others store and pass it on; read without checking one, because only what a peer says of itself
is read, over the connection that proves who it is.

What a malicious peer may send: any bytes. What it achieves: that no address of it is known, or wrong ones, of itself.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from shoal.transport.envelope import Signer
from shoal.transport.identity import public_key_of
from shoal.transport.multiaddrs import address_bytes, address_of_bytes, peer_bytes, peer_of_bytes
from shoal.transport.port import Address, PeerId
from shoal.transport.protobuf import bytes_field, number_field, read_fields, varint

from .contacts import CONTACT_ADDRESSES_MAX

RECORDS_REMEMBERED: Final = 512  # a peer sends the same one with each message; memory: up to 6 KB each
_DOMAIN: Final = b"libp2p-peer-record"
_PAYLOAD_TYPE: Final = b"\x03\x01"
_KEY_PREFIX: Final = bytes.fromhex("08011220")  # of the protobuf of an Ed25519 key
_FIELDS_MAX: Final = 64
_KEY, _TYPE, _PAYLOAD, _SIGNATURE = 1, 2, 3, 5
_PEER, _SEQUENCE, _ADDRESS = 1, 2, 3
_MULTIADDR: Final = 1


def seal_addresses(signer: Signer, addresses: Iterable[Address], sequence: int) -> bytes:
    """The record that `signer` listens at `addresses`.

    Args:
        sequence: the Unix time in nanoseconds, as libp2p's nodes have it: of two records the later counts.
    """
    public_key = public_key_of(signer.peer_id)
    assert public_key is not None
    payload = bytes_field(_PEER, peer_bytes(signer.peer_id)) + number_field(_SEQUENCE, sequence)
    for address in tuple(addresses)[:CONTACT_ADDRESSES_MAX]:
        data = address_bytes(address)
        if data is not None:
            payload += bytes_field(_ADDRESS, bytes_field(_MULTIADDR, data))
    unsigned = b"".join(varint(len(part)) + part for part in (_DOMAIN, _PAYLOAD_TYPE, payload))
    return (
        bytes_field(_KEY, _KEY_PREFIX + public_key)
        + bytes_field(_TYPE, _PAYLOAD_TYPE)
        + bytes_field(_PAYLOAD, payload)
        + bytes_field(_SIGNATURE, signer.sign(unsigned))
    )


@lru_cache(maxsize=RECORDS_REMEMBERED)
def addresses_in(record: bytes, sender: PeerId) -> tuple[Address, ...]:
    """Where `sender`, who sent this record of itself, listens; nothing if the record is unreadable or another's."""
    envelope = read_fields(record, _FIELDS_MAX)
    payload = None if envelope is None else dict(envelope).get(_PAYLOAD)
    fields = read_fields(payload, _FIELDS_MAX) if isinstance(payload, bytes) else None
    if fields is None:
        return ()
    peer = dict(fields).get(_PEER)
    if not isinstance(peer, bytes) or peer_of_bytes(peer) != sender:
        return ()
    addresses: dict[Address, None] = {}
    for field, value in fields:
        info = read_fields(value, _FIELDS_MAX) if field == _ADDRESS and isinstance(value, bytes) else None
        data = None if info is None else dict(info).get(_MULTIADDR)
        address = address_of_bytes(data, sender) if isinstance(data, bytes) else None
        if address is not None and len(addresses) < CONTACT_ADDRESSES_MAX:
            addresses[address] = None
    return tuple(addresses)
