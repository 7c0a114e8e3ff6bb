"""Peer ids and addresses as bytes, the way libp2p's messages carry them (multiformats specs: multihash, multiaddr).

What a malicious peer may send: any bytes. What it achieves: None, which says that there is nothing to dial. Read is
what `addresses.parse_endpoint` allows: IP addresses and DNS names with a TCP port, directly or through a relay.
"""

import ipaddress
from functools import lru_cache
from typing import Final

from .addresses import parse_endpoint
from .identity import peer_id_of, public_key_of
from .port import Address, PeerId
from .protobuf import read_varint, varint
from .wire import ADDRESS_CHARS_MAX, Malformed

PARSED_MAX: Final = 4096  # ids and addresses remembered, each; memory: about 0.5 KB apiece
_ID_PREFIX: Final = bytes.fromhex("002408011220")  # multihash "identity", 36 bytes: the protobuf of an Ed25519 key
_TCP: Final = 6
_P2P: Final = 421
_CIRCUIT: Final = 290
_HOSTS: Final = {"ip4": 4, "ip6": 41, "dns": 53, "dns4": 54, "dns6": 55}
_HOST_KINDS: Final = {code: kind for kind, code in _HOSTS.items()}
_IP_BYTES: Final = {"ip4": 4, "ip6": 16}


@lru_cache(maxsize=PARSED_MAX)
def peer_bytes(peer: PeerId) -> bytes:
    """The 38 bytes of an Ed25519 peer id."""
    key = public_key_of(peer)
    assert key is not None, f"{peer!r} is no id of an Ed25519 key"
    return _ID_PREFIX + key


def peer_of_bytes(data: bytes) -> PeerId | None:
    """The peer whose id these bytes are; None if it is not the id of an Ed25519 key."""
    if len(data) != len(_ID_PREFIX) + 32 or not data.startswith(_ID_PREFIX):
        return None
    return _peer_of_key(data[len(_ID_PREFIX) :])


_peer_of_key = lru_cache(maxsize=PARSED_MAX)(peer_id_of)


@lru_cache(maxsize=PARSED_MAX)
def address_bytes(address: Address) -> bytes | None:
    """An address without the id of the peer it leads to, which stands beside it in all messages; None: it is none."""
    endpoint = parse_endpoint(address)
    if isinstance(endpoint, Malformed):
        return None
    data = varint(_HOSTS[endpoint.kind])
    if endpoint.kind in _IP_BYTES:
        data += ipaddress.ip_address(endpoint.host).packed
    else:
        name = endpoint.host.encode("ascii")
        data += varint(len(name)) + name
    data += varint(_TCP) + endpoint.port.to_bytes(2, "big")
    if endpoint.relay is not None:
        data += varint(_P2P) + varint(len(_ID_PREFIX) + 32) + peer_bytes(endpoint.relay) + varint(_CIRCUIT)
    return data


def address_of_bytes(data: bytes, peer: PeerId) -> Address | None:
    """The address of `peer` that these bytes are; None if they are none that can be dialed, or lead to another peer."""
    return _address_of(data, peer) if len(data) <= ADDRESS_CHARS_MAX else None  # longer ones are not remembered either


@lru_cache(maxsize=PARSED_MAX)
def _address_of(data: bytes, peer: PeerId) -> Address | None:
    text = _text(data)
    if text is None:
        return None
    endpoint = parse_endpoint(text)
    if isinstance(endpoint, Malformed):
        if not text.endswith("/p2p-circuit"):
            return None
        endpoint = parse_endpoint(f"{text}/p2p/{peer}")
        return None if isinstance(endpoint, Malformed) else endpoint.address
    if endpoint.peer not in (None, peer):
        return None
    named = parse_endpoint(text if endpoint.peer == peer else f"{text}/p2p/{peer}")
    return None if isinstance(named, Malformed) else named.address


def _text(data: bytes) -> str | None:
    """A multiaddr as text, of the protocols known here."""
    parts: list[str] = []
    at = 0
    while at < len(data):
        head = read_varint(data, at)
        if head is None:
            return None
        code, at = head
        if code == _CIRCUIT:
            parts.append("p2p-circuit")
            continue
        kind = _HOST_KINDS.get(code)
        size = _size(data, at, code, kind)
        if size is None or size[1] + size[0] > len(data):
            return None
        value, at = data[size[1] : size[1] + size[0]], size[1] + size[0]
        text = _value(code, kind, value)
        if text is None:
            return None
        parts.append(text)
    return "/" + "/".join(parts)


def _size(data: bytes, at: int, code: int, kind: str | None) -> tuple[int, int] | None:
    """How long a part's value is and where it begins."""
    if kind in _IP_BYTES:
        return _IP_BYTES[kind], at
    if code == _TCP:
        return 2, at
    return read_varint(data, at) if code == _P2P or kind is not None else None


def _value(code: int, kind: str | None, value: bytes) -> str | None:
    if code == _TCP:
        return f"tcp/{int.from_bytes(value, 'big')}"
    if code == _P2P:
        peer = peer_of_bytes(value)
        return None if peer is None else f"p2p/{peer}"
    if kind in _IP_BYTES:
        return f"{kind}/{ipaddress.ip_address(value)}"
    return f"{kind}/{value.decode('ascii')}" if value.isascii() else None
